"""What `auto` comes to, and the arithmetic behind it, for a 7B Llama."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig
from worlds import HARDWARE, RECIPE

from amberline.model.estimates import parameters, training_flops
from amberline.objectives.settings import Training
from amberline.recipe.hardware import Hardware
from amberline.training.autotune import Choices, choose, state_bytes
from amberline.training.ranks import Ranks
from amberline.training.speed import peak_flops

AMBER = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
CHAT, SFT = RECIPE.training("amberchat"), RECIPE.training("ambersafe-sft")
AUTO = RECIPE.hardware("train", "amberchat")


def on_gpus(monkeypatch: pytest.MonkeyPatch, gib: float, count: int, settings: Training, **changes: object) -> Choices:
    properties = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    hardware = Hardware(**(AUTO.model_dump() | changes))
    return choose(hardware, settings, AMBER, Ranks(0, count, torch.device("cuda", 0)))


def test_parameters_of_amber() -> None:
    assert parameters(AMBER) == (6_738_415_616, 6_607_077_376)


@pytest.mark.parametrize(("length", "gflops"), [(512, 40.05), (2048, 41.25), (4096, 42.86)])
def test_operations_of_a_token(length: int, gflops: float) -> None:
    assert training_flops(AMBER, [length]) / length == pytest.approx(gflops * 1e9, rel=2e-4)


def test_operations_of_documents_do_not_reach_across_them() -> None:
    assert training_flops(AMBER, [512, 512]) == 2 * training_flops(AMBER, [512])


def test_the_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu"), "float32", False) is None


def test_memory_of_a_sharded_run() -> None:
    """16 bytes a parameter for AdamW, 12 for RMSprop, shared by the processes."""
    assert state_bytes(CHAT, AMBER, 1, reshard=True) == 16 * parameters(AMBER)[0]
    assert state_bytes(SFT, AMBER, 1, reshard=True) == 12 * parameters(AMBER)[0]


def test_published_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight A100 of 80 GB: bfloat16 leaves room to keep all; float32 has to recompute and to gather anew."""
    chat = on_gpus(monkeypatch, 79.2, 8, CHAT)
    assert (chat.activation_checkpointing, chat.reshard_after_forward) == ("none", False)
    assert chat.micro_batch_tokens >= 4096
    sft = on_gpus(monkeypatch, 79.2, 8, SFT)
    assert (sft.activation_checkpointing, sft.reshard_after_forward) == ("selective", True)
    assert any(note.startswith("micro_batch_tokens: ") and "GiB a GPU are left" in note for note in sft.notes)


def test_small_gpus_recompute_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_gpus(monkeypatch, 44, 8, CHAT).activation_checkpointing == "full"


def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"micro_batch_tokens": 777, "activation_checkpointing": "full", "reshard_after_forward": False}
    chosen = on_gpus(monkeypatch, 44, 8, CHAT, **asked)
    assert (chosen.micro_batch_tokens, chosen.activation_checkpointing, chosen.reshard_after_forward) == (
        777,
        "full",
        False,
    )
    assert sum("because the hardware settings say so" in note for note in chosen.notes) == 3


def test_cpu() -> None:
    hardware = Hardware(**(HARDWARE | {"micro_batch_tokens": "auto", "activation_checkpointing": "auto"}))
    chosen = choose(hardware, CHAT, AMBER, Ranks(0, 2, torch.device("cpu")))
    assert (chosen.micro_batch_tokens, chosen.activation_checkpointing) == (4096, "none")
    assert chosen.notes[0].startswith("attention: sdpa, because on the CPU")
