"""Checkpoints: the whole state of a training, sharded, written while the training goes on, and whole or not there.

A checkpoint is a folder `step-00000200` with the shards that torch's distributed checkpoint writes, one file a
process, and `checkpoint.json`, written last, with the sha256 of every other file. It is written under another name
and then renamed, so a kill at any moment leaves the older ones as they were. It can be loaded by any number of
processes.
"""

import json
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from amberline.core.digests import file_digest
from amberline.core.files import free_bytes, whole_file
from amberline.training.checkpoint_files import MARKER, Checkpoint, complete, find_faults
from amberline.training.exportable import spared_steps
from amberline.training.ranks import Ranks

# A single process is meant.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class CheckpointError(Exception):
    """A checkpoint could not be written or read."""


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
        self.failure: str | None = None  # why the last one could not be written, for this process

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
            raise CheckpointError(f"{checkpoint.folder} cannot be read: {_first_cause(error)}") from None
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        if "random" in state:
            _set_random(state["random"][str(self._ranks.rank)])

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint after `step` steps, in the background; `failure` says later whether that went wrong."""
        self.wait()
        state = _staged(self._state(model, optimizer, with_random=True))
        self._writing = threading.Thread(
            target=self._write, args=(state, f"step-{step:08d}", step), name="checkpoint", daemon=True
        )
        self._writing.start()

    def save_final(self, step: int, model: nn.Module) -> None:
        """Write the weights alone into `final`, by the names of the parameters. Raises CheckpointError."""
        self.wait()
        self._write(get_model_state_dict(model), "final", step)
        self.raise_failure()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def raise_failure(self) -> None:
        """Raise CheckpointError if a checkpoint could not be written."""
        if self.failure is not None:
            kept = ", ".join(each.folder.name for each in complete(self._folder)) or "none yet"
            raise CheckpointError(
                f"{self.failure}. The earlier checkpoints are good: {kept}. Fix: make room on that disk "
                "(scripts/unused.py tells what no recipe names; or a lower checkpoints.keep), and type the same command"
            )

    def _state(self, model: nn.Module, optimizer: torch.optim.Optimizer, with_random: bool) -> dict[str, Any]:
        weights, moments = get_state_dict(model, optimizer)
        random = {"random": {str(self._ranks.rank): _random()}} if with_random else {}
        return {"model": weights, "optimizer": moments, **random}

    def _write(self, state: dict[str, Any], name: str, step: int) -> None:
        """Write a checkpoint, if there is room for it. All processes learn of any failure."""
        self.failure = self._agreed(self._why_no_room(state, step), step) or self._agreed(
            self._written(state, name, step), step
        )

    def _why_no_room(self, state: dict[str, Any], step: int) -> str | None:
        """Why there is too little room for a checkpoint, which all processes write shards of equal size of."""
        needed, free = _bytes_of(state) * self._ranks.world, free_bytes(self._folder)
        if needed <= free:
            return None
        return (
            f"the checkpoint after step {step} could not be written into {self._folder}: it needs about "
            f"{needed / 2**20:,.0f} MiB ({free / 2**20:,.0f} MiB were free)"
        )

    def _written(self, state: dict[str, Any], name: str, step: int) -> str | None:
        """Write shards, agree that all are there, then mark and rename. Returns why it failed for this process."""
        free = free_bytes(self._folder)
        partial = self._folder / f"{name}.partial-{self._token()}"
        try:
            digests = self._write_shards(state, partial)
            if self._ranks.first:
                marker = {"step": step, "processes": self._ranks.world, "plan": self._plan, "files": digests}
                self._finish(partial, self._folder / name, marker)
                self._delete_old(step)
        except (CheckpointException, OSError, RuntimeError) as error:
            failure = (
                f"the checkpoint after step {step} could not be written into {self._folder}: {_first_cause(error)} "
                f"({free / 2**20:,.0f} MiB were free)"
            )
            if self._ranks.first:
                shutil.rmtree(partial, ignore_errors=True)
            return failure
        return None

    def _agreed(self, failure: str | None, step: int) -> str | None:
        """The first failure of any process."""
        if self._ranks.world == 1:
            return failure
        failures: list[str | None] = [None] * self._ranks.world
        try:
            dist.all_gather_object(failures, failure, group=self._ranks.saving)
        except RuntimeError as error:
            failures = [failure, f"the checkpoint after step {step} was not finished: {_first_cause(error)}"]
        return next((each for each in failures if each), None)

    def _token(self) -> str:
        """A name that no other run of this directory uses, so that a leftover process can never write into ours."""
        token = [f"{os.getpid()}-{time.time_ns()}"]
        if self._ranks.world > 1:
            dist.broadcast_object_list(token, src=0, group=self._ranks.saving)
        return token[0]

    def _write_shards(self, state: dict[str, Any], partial: Path) -> dict[str, str]:
        """Returns the sha256 of every file."""
        state_dict_saver.save(
            state, storage_writer=_Writer(partial), process_group=self._ranks.saving, no_dist=self._ranks.world == 1
        )
        own = {file.name: file_digest(file) for file in partial.glob(f"__{self._ranks.rank}_*")}
        if self._ranks.first:
            own[".metadata"] = file_digest(partial / ".metadata")
        if self._ranks.world == 1:
            return own
        everyone: list[dict[str, str]] = [{}] * self._ranks.world
        dist.all_gather_object(everyone, own, group=self._ranks.saving)
        return {name: digest for each in everyone for name, digest in each.items()}

    def _finish(self, partial: Path, folder: Path, marker: dict[str, Any]) -> None:
        with whole_file(partial / MARKER) as draft:
            draft.write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)

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
    """Bytes of all tensors of a state that are on this process."""
    if isinstance(state, dict):
        return sum(_bytes_of(each) for each in state.values())
    local = state.to_local() if isinstance(state, DTensor) else state
    return local.nbytes if isinstance(local, torch.Tensor) else 0


def _random() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _first_cause(error: BaseException) -> str:
    """The first line of what went wrong on the first process on which it did."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    lines = str(error).strip().splitlines()
    if lines and "inline_container" in lines[0]:
        # What torch's own writer says when the system takes no more bytes.
        return "a file could not be written to its end, which is what a full disk does"
    return lines[0] if lines else type(error).__name__
