"""The curve: cut at a resume, for TensorBoard and Weights & Biases too."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amberline.recipe.tracking import Tracking
from amberline.training import trackers
from amberline.training.curve import CurveError, read_metrics
from amberline.training.metrics import Metrics

NOWHERE = Tracking(wandb_project=None, wandb_mode="offline")


def write_curve(folder: Path, tracking: Tracking, start: int, end: int) -> None:
    metrics = Metrics(folder, "sft", tracking, start, 10)
    for step in range(start, end):
        if step % 2 == 0:
            metrics.heldout({"step": step, "heldout/loss": 0.5 * step})
        metrics.training({"step": step + 1, "loss": 1.0 / (step + 1)}, {"step": step + 1, "seconds": 0.1})
    metrics.close()


def test_a_resumed_curve_is_that_of_one_go(tmp_path: Path) -> None:
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    write_curve(tmp_path / "whole", NOWHERE, 0, 10)
    write_curve(tmp_path / "parts", NOWHERE, 0, 7)
    write_curve(tmp_path / "parts", NOWHERE, 4, 9)
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "lo')  # a kill in the middle of a line
    write_curve(tmp_path / "parts", NOWHERE, 8, 10)
    for name in ("metrics.jsonl", "timings.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("damage", [b'{"step": 10, "lo\n', b"\0\0\0\0\n", b"\xff\xfe\n", b"7\n", b"{}\n\n"])
def test_a_line_that_is_damaged_ends_the_curve(damage: bytes, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """As a power loss leaves it; what was written up to the checkpoint is whole."""
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    write_curve(tmp_path / "whole", NOWHERE, 0, 10)
    write_curve(tmp_path / "parts", NOWHERE, 0, 9)
    for name in ("metrics.jsonl", "timings.jsonl"):
        with open(tmp_path / "parts" / name, "ab") as file:
            file.write(damage)
    write_curve(tmp_path / "parts", NOWHERE, 8, 10)
    for name in ("metrics.jsonl", "timings.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "metrics.jsonl: line 15 is damaged; what was written after step 8 is done again" in capfd.readouterr().err


def test_a_curve_that_has_lost_steps_is_refused(tmp_path: Path) -> None:
    write_curve(tmp_path, NOWHERE, 0, 9)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join([*lines[:5], b"\0\n", *lines[6:]]))
    with pytest.raises(CurveError, match=r"metrics.jsonl: step 4 is missing, as the file is damaged from line 6 on"):
        write_curve(tmp_path, NOWHERE, 8, 10)
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[6:] == lines[6:]


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    write_curve(tmp_path, NOWHERE, 0, 7)
    write_curve(tmp_path, NOWHERE, 4, 10)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = events.Scalars("train/loss")
    assert [scalar.step for scalar in scalars] == list(range(1, 11))
    assert [scalar.value for scalar in scalars] == pytest.approx([1 / step for step in range(1, 11)])


def test_no_curve(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "nothing") == []


def test_weights_and_biases_without_network_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Nobody listens on this port of the machine itself."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(trackers, "SECONDS", 0.5)
    folder = tmp_path / "sft-0123456789abcdef"
    folder.mkdir()
    write_curve(folder, Tracking(wandb_project="amberline", wandb_mode="online"), 0, 3)
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert "Weights & Biases cannot be used online (" in sentence
    assert f"To send it later: wandb sync {folder}/wandb/offline-run-*" in sentence
    assert list(folder.glob("wandb/offline-run-*"))
    assert len(read_metrics(folder / "metrics.jsonl")) == 5


class Failing:
    """A wandb whose every part may fail."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def act(*_: object, **__: object) -> "Failing":
            self.calls.append(name)
            if name == self.part:
                raise OSError(28, "No space left on device")
            return self

        return act


@pytest.mark.parametrize(("part", "calls"), [("init", 1), ("log", 1), ("finish", 5)])
def test_a_tracker_that_fails_is_left_out_after_one_warning(
    part: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    wandb = Failing(part)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    write_curve(tmp_path, Tracking(wandb_project="amberline", wandb_mode="offline"), 0, 3)
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert "Weights & Biases fails ([Errno 28] No space left on device) and is left out" in sentence
    assert len([name for name in wandb.calls if name in {part, "log"}]) == calls + (part == "finish")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5


def test_without_wandb_and_without_tensorboard_a_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "tensorboard").write_text("no folder")
    write_curve(tmp_path, Tracking(wandb_project="amberline", wandb_mode="online"), 0, 3)
    said = capfd.readouterr().err
    assert "TensorBoard fails" in said
    assert "Weights & Biases fails (import of wandb halted" in said
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "sft-0123456789abcdef"
    folder.mkdir()
    write_curve(folder, Tracking(wandb_project="amberline", wandb_mode="offline"), 0, 3)
    (file,) = folder.glob("wandb/offline-run-*/run-sft-0123456789abcdef.wandb")
    # A process of its own writes the file, and may still be at it.
    deadline = time.monotonic() + 120
    while not all(name in file.read_bytes() for name in (b"train/loss", b"heldout/loss")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len([json.loads(line) for line in (folder / "metrics.jsonl").open()]) == 5
