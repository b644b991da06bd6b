"""Rules on the curve."""

from pathlib import Path
from typing import Any

import pytest
from alone import train_alone
from worlds import DPO as DPO_RECIPE
from worlds import World, changed

from amberline.data.tokens import open_tokens
from amberline.objectives.dpo import DPO, DPOSettings
from amberline.objectives.settings import Monitors, PreferenceMonitors
from amberline.training import monitors
from amberline.training.monitors import WINDOW, Monitor, TrainingStopped, is_sound


def watch(**settings: Any) -> Monitor:
    kind = PreferenceMonitors if "reward_accuracy" in settings else Monitors
    return Monitor(kind(**({"action": "warn", "loss_spike": None} | settings)))


def test_a_loss_spike_is_told_once() -> None:
    watching = watch(loss_spike=3.0)
    for _ in range(WINDOW):
        assert watching.judge({"loss": 2.0}) == []
    assert watching.judge({"loss": 5.9}) == []
    (sentence,) = watching.judge({"loss": 6.1})
    assert sentence == "the loss is 6.1, more than 3 times the usual 2"
    assert watching.judge({"loss": 6.2}) == []
    assert watching.judge({"loss": 2.0}) == []
    assert len(watching.judge({"loss": 6.3})) == 1


def test_nothing_is_judged_before_there_is_a_usual() -> None:
    watching = watch(loss_spike=3.0)
    for _ in range(WINDOW - 1):
        watching.remember({"loss": 1.0})
    assert watching.judge({"loss": 100.0}) == []


def test_collapsing_rewards() -> None:
    watching = watch(reward_accuracy=0.4, reward_margin=0.0)
    for _ in range(WINDOW):
        assert watching.judge({"loss": 1.0, "rewards/accuracies": 0.6, "rewards/margins": 0.1}) == []
    told = [
        sentence
        for _ in range(WINDOW)
        for sentence in watching.judge({"loss": 1.0, "rewards/accuracies": 0.1, "rewards/margins": -1.0})
    ]
    assert len(told) == 2
    assert "rewards/margins of the last 50 steps" in told[0]
    assert "rewards/accuracies of the last 50 steps" in told[1]


def test_rules_that_are_off() -> None:
    watching = watch(reward_accuracy=None, reward_margin=None)
    for _ in range(2 * WINDOW):
        assert watching.judge({"loss": 1e9, "rewards/accuracies": 0.0, "rewards/margins": -9.0}) == []


def test_soundness() -> None:
    assert is_sound(1.0, 2.0)
    assert not is_sound(float("nan"), 2.0)
    assert not is_sound(1.0, float("inf"))


def test_a_rule_can_stop_the_run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "WINDOW", 3)
    rules = {"action": "stop", "loss_spike": None, "reward_accuracy": 0.0, "reward_margin": 100.0}
    settings = DPOSettings(**changed(DPO_RECIPE, monitors=rules))
    objective = DPO(settings, open_tokens(world.pairs), open_tokens(world.reference))
    with pytest.raises(TrainingStopped, match=r"step 4: mean rewards/margins .* below 100; stopped, because"):
        train_alone(tmp_path, world.model, objective, settings)


def test_a_rule_can_warn(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitors, "WINDOW", 3)
    rules = {"action": "warn", "loss_spike": None, "reward_accuracy": None, "reward_margin": 100.0}
    settings = DPOSettings(**changed(DPO_RECIPE, monitors=rules))
    objective = DPO(settings, open_tokens(world.pairs), open_tokens(world.reference))
    lines, _ = train_alone(tmp_path, world.model, objective, settings)
    assert len(lines) == 10
    assert capsys.readouterr().err.count("WARNING: step 4: mean rewards/margins") == 1
