"""The curve of a run: a JSON line a step, and the same for TensorBoard and Weights & Biases.

`metrics.jsonl` holds what is determined by the run, so that an interrupted run's file equals that of an uninterrupted
one, on CPUs bit for bit; `timings.jsonl` beside it holds what the machine makes of it.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from amberline.core.files import placed, whole_file
from amberline.core.progress import progress
from amberline.recipe.tracking import Tracking
from amberline.training.curve import Line, check_curve, damaged_line, read_metrics
from amberline.training.trackers import Trackers


class Metrics:
    """Writes the curve; on the first process only."""

    def __init__(self, folder: Path, name: str, tracking: Tracking, start: int, steps: int) -> None:
        """Continue the curve in `folder` after `start` steps: what an interrupted run wrote beyond that is cut off.

        Raises CurveError if one of those steps is missing from it.
        """
        self.failure: OSError | None = None  # why a line could not be written
        _check(folder / "metrics.jsonl", start)
        _cut(folder / "metrics.jsonl", start)
        _cut(folder / "timings.jsonl", start)
        self._metrics = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._timings = open(folder / "timings.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._trackers = Trackers(folder, name, tracking, start)
        self._bar = progress(total=steps, initial=start, unit="step", desc=name, dynamic_ncols=True)

    def training(self, metrics: Line, timing: Line) -> None:
        """A training step."""
        self._append(self._metrics, metrics)
        self._append(self._timings, timing)
        self._track({f"train/{key}": value for key, value in (metrics | timing).items()}, metrics["step"])
        told: dict[str, object] = {key: f"{metrics[key]:.4g}" for key in ("loss", "rewards/margins") if key in metrics}
        self._bar.set_postfix(told, refresh=False)  # lest every step is a line of the log
        self._bar.update()

    def heldout(self, metrics: Line) -> None:
        """An evaluation on held-out examples."""
        self._append(self._metrics, metrics)
        self._track(metrics, metrics["step"])
        tqdm.write(f"step {metrics['step']}: held-out loss {metrics['heldout/loss']:.4f}", file=sys.stderr)

    def warn(self, sentence: str) -> None:
        """Something that a person should look at."""
        tqdm.write(f"WARNING: {sentence}", file=sys.stderr)

    def sync(self) -> None:
        """Have the disk hold what was written, before a checkpoint relies on it. Raises OSError if it does not."""
        if self.failure is not None:
            raise self.failure
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """End the files. What could not be written was told by `sync`."""
        self._bar.close()
        for file in (self._metrics, self._timings):
            with suppress(OSError):
                file.close()
        self._trackers.close()

    def _append(self, file: TextIO, line: Line) -> None:
        """Write a line. What fails is kept for `sync`: the other processes have to hear of it, too."""
        try:
            with placed(Path(file.name)):
                file.write(f"{json.dumps(line)}\n")
                file.flush()
        except OSError as error:
            self.failure = self.failure or error

    def _track(self, values: Mapping[str, Any], step: int) -> None:
        self._trackers.log({name: value for name, value in values.items() if name not in {"step", "train/step"}}, step)


def _check(path: Path, start: int) -> None:
    """Say where the curve is damaged. Raises CurveError if the first `start` steps are not all before that."""
    damaged = damaged_line(path)
    check_curve(path, read_metrics(path), start)
    if damaged is not None:
        tqdm.write(
            f"{path}: line {damaged} is damaged; what was written after step {start} is done again", file=sys.stderr
        )


def _cut(path: Path, start: int) -> None:
    """Keep what was written up to the `start`-th step. The evaluation after it is done again."""
    kept = [line for line in read_metrics(path) if line["step"] < start + ("heldout/loss" not in line)]
    with whole_file(path) as partial:
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
