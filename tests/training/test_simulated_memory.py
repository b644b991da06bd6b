"""Memory that is predicted for the 6.7B model on GPUs, against the training's own code on tensors without data."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from simulated import simulated_peak
from transformers import LlamaConfig
from worlds import RECIPE

from amberline.model.sizes import sizes_of
from amberline.training.autotune import Choices, allocated_peak
from amberline.training.ranks import Ranks

AMBER = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    max_position_embeddings=2048,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
K = [1024]
# Training, processes (or nodes and processes of each), level, reshard, lengths of documents in a micro-batch,
# micro-batches, and gradients that wait.
AS_AUTO_CHOOSES = ("ambersafe", 8, "none", False, [83] * 8, 1, "nothing")
ROWS: list[tuple[Any, ...]] = [
    ("amberchat", 8, "none", False, K * 4 + [256], 2, "whole"),
    ("amberchat", 16, "none", False, K * 5, 2, "whole"),
    ("amberchat", 8, "selective", False, K * 8, 2, "whole"),
    ("amberchat", 8, "full", False, K * 16, 2, "whole"),
    ("amberchat", 1, "none", False, K * 4, 2, "whole"),
    ("amberchat", 1, "selective", False, K * 8, 2, "whole"),
    ("amberchat", 1, "full", False, K * 16, 2, "whole"),
    ("ambersafe", 8, "selective", True, [83] * 8, 1, "nothing"),
    ("ambersafe", 1, "none", False, [79] * 64, 1, "nothing"),
    # Two nodes of eight, sharded over one: gradients reduced once, and in the node after each micro-batch.
    ("amberchat", (2, 8), "none", False, K * 5, 2, "whole"),
    ("amberchat", (2, 8), "none", True, K * 4, 4, "shards"),
    ("ambersafe", (2, 8), "none", False, [83] * 4, 1, "nothing"),
    # On eight GPUs of 40 GB, and of 24.
    ("amberchat", 8, "none", True, K * 4 + [256], 4, "shards"),
    ("amberchat", 8, "full", True, K * 8, 2, "shards"),
]


def predicted_and_simulated(folder: Path, row: tuple[Any, ...]) -> tuple[float, int]:
    name, processes, level, reshard, lengths, micro_batches, accumulated = row
    nodes, shards = processes if isinstance(processes, tuple) else (1, processes)
    settings = RECIPE.training(name)
    attention: Any = "varlen" if settings.precision == "bfloat16" else "efficient"
    choices = Choices(attention, sum(lengths), level, reshard, shards, accumulated, False, ())
    ranks = Ranks(0, nodes * shards, torch.device("cuda"), nodes)
    predicted = allocated_peak(choices, settings, sizes_of(AMBER), ranks, tokens=sum(lengths), softmaxes=0)
    preferences = name == "ambersafe"
    found = simulated_peak(folder, AMBER, settings, choices, nodes, lengths, micro_batches, preferences=preferences)
    return predicted, found


def check(folder: Path, row: tuple[Any, ...]) -> None:
    # In a process of its own: a process group is one for all of a process.
    with multiprocessing.get_context("spawn").Pool(1) as process:
        predicted, simulated = process.apply(predicted_and_simulated, (folder, row))
    print(f"{row}: simulated {simulated / 2**30:.2f}, predicted {predicted / 2**30:.2f} GiB")
    assert predicted == pytest.approx(simulated, rel=0.05)


def test_memory_of_preference_training_on_eight_gpus(tmp_path: Path) -> None:
    """The layout that `auto` chooses on GPUs of 80 GB (`test_published_hardware`). Tensors without data cannot be read
    by the host, so this also shows that no step waits for the device before its end."""
    check(tmp_path, AS_AUTO_CHOOSES)


@pytest.mark.sweep
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_memory_of_other_layouts(row: tuple[Any, ...], tmp_path: Path) -> None:
    check(tmp_path, row)
