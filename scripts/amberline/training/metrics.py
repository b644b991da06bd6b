"""The curve of a run: a JSON line a step, and the same for TensorBoard and Weights & Biases.

`metrics.jsonl` holds what is determined by the run, so that an interrupted run's file equals that of an uninterrupted
one, bit for bit; `timings.jsonl` beside it holds what the machine makes of it.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from amberline.core.files import whole_file
from amberline.core.progress import progress
from amberline.recipe.tracking import Tracking
from amberline.training.curve import Line, read_metrics


class Metrics:
    """Writes the curve; on the first process only."""

    def __init__(self, folder: Path, name: str, tracking: Tracking, start: int, steps: int) -> None:
        """Continue the curve in `folder` after `start` steps: what an interrupted run wrote beyond that is cut off."""
        self.history = _cut(folder / "metrics.jsonl", start)
        _cut(folder / "timings.jsonl", start)
        self._metrics = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._timings = open(folder / "timings.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self._wandb = _start_wandb(folder, name, tracking)
        self._bar = progress(total=steps, initial=start, unit="step", desc=name, dynamic_ncols=True)

    def training(self, metrics: Line, timing: Line) -> None:
        """A training step."""
        _append(self._metrics, metrics)
        _append(self._timings, timing)
        self._track({f"train/{key}": value for key, value in (metrics | timing).items()}, metrics["step"])
        self._bar.set_postfix({key: f"{metrics[key]:.4g}" for key in ("loss", "rewards/margins") if key in metrics})
        self._bar.update()

    def heldout(self, metrics: Line) -> None:
        """An evaluation on held-out examples."""
        _append(self._metrics, metrics)
        self._track(metrics, metrics["step"])
        tqdm.write(f"step {metrics['step']}: held-out loss {metrics['heldout/loss']:.4f}", file=sys.stderr)

    def warn(self, sentence: str) -> None:
        """Something that a person should look at."""
        tqdm.write(f"WARNING: {sentence}", file=sys.stderr)

    def sync(self) -> None:
        """Have the disk hold what was written, before a checkpoint relies on it."""
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """End the files."""
        self.sync()
        self._bar.close()
        self._metrics.close()
        self._timings.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _track(self, values: Mapping[str, Any], step: int) -> None:
        numbers = {name: value for name, value in values.items() if name not in {"step", "train/step"}}
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)


def _cut(path: Path, start: int) -> list[Line]:
    """Keep what was written up to the `start`-th step, and return it. The evaluation after it is done again."""
    kept = [line for line in read_metrics(path) if line["step"] < start + ("heldout/loss" not in line)]
    with whole_file(path) as partial:
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
    return kept


def _append(file: Any, line: Line) -> None:
    file.write(f"{json.dumps(line)}\n")
    file.flush()


def _start_wandb(folder: Path, name: str, tracking: Tracking) -> Any:
    if tracking.wandb_project is None:
        return None
    import wandb

    return wandb.init(
        project=tracking.wandb_project,
        mode=tracking.wandb_mode,
        dir=str(folder),
        name=name,
        id=folder.name,
        resume="allow",
    )
