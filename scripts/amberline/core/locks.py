"""Locks on folders, for processes on any machine that sees them."""

import getpass
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any


class LockError(Exception):
    """Another process writes in the folder."""


class Lock:
    """A file that says who writes in a folder, so that there are never two.

    A lock is stale, and taken over, when its process is gone: it ran on this machine and is not there any more; it
    belonged to the Slurm job that this is, requeued; or Slurm does not know its job any more.
    """

    def __init__(self, folder: Path, name: str = "lock.json") -> None:
        self._path = folder / name

    def acquire(self) -> str | None:
        """Take the lock. Returns a note when a stale one was taken over. Raises LockError when another run has it."""
        note = None
        while not self._create():
            holder = self.holder()
            if holder is not None and not _gone(holder):
                raise LockError(
                    f"{self._path.parent} is in use by process {holder['pid']} on {holder['host']}"
                    f"{_details(holder)}: two runs may not write there at once. Fix: wait for it, or stop it; if you "
                    f"know that it is gone, delete {self._path} and start again"
                )
            self._clear(holder)
            note = "an interrupted run's lock was found and taken over"
        return note

    def release(self) -> None:
        """Give the lock back."""
        holder = self.holder()
        if holder is not None and (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid()):
            self._path.unlink(missing_ok=True)

    def _clear(self, stale: Mapping[str, Any] | None) -> None:
        """Remove a stale lock, unless another process has just done so, and holds the lock now."""
        aside = self._path.with_name(f".lock.stale.{socket.gethostname()}.{os.getpid()}")
        try:
            # Of several that see the same stale lock, only one can move it.
            self._path.rename(aside)
        except FileNotFoundError:
            return
        moved = self._read(aside)
        if moved is not None and moved != stale:
            with suppress(FileExistsError):
                os.link(aside, self._path)
        aside.unlink()

    def _create(self) -> bool:
        mine = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
            # For people.
            "user": user_name(),
            "folder": str(Path.cwd()),
            "since": f"{datetime.now():%Y-%m-%d %H:%M}",
        }
        try:
            # Linked into place, so that it is there with its content or not at all.
            draft = self._path.with_name(f".lock.{socket.gethostname()}.{os.getpid()}")
            draft.write_text(json.dumps(mine), encoding="utf-8")
            os.link(draft, self._path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def holder(self) -> dict[str, Any] | None:
        """Who holds the lock: host, pid, slurm_job_id, user, folder, since. None if nobody does."""
        return self._read(self._path)

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known = {"host", "pid", "started", "slurm_job_id"} <= holder.keys()
        except (FileNotFoundError, ValueError, AttributeError):
            return None
        return holder if known else None


def user_name() -> str:
    """Whose process this is; a number where the machine has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _details(holder: Mapping[str, Any]) -> str:
    """What else is known of a lock's holder, in brackets."""
    job, user, since = holder["slurm_job_id"], holder.get("user"), holder.get("since")
    known = [f"Slurm job {job}" if job else "", f"user {user}" if user else "", f"since {since}" if since else ""]
    return f" ({', '.join(filter(None, known))})" if any(known) else ""


def _start_of(pid: int) -> str | None:
    """When a process of this machine was started, told without a clock: boot id and ticks. None if it has ended.

    No other process of any time has the same number and the same start.
    """
    try:
        # The second field is the program's name in brackets, which may have any characters.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A process that nobody waited for stays listed after its end.
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _gone(holder: Mapping[str, Any]) -> bool:
    job = holder["slurm_job_id"]
    if holder["host"] == socket.gethostname():
        # A process id may have been given to another process since.
        return bool(_start_of(holder["pid"]) != holder["started"])
    if job is None:
        return False
    if job == os.environ.get("SLURM_JOB_ID"):
        return True
    squeue = shutil.which("squeue")
    if squeue is None:
        return False
    try:
        listed = subprocess.run(
            [squeue, "--noheader", f"--jobs={job}"], capture_output=True, text=True, check=False, timeout=20
        )
    except subprocess.TimeoutExpired:
        return False
    return "Invalid job id" in listed.stderr or (listed.returncode == 0 and not listed.stdout.strip())
