"""Faults, planted into a process before its training starts."""

import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from amberline.objectives.base import Contribution, MicroBatch
from amberline.objectives.sft import SFT
from amberline.training import checkpoints, scoring, together
from amberline.training.curve import Line
from amberline.training.metrics import Metrics

ERRORS = {
    "OSError": lambda: OSError(errno.EIO, "planted", "/planted"),
    "MemoryError": lambda: MemoryError("planted"),
    "OutOfMemoryError": lambda: torch.OutOfMemoryError("CUDA out of memory. planted"),
    "ValueError": lambda: ValueError("planted"),
    "KeyError": lambda: KeyError("planted"),
    "RuntimeError": lambda: RuntimeError("planted"),
}
LATE = 8  # micro-batches that go well; with one a step and a checkpoint every 3 steps, two checkpoints are there


def on_rank(rank: int) -> bool:
    return int(os.environ["RANK"]) == rank


def _after_a_while(change: Callable[[Contribution], Any]) -> None:
    whole, seen = SFT.__call__, []

    def call(self: SFT, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        contribution = whole(self, model, micro_batch)
        seen.append(micro_batch)
        return change(contribution) if len(seen) > LATE else contribution

    SFT.__call__ = call


def nan_gradient_on_rank_1() -> None:
    """The loss stays finite: the root of 0 · loss is 0, and its slope 0 · ∞."""
    if on_rank(1):
        _after_a_while(lambda good: Contribution(good.loss + (good.loss * 0).sqrt()))


def infinite_loss_on_rank_0() -> None:
    if on_rank(0):
        _after_a_while(lambda good: Contribution(good.loss * float("inf")))
        whole = SFT.example_losses

        def losses(self: SFT, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
            found = whole(self, model, micro_batch)
            found[0] = float("inf")
            return found

        SFT.example_losses = losses


def rank_1_is_killed() -> None:
    if on_rank(1):
        whole = checkpoints.Checkpoints.save

        def save(self: checkpoints.Checkpoints, *state: Any) -> None:
            """Wait for the checkpoint, so that it is there when this process is killed a few short steps later."""
            whole(self, *state)
            self.wait()

        checkpoints.Checkpoints.save = save
        _after_a_while(lambda _: os.kill(os.getpid(), signal.SIGKILL))


def error_on_rank_1(place: str, kind: str) -> None:
    """An error of a kind while the ninth step is computed, or its state or the final weights written."""
    if on_rank(1):
        PLACES[place](kind)


def error_on_all_ranks(kind: str) -> None:
    """The same error on each rank, such as of a folder that cannot be read."""
    _after_a_while(lambda _: fail(kind))


def error_nobody_notices(kind: str) -> None:
    """An error on rank 1, while rank 0 waits for what never comes, as it may in a collective of NCCL."""
    together.GRACE = 1.0
    _after_a_while((lambda _: fail(kind)) if on_rank(1) else (lambda _: time.sleep(1000)))


def error_in_scoring(kind: str) -> None:
    """An error on rank 1 at its first micro-batch."""
    if on_rank(1):
        scoring.document_logps = lambda *_: fail(kind)


def refused_on_all_ranks() -> None:
    """What all processes find, while the first one is slow to tell it."""
    scoring.document_logps = lambda *_: refuse()
    the_first_tells_late()


def refused_on_rank_1() -> None:
    """What all processes should find, and one does; the other waits for it."""
    scoring.document_logps = (lambda *_: refuse()) if on_rank(1) else (lambda *_: time.sleep(1000))


def the_first_tells_late() -> None:
    complain = together.complain

    def late(*arguments: Any, **more: Any) -> None:
        time.sleep(2)
        complain(*arguments, **more)

    if on_rank(0):
        together.complain = late


def refuse() -> NoReturn:
    os.write(1, f"error at {time.time()}\n".encode())
    raise scoring.ScoringError("planted")


def fail(kind: str) -> NoReturn:
    os.write(1, f"error at {time.time()}\n".encode())  # in one piece: the other processes write there, too
    raise ERRORS[kind]()


def _in_backward(kind: str) -> None:
    def change(good: Contribution) -> Contribution:
        good.loss.register_hook(lambda _: fail(kind))
        return good

    _after_a_while(change)


def _in_optimizer(kind: str) -> None:
    seen = []

    def before(*_: object) -> None:
        seen.append(_)
        if len(seen) > LATE:
            fail(kind)

    register_optimizer_step_pre_hook(before)


def _when_written(kind: str, owner: Any, name: str) -> None:
    """The error is raised by a function, from the third checkpoint on."""
    saving, whole, seen = checkpoints.Checkpoints.save, getattr(owner, name), []

    def save(self: checkpoints.Checkpoints, *state: Any) -> None:
        self.wait()  # the second one is written to its end
        seen.append(state)
        saving(self, *state)

    def call(*arguments: Any, **more: Any) -> Any:
        return fail(kind) if len(seen) > 2 else whole(*arguments, **more)

    checkpoints.Checkpoints.save = save
    setattr(owner, name, call)


PLACES: dict[str, Callable[[str], None]] = {
    "forward": lambda kind: _after_a_while(lambda _: fail(kind)),
    "backward": _in_backward,
    "optimizer": _in_optimizer,
    "staging": lambda kind: _when_written(kind, checkpoints, "_staged"),
    "room": lambda kind: _when_written(kind, checkpoints, "free_bytes"),
    "writer": lambda kind: _when_written(kind, checkpoints._Writer, "write_data"),
    "save": lambda kind: _when_written(kind, checkpoints.state_dict_saver, "save"),
    "digests": lambda kind: _when_written(kind, checkpoints, "file_digest"),
    "final": lambda kind: setattr(checkpoints, "get_model_state_dict", lambda _: fail(kind)),
}


def files_cannot_grow() -> None:
    """What a full disk is like, from the third checkpoint on."""
    whole, seen = checkpoints.Checkpoints.save, []

    def save(self: checkpoints.Checkpoints, *state: object) -> None:
        seen.append(state)
        if len(seen) > 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        whole(self, *state)

    checkpoints.Checkpoints.save = save


def little_room() -> None:
    """What is free is less than a checkpoint."""
    checkpoints.free_bytes = lambda _: 1000


def the_curve_cannot_grow() -> None:
    """What a full disk is like for its ninth line."""
    whole = Metrics.training

    def training(self: Metrics, metrics: Line, timing: Line) -> None:
        if metrics["step"] == LATE + 1:
            self._metrics.close()
            self._metrics = open("/dev/full", "a")  # noqa: SIM115
        whole(self, metrics, timing)

    Metrics.training = training


def slow_steps() -> None:
    """Time enough for others to come along."""
    whole = SFT.__call__

    def call(self: SFT, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        time.sleep(0.2)
        return whole(self, model, micro_batch)

    SFT.__call__ = call
