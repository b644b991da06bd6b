"""Checkpoints: the whole state of a training, sharded, written while the training goes on, and whole or not there.

A checkpoint is a folder `step-00000200` with the shards that torch's distributed checkpoint writes, one file a
process, and `checkpoint.json`, written last, with the sha256 of every other file. It is written under another name
and then renamed, so a kill at any moment leaves the older ones as they were. It can be loaded by any number of
processes.
"""

import json
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict, set_state_dict

from amberline.core.digests import file_digest
from amberline.core.files import free_bytes, whole_file
from amberline.model.architecture import tied_parameters
from amberline.training.checkpoint_files import MARKER, Checkpoint, complete, find_faults
from amberline.training.errors import first_line, is_out_of_memory, told
from amberline.training.exportable import spared_steps
from amberline.training.ranks import Ranks, is_loss_of_process

Value = TypeVar("Value")

MAKE_ROOM = (
    "make room on that disk (scripts/unused.py tells what no recipe names; or a lower checkpoints.keep), and type the "
    "same command"
)
MORE_MEMORY = "raise memory_gb under hardware, and type the same command"
A_FAULT = "none is known: this is a fault of the program, and its traceback is above"

# A single process is meant.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class CheckpointError(Exception):
    """A checkpoint could not be written or read."""


class CheckpointFailedHere(CheckpointError):
    """A checkpoint could not be written by this process, and the others do not know."""


class _NotWritten(Exception):
    """Why a checkpoint is not written, and the fix, known to all processes."""


class Checkpoints:
    """The checkpoints of a directory."""

    def __init__(
        self, folder: Path, keep: int, exports: Sequence[str], plan: str, ranks: Ranks, log: Callable[[str], None]
    ) -> None:
        """The newest `keep` are kept, and those that may become models: `exports` are last, best or step N."""
        self._folder = folder
        self._keep = keep
        self._exports = exports
        self._plan = plan
        self._ranks = ranks
        self._log = log
        self._writing: threading.Thread | None = None
        self.failure: Exception | None = None  # why one could not be written

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, every file verified. Others are set aside, and that is logged."""
        while (found := self._ranks.from_first(lambda: next(iter(complete(self._folder)[::-1]), None))) is not None:
            # Each process verifies its part of the files.
            names = sorted(found.files)[self._ranks.rank :: self._ranks.world]
            faults = [fault for each in self._ranks.gather(find_faults(found, names)) for fault in each]
            if not faults:
                return found
            self._ranks.from_first(lambda found=found: _set_aside(found))  # type: ignore[misc]
            self._log(f"checkpoint {found.folder} is damaged ({faults[0]}): it is set aside, and an older one is used")
        return None

    def load(self, checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put model, optimizer and random state back as they were. Raises CheckpointError."""
        if checkpoint.plan != self._plan:
            raise CheckpointError(
                f"{checkpoint.folder} was made with other batches than these: the tokens or the program changed under "
                f"it. If that is meant, delete {self._folder} and start again"
            )
        state = self._state(model, optimizer, with_random=checkpoint.processes == self._ranks.world)
        try:
            state_dict_loader.load(
                state,
                checkpoint_id=checkpoint.folder,
                process_group=self._ranks.control,
                no_dist=self._ranks.world == 1,
            )
        except (CheckpointException, OSError, RuntimeError) as error:
            cause = _cause(_first_failure(error, self._ranks.rank)[1])
            raise CheckpointError(f"{checkpoint.folder} cannot be read: {cause}") from None
        weights = state["model"]
        weights |= {name: weights[original] for name, original in tied_parameters(model).items()}
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state["optimizer"])
        if "random" in state:
            _set_random(state["random"][str(self._ranks.rank)])

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint after `step` steps, in the background; `failure` says later whether that went wrong."""
        self.wait_and_check()
        state = _staged(self._state(model, optimizer, with_random=True))
        self._writing = threading.Thread(
            target=self._write_in_background, args=(state, f"step-{step:08d}", step), name="checkpoint", daemon=True
        )
        self._writing.start()

    def save_final(self, step: int, model: nn.Module) -> None:
        """Write the weights alone into `final`, by the names of the parameters. Raises CheckpointError."""
        self.wait_and_check()
        self._write(_each_once(get_model_state_dict(model), model), "final", step)
        self.wait_and_check()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def wait_and_check(self) -> None:
        """Wait, and raise what went wrong: CheckpointError, or what the loss of another process raises."""
        # What befell this process alone is raised at once: the others wait for it.
        self._raise_failure()
        self.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if isinstance(self.failure, CheckpointError):
            what, fix = self.failure.args
            kept = ", ".join(each.folder.name for each in complete(self._folder)) or "none yet"
            raise type(self.failure)(f"{what}. The earlier checkpoints are good: {kept}. Fix: {fix}")
        if self.failure is not None:
            raise self.failure

    def _state(self, model: nn.Module, optimizer: torch.optim.Optimizer, with_random: bool) -> dict[str, Any]:
        weights, moments = get_state_dict(model, optimizer)
        random = {"random": {str(self._ranks.rank): _random()}} if with_random else {}
        return {"model": _each_once(weights, model), "optimizer": moments, **random}

    def _write_in_background(self, state: dict[str, Any], name: str, step: int) -> None:
        # A new thread is on GPU 0, where torch's writer would take memory for each process of the machine.
        if self._ranks.device.type == "cuda":
            torch.cuda.set_device(self._ranks.device)
        self._write(state, name, step)

    def _write(self, state: dict[str, Any], name: str, step: int) -> None:
        """Write a checkpoint, if there is room for it. All processes learn of any failure; nothing is raised."""
        partial = None
        try:
            self._together(lambda: self._check_room(state))
            token = self._together(lambda: f"{os.getpid()}-{time.time_ns()}")[0]
            partial = self._folder / f"{name}.partial-{token}"
            state_dict_saver.save(
                state, storage_writer=_Writer(partial), process_group=self._ranks.saving, no_dist=self._ranks.world == 1
            )
            parts = self._together(lambda: self._digests(partial))
            digests = {file: digest for part in parts for file, digest in part.items()}
            marker = {"step": step, "processes": self._ranks.world, "plan": self._plan, "files": digests}
            self._together(lambda: self._finish(partial, self._folder / name, marker))
        except (Exception, CheckpointException) as error:
            self.failure = self._failure(error, step)
            if self._ranks.first and partial:
                shutil.rmtree(partial, ignore_errors=True)

    def _failure(self, error: BaseException, step: int) -> Exception:
        """What to raise in the training's own thread."""
        _, cause = _first_failure(error, self._ranks.rank)
        if isinstance(cause, Exception) and is_loss_of_process(cause):
            return cause
        everywhere = isinstance(error, _NotWritten | CheckpointException)
        what, fix = error.args if isinstance(error, _NotWritten) else self._told(error)
        kind = CheckpointError if everywhere or self._ranks.world == 1 else CheckpointFailedHere
        return kind(f"the checkpoint after step {step} could not be written into {self._folder}: {what}", fix)

    def _told(self, error: BaseException) -> tuple[str, str]:
        """What went wrong, on which process, and the fix. The traceback of a fault is printed."""
        process, cause = _first_failure(error, self._ranks.rank)
        if isinstance(cause, OSError) or "inline_container" in str(cause):
            what, fix = f"{_cause(cause)}{self._free()}", MAKE_ROOM
        elif is_out_of_memory(cause):
            what, fix = f"main memory is used up ({told(cause)})", MORE_MEMORY
        else:
            what, fix = told(cause), A_FAULT
            # Of what happened while torch wrote, all processes know, and the error's own text has the traceback.
            if not isinstance(error, CheckpointException) or self._ranks.first:
                sys.stderr.write("".join(traceback.format_exception(error)))
        return f"{what} (process {process})" if self._ranks.world > 1 else what, fix

    def _free(self) -> str:
        try:
            return f" ({free_bytes(self._folder) / 2**20:,.0f} MiB were free)"
        except OSError:  # of a file system that is not there any more
            return ""

    def _together(self, work: Callable[[], Value]) -> list[Value]:
        """What `work` returns, of every process. Where it fails on one, _NotWritten is raised on all of them."""
        mine: tuple[Any, tuple[str, str] | None]
        try:
            mine = work(), None
        except Exception as error:
            mine = None, self._told(error)
        everyone: list[Any] = [mine] * self._ranks.world
        if self._ranks.world > 1:
            dist.all_gather_object(everyone, mine, group=self._ranks.saving)
        if faults := [fault for _, fault in everyone if fault]:
            raise _NotWritten(*faults[0])
        return [value for value, _ in everyone]

    def _check_room(self, state: dict[str, Any]) -> None:
        """Raise OSError where there is too little room for a checkpoint."""
        needed, free = _bytes_of(state), free_bytes(self._folder)
        if needed > free:
            raise OSError(f"it needs about {needed / 2**20:,.0f} MiB")

    def _digests(self, partial: Path) -> dict[str, str]:
        """The sha256 of every file that this process has written."""
        own = {file.name: file_digest(file) for file in partial.glob(f"__{self._ranks.rank}_*")}
        return own | ({".metadata": file_digest(partial / ".metadata")} if self._ranks.first else {})

    def _finish(self, partial: Path, folder: Path, marker: dict[str, Any]) -> None:
        """Mark the checkpoint as whole, give it its name, and delete the oldest."""
        if not self._ranks.first:
            return
        with whole_file(partial / MARKER) as draft:
            draft.write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
        self._delete_old(marker["step"])

    def _delete_old(self, newest: int) -> None:
        spared = {step for export in self._exports for step in spared_steps(self._folder, export, newest)}
        for old in (each for each in complete(self._folder)[: -self._keep] if each.step not in spared):
            # The marker goes first: what is left of it, should we be killed here, is no checkpoint.
            (old.folder / MARKER).unlink()
            shutil.rmtree(old.folder)


class _Writer(FileSystemWriter):
    """torch's writer, without the random id and the path that it would note: equal states give equal files."""

    def storage_meta(self) -> StorageMeta:
        """What `.metadata` says of where and when it was written."""
        return StorageMeta()


def _set_aside(checkpoint: Checkpoint) -> None:
    aside = checkpoint.folder.with_name(f"damaged-{checkpoint.folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.folder.replace(aside)


def _each_once(weights: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Weights without the further names of those that are tied."""
    tied = tied_parameters(model)
    return {name: tensor for name, tensor in weights.items() if name not in tied}


def _staged(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of all tensors in main memory, so that training can go on while it is written."""
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
        )
    )
    copy = stager.stage(state)
    assert isinstance(copy, dict)
    return copy


def _bytes_of(state: Any) -> int:
    """Bytes of all tensors of a state: of sharded ones the shards of all processes, and replicas once, as they are
    written. The random states of other processes, some KB each, are not counted."""
    if isinstance(state, dict):
        return sum(_bytes_of(each) for each in state.values())
    return state.numel() * state.element_size() if isinstance(state, torch.Tensor) else 0


def _random() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _first_failure(error: BaseException, process: int) -> tuple[int, BaseException]:
    """The first process on which it went wrong, and what went wrong there."""
    if isinstance(error, CheckpointException):
        return next((process, failure) for process, (failure, _) in error.failures.items())
    return process, error


def _cause(error: BaseException) -> str:
    line = first_line(error)
    # What torch's own writer says when the system takes no more bytes.
    full = "inline_container" in line
    return "a file could not be written to its end, which is what a full disk does" if full else line
