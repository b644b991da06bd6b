"""What `auto` comes to, and the arithmetic behind it, for a 7B Llama."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig
from worlds import HARDWARE, RECIPE

from amberline.hub.model_names import ModelError
from amberline.model.estimates import training_flops
from amberline.model.sizes import sizes_of
from amberline.objectives.settings import Training
from amberline.recipe.hardware import Hardware
from amberline.training import scoring
from amberline.training.autotune import Choices, Load, choose
from amberline.training.ranks import Ranks
from amberline.training.speed import peak_flops

AMBER = sizes_of(LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32))
CHAT, SFT, DPO = (RECIPE.training(name) for name in ("amberchat", "ambersafe-sft", "ambersafe"))
# On eight processes: steps of 128 conversations and of 32 pairs.
CONVERSATIONS, PAIRS = Load(20_000, 2048), Load(1_100, 512)
AUTO = RECIPE.hardware("train", "amberchat")


def on_gpus(
    monkeypatch: pytest.MonkeyPatch,
    gib: float,
    count: int,
    settings: Training,
    load: Load,
    nodes: int = 1,
    **changes: object,
) -> Choices:
    properties = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    hardware = Hardware(**(AUTO.model_dump() | changes))
    return choose(hardware, settings, AMBER, Ranks(0, count, torch.device("cuda", 0), nodes), load)


def test_parameters_of_amber() -> None:
    assert (AMBER.parameters, AMBER.in_products) == (6_738_415_616, 6_607_077_376)


@pytest.mark.parametrize(("length", "gflops"), [(512, 40.05), (2048, 41.25), (4096, 42.86)])
def test_operations_of_a_token(length: int, gflops: float) -> None:
    assert training_flops(AMBER, [length]) / length == pytest.approx(gflops * 1e9, rel=2e-4)


def test_operations_of_documents_do_not_reach_across_them() -> None:
    assert training_flops(AMBER, [512, 512]) == 2 * training_flops(AMBER, [512])


def test_the_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu"), "float32", False) is None


def layout(chosen: Choices) -> tuple[str, bool, str]:
    return chosen.activation_checkpointing, chosen.reshard_after_forward, chosen.accumulated


def test_published_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """On eight A100 of 80 GB nothing has to be recomputed or gathered anew. A step of pairs is one micro-batch, for
    which no gradients wait, and no more room is asked for than its tokens take."""
    chat = on_gpus(monkeypatch, 79.2, 8, CHAT, CONVERSATIONS)
    assert layout(chat) == ("none", False, "whole")
    assert 4096 <= chat.micro_batch_tokens <= 8192
    for settings in (SFT, DPO):
        pairs = on_gpus(monkeypatch, 79.2, 8, settings, PAIRS)
        assert layout(pairs) == ("none", False, "nothing")
        assert pairs.micro_batch_tokens == 1280
        assert pairs.attention == "efficient"
    assert any("up to 20,000 tokens, and 71 GiB of its memory can be used" in note for note in chat.notes)


def test_gradients_are_reduced_each_time_where_they_do_not_fit_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight A100 of 40 GB: micro-batches of a usable size, and said why."""
    chosen = on_gpus(monkeypatch, 39.5, 8, CHAT, CONVERSATIONS)
    assert chosen.accumulated == "shards"
    assert chosen.micro_batch_tokens >= 4096
    assert any(note.startswith("gradients are reduced after each micro-batch, because") for note in chosen.notes)


def test_small_gpus_recompute_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_gpus(monkeypatch, 23.6, 8, CHAT, CONVERSATIONS).activation_checkpointing == "full"


def test_two_nodes_shard_over_one_and_replicate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only gradients go between nodes. A node's processes have the same layout as if there were no other node."""
    chosen = on_gpus(monkeypatch, 79.2, 16, CHAT, CONVERSATIONS, nodes=2)
    assert chosen.shards == 8
    assert any("over the 8 processes of a node and replicated on 2 nodes, because" in note for note in chosen.notes)
    one = on_gpus(monkeypatch, 79.2, 8, CHAT, CONVERSATIONS)
    assert layout(chosen) == layout(one)
    assert not any("nodes" in note for note in one.notes)


@pytest.mark.parametrize(
    ("gib", "count", "nodes", "why"),
    [(16, 16, 2, "sharded over a node they leave too little room"), (79.2, 4, 4, "a node has one")],
)
def test_nodes_that_have_too_little_room_share_one_copy(
    gib: float, count: int, nodes: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = on_gpus(monkeypatch, gib, count, CHAT, CONVERSATIONS, nodes=nodes)
    assert chosen.shards == count
    assert any(note == f"parameters: sharded over all {count} processes, because {why}" for note in chosen.notes)


@pytest.mark.parametrize(("gib", "count", "least"), [(79.2, 1, 2), (39.5, 2, 4), (14, 8, 11)])
def test_what_cannot_fit_is_refused_with_the_gpus_that_it_takes(
    gib: float, count: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=rf"needs at least \d+ GiB .*are {count}\).* Fix: train on {least} of them"):
        on_gpus(monkeypatch, gib, count, CHAT, CONVERSATIONS)
    assert on_gpus(monkeypatch, gib, least, CHAT, CONVERSATIONS)


def test_settings_that_cannot_fit_are_refused_where_auto_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"Fix: set micro_batch_tokens, .* under hardware to auto"):
        on_gpus(monkeypatch, 79.2, 8, CHAT, CONVERSATIONS, micro_batch_tokens=16384, activation_checkpointing="none")


@pytest.mark.parametrize(("level", "compiled"), [("none", True), ("selective", False), ("full", False)])
def test_compile_is_never_lost_without_a_word(level: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"attention": "sdpa", "activation_checkpointing": level, "compile": True}
    chosen = on_gpus(monkeypatch, 79.2, 8, CHAT, CONVERSATIONS, **asked)
    assert chosen.compile == compiled
    assert compiled != any(note.startswith("compile: off, because") for note in chosen.notes)


def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"micro_batch_tokens": 777, "activation_checkpointing": "full", "reshard_after_forward": False}
    chosen = on_gpus(monkeypatch, 44, 8, CHAT, CONVERSATIONS, **asked)
    assert (chosen.micro_batch_tokens, chosen.activation_checkpointing, chosen.reshard_after_forward) == (
        777,
        "full",
        False,
    )
    assert sum("because the hardware settings say so" in note for note in chosen.notes) == 3


def test_cpu() -> None:
    hardware = Hardware(**(HARDWARE | {"micro_batch_tokens": "auto", "activation_checkpointing": "auto"}))
    chosen = choose(hardware, CHAT, AMBER, Ranks(0, 2, torch.device("cpu")), CONVERSATIONS)
    assert (chosen.micro_batch_tokens, chosen.activation_checkpointing) == (4096, "none")
    assert chosen.notes[0].startswith("attention: sdpa, because on the CPU")


@pytest.mark.parametrize(
    ("gib", "count", "nodes", "layout"),
    [
        (79.2, 8, 1, (8, False, 16384)),
        (39.5, 8, 1, (8, False, 16384)),
        (23.6, 8, 1, (8, True, 16384)),
        (39.5, 1, 1, (1, False, 16384)),
        (39.5, 16, 2, (8, False, 16384)),
        (8, 16, 4, (16, True, 4096)),
    ],
)
def test_scoring_keeps_parameters_gathered_where_there_is_room(
    gib: float, count: int, nodes: int, layout: tuple[int, bool, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=gib * 2**30))
    ranks = Ranks(0, count, torch.device("cuda", 0), nodes)
    assert scoring._layout(RECIPE.hardware("score_reference"), AMBER, 4, ranks) == layout


def test_a_model_that_has_no_room_to_be_scored_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=23.6 * 2**30))
    with pytest.raises(ModelError, match=r"needs \d+ GiB .* 21 GiB can be used. Fix: use more GPUs"):
        scoring._layout(RECIPE.hardware("score_reference"), AMBER, 4, Ranks(0, 1, torch.device("cuda", 0)))
