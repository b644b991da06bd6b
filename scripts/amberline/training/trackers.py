"""Where the curve is shown besides: TensorBoard, and Weights & Biases. Whatever fails there costs no training."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from amberline.recipe.tracking import Tracking
from amberline.training.errors import first_line

Mode = Literal["online", "offline"]

SECONDS = 30  # for Weights & Biases to answer; it would wait for minutes


class Tracker(Protocol):
    """A service that shows curves."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the values of a step."""

    def close(self) -> None:
        """End the curve."""


class Trackers:
    """All that show a run. One that fails is left out from then on, after a warning."""

    def __init__(self, folder: Path, name: str, tracking: Tracking, start: int) -> None:
        """Show the run in `folder` after `start` steps; what was shown beyond that is replaced."""
        self._open: dict[str, Tracker] = {}
        self._start("TensorBoard", lambda: _TensorBoard(folder, start))
        if tracking.wandb_project is not None:
            project = tracking.wandb_project
            self._start("Weights & Biases", lambda: _WandB(folder, name, project, tracking.wandb_mode))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """The values of a step."""
        for name, tracker in list(self._open.items()):
            self._attempt(name, lambda tracker=tracker: tracker.log(values, step))  # type: ignore[misc]

    def close(self) -> None:
        """End the curves."""
        for name, tracker in list(self._open.items()):
            self._attempt(name, tracker.close)

    def _start(self, name: str, start: Callable[[], Tracker]) -> None:
        def add() -> None:
            self._open[name] = start()

        self._attempt(name, add)

    def _attempt(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is: the training does not need it
            self._open.pop(name, None)
            _warn(
                f"{name} fails ({first_line(error)}) and is left out: the training goes on, and metrics.jsonl has all"
            )


class _TensorBoard:
    def __init__(self, folder: Path, start: int) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, folder: Path, name: str, project: str, mode: Mode) -> None:
        try:
            self._run = _init_wandb(folder, name, project, mode)
        except Exception as error:
            if mode == "offline":
                raise
            _warn(
                f"Weights & Biases cannot be used online ({first_line(error)}): the training goes on, the curve "
                f"is kept on disk. To send it later: wandb sync {folder / 'wandb'}/offline-run-*"
            )
            self._run = _init_wandb(folder, name, project, "offline")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _init_wandb(folder: Path, name: str, project: str, mode: Mode) -> Any:
    import wandb

    # Without the last of these, the end of a training would wait for a lost network without end.
    limits = wandb.Settings(init_timeout=SECONDS, login_timeout=SECONDS, finish_timeout=SECONDS)
    try:
        return wandb.init(
            project=project, mode=mode, dir=str(folder), name=name, id=folder.name, resume="allow", settings=limits
        )
    except Exception:
        # Its service holds the run's name until it is ended.
        wandb.teardown()
        raise


def _warn(sentence: str) -> None:
    tqdm.write(f"WARNING: {sentence}", file=sys.stderr)
