"""The memory that a training says it will take at its peak is what a process of its own then takes."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from alone import ALONE
from transformers import LlamaConfig, LlamaForCausalLM
from worlds import CHAT, HARDWARE, PREFERRED

from amberline.model.files import read_config
from amberline.model.forward import token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.settings.hardware import Hardware
from amberline.settings.training import ChatTraining, PreferredTraining
from amberline.training.choices import choose, expected_peak
from amberline.training.optimizers import make_optimizer

LENGTH = 512  # tokens of a document, all of them targets but the first


def two_steps(folder: Path, level: str, documents: int, log_probabilities: bool) -> tuple[float, int]:
    """Expected and measured peak in bytes of two optimizer steps of one micro-batch each."""
    torch.set_num_threads(2)
    settings = PreferredTraining(**PREFERRED) if log_probabilities else ChatTraining(**CHAT)
    config = read_config(folder)
    choices = choose(Hardware(**(HARDWARE | {"activation_checkpointing": level})), settings, config, ALONE)
    tokens = documents * LENGTH
    expected = expected_peak(
        choices, settings, config, ALONE, tokens=tokens, softmaxes=tokens if log_probabilities else 0
    )
    model = load_model(folder, device="cpu", activation_checkpointing=choices.activation_checkpointing)
    optimizer = make_optimizer(model, settings.optimizer)
    ids = torch.arange(LENGTH)
    batch = pack([(ids, ids, 1 / tokens)] * documents)
    for _ in range(2):
        loss = -token_logps(model, batch).mean() if log_probabilities else weighted_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    # Not getrusage: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return expected, int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


@pytest.mark.parametrize(
    ("level", "documents", "log_probabilities"),
    [("none", 6, False), ("none", 3, False), ("full", 6, False), ("none", 3, True)],
)
def test_within_a_fifth_of_the_measured_peak(
    level: str, documents: int, log_probabilities: bool, tmp_path: Path
) -> None:
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with multiprocessing.get_context("spawn").Pool(1) as process:
        expected, measured = process.apply(two_steps, (tmp_path, level, documents, log_probabilities))
    # What is there before the model is loaded, about 0.4 GB, is no prediction.
    assert measured > 0.7e9
    assert expected == pytest.approx(measured, rel=0.2)
