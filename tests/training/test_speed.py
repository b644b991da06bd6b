"""How long a step is said to take."""

from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from transformers import LlamaConfig
from worlds import CHAT, HARDWARE

from amberline.batches.plan import BatchPlan, plan_batches
from amberline.model.estimates import Rates, optimizer_seconds, passes_seconds
from amberline.model.sizes import sizes_of
from amberline.objectives.sft import SFTSettings
from amberline.recipe.hardware import Hardware
from amberline.training import speed
from amberline.training.autotune import Load, choose
from amberline.training.ranks import Ranks

MODEL = sizes_of(
    LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=4)
)
RATES = Rates(1e9, 1e8)


def steps_of_four(examples: int, *, epochs: int, partial_batch: Literal["keep", "drop"]) -> BatchPlan:
    return plan_batches(
        [100] * examples,
        [50] * examples,
        seed=0,
        epochs=epochs,
        global_batch=4,
        partial_batch=partial_batch,
        loss_normalization="token_mean",
        micro_batch_examples=1,
    )


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("partial_batch", "examples"), [("keep", 5 / 2), ("drop", 4)])
def test_average_step(
    partial_batch: Literal["keep", "drop"], examples: float, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five examples in steps of four: one step and a small one, or one alone."""
    monkeypatch.setattr(speed, "measure_rates", lambda *_: RATES)
    settings = SFTSettings(**CHAT)
    plan = steps_of_four(5, epochs=3, partial_batch=partial_batch)
    ranks = Ranks(0, world, torch.device("cpu"))
    choices = choose(Hardware(**HARDWARE), settings, MODEL, ranks, Load(400, 100))
    one = passes_seconds(MODEL, "none", 4, "cpu", RATES, lengths=[100], targets=50)
    update = optimizer_seconds(MODEL, moments=2, shards=world, rates=RATES)
    expected = speed.expected_step_seconds(plan, choices, settings, MODEL, ranks)
    assert expected == pytest.approx(one * examples / world + update)


@pytest.mark.parametrize(
    ("name", "share"),
    [("NVIDIA A100-SXM4-80GB", 0.88), ("NVIDIA H100 80GB HBM3", 0.72), ("NVIDIA H200", 0.77), ("NVIDIA L40S", 0.75)],
)
def test_gpus_reach_a_part_of_the_estimate(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert speed.efficiency(torch.device("cuda")) == share
    assert speed.efficiency(torch.device("cpu")) == 1


def test_the_estimate_is_divided_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_rates", lambda *_: RATES)
    settings = SFTSettings(**CHAT)
    plan = steps_of_four(4, epochs=1, partial_batch="keep")
    ranks = Ranks(0, 1, torch.device("cpu"))
    choices = choose(Hardware(**HARDWARE), settings, MODEL, ranks, Load(400, 100))
    told = []
    for share in (1, 0.5):
        monkeypatch.setattr(speed, "efficiency", lambda _, share=share: share)
        told.append(speed.expected_step_seconds(plan, choices, settings, MODEL, ranks))
    assert told[1] == pytest.approx(2 * told[0])


def test_of_short_steps_no_time_is_told() -> None:
    """What it takes to start their operations is not in the estimate."""
    assert speed.told_time(0.018, 123) == []
    assert speed.told_time(1.5, 40)[0].startswith("time: about 1.5 s a step, 01:00 for the 40 steps left; ")


def test_rates_are_operations_and_bytes_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that moves by a second a look; and the run's own random numbers stay as they were."""
    looks = iter(range(1000))
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: float(next(looks))))
    state = torch.get_rng_state()
    rates = speed.measure_rates(torch.device("cpu"), torch.float32, MODEL, 512)
    assert rates == Rates(2 * 512 * 64 * 172, 2 * 64 * 2**20)
    assert torch.equal(torch.get_rng_state(), state)
