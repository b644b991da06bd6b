"""The memory that a training says it will take: of tensors, what torch allocates; in all, what a process takes."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from alone import ALONE
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM
from worlds import CHAT, HARDWARE, PREFERRED

from amberline.model.files import read_config
from amberline.model.forward import token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.model.sizes import sizes_of
from amberline.objectives.sft import SFTSettings
from amberline.recipe.hardware import Hardware
from amberline.training.autotune import Load, allocated_peak, choose, expected_peak
from amberline.training.optimizers import make_optimizer

LENGTH = 512  # tokens of a document, all of them targets but the first


def two_steps(expect: Callable[..., float], folder: Path, level: str, documents: int, log_probabilities: bool) -> float:
    """Take two optimizer steps of two micro-batches each; the peak in bytes that was expected before."""
    torch.set_num_threads(2)
    settings = SFTSettings(**PREFERRED) if log_probabilities else SFTSettings(**CHAT)
    sizes = sizes_of(read_config(folder))
    tokens = documents * LENGTH
    hardware = Hardware(**(HARDWARE | {"activation_checkpointing": level, "micro_batch_tokens": tokens}))
    choices = choose(hardware, settings, sizes, ALONE, Load(2 * tokens, LENGTH))
    expected = expect(choices, settings, sizes, ALONE, tokens=tokens, softmaxes=tokens if log_probabilities else 0)
    model = load_model(folder, device="cpu", activation_checkpointing=choices.activation_checkpointing)
    optimizer = make_optimizer(model, settings.optimizer)
    ids = torch.arange(LENGTH)
    batch = pack([(ids, ids, 1 / tokens)] * documents)
    for _ in range(2):
        for _ in range(2):
            loss = -token_logps(model, batch).mean() if log_probabilities else weighted_loss(model, batch)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return expected


def resident(*arguments: object) -> tuple[float, int]:
    """Expected and measured peak of this process's resident memory."""
    expected = two_steps(expected_peak, *arguments)  # type: ignore[arg-type]
    # Not getrusage: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return expected, int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def allocated(trace: Path, *arguments: object) -> tuple[float, int]:
    """Expected and measured peak of what is allocated during the steps.

    Measured is the allocator's own running total, which it notes at each event under a lock: the order in which
    events of several threads are listed does not matter.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        expected = two_steps(allocated_peak, *arguments)  # type: ignore[arg-type]
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    totals = [event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]"]
    return expected, max(totals)


def in_a_process(measure: Callable[..., tuple[float, int]], *arguments: object) -> tuple[float, int]:
    """Measure in a process of its own: memory that other tests hold, or give back meanwhile, is not counted."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(measure, arguments)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("level", "documents", "log_probabilities"),
    [("none", 4, False), ("none", 2, False), ("selective", 4, False), ("full", 4, False), ("none", 2, True)],
)
def test_tensors_within_a_tenth_of_what_is_allocated(
    level: str, documents: int, log_probabilities: bool, model_folder: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    expected, measured = in_a_process(allocated, trace, model_folder, level, documents, log_probabilities)
    assert expected == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("level", "documents", "log_probabilities"),
    [("none", 6, False), ("none", 3, False), ("full", 6, False), ("none", 3, True)],
)
def test_process_within_a_fifth_of_its_measured_peak(
    level: str, documents: int, log_probabilities: bool, model_folder: Path
) -> None:
    expected, measured = in_a_process(resident, model_folder, level, documents, log_probabilities)
    # What is there before the model is loaded, about 0.4 GB, is no prediction.
    assert measured > 0.7e9
    assert expected == pytest.approx(measured, rel=0.2)
