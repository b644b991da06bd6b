"""Locks on folders: who holds one, and when it is taken over."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from amberline.core import locks
from amberline.core.locks import Lock, LockError


def write_lock(folder: Path, **holder: object) -> None:
    here = {"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0, "slurm_job_id": None}
    (folder / "lock.json").write_text(json.dumps(here | holder))


def test_a_lock_is_held_and_given_back(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    assert lock.acquire() is None
    with pytest.raises(LockError, match=rf"in use by process {os.getpid()} on {socket.gethostname()}"):
        Lock(tmp_path).acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_lock(tmp_path, pid=dead.pid)
    assert Lock(tmp_path).acquire() == "an interrupted run's lock was found and taken over"


def test_another_process_with_the_same_number_holds_no_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, started=12345.0)
    assert Lock(tmp_path).acquire() is not None


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    write_lock(tmp_path, started=12345.0)
    attempt = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom amberline.core.locks import Lock, LockError\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: Lock(Path(sys.argv[2])).acquire(); print('mine', flush=True); sys.stdin.readline()\n"
        "except LockError: print('taken')\n"
    )
    scripts = Path(__file__).parents[2] / "scripts"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", attempt, str(scripts), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]
    for racer in racers:
        racer.communicate("end\n")
    assert sorted(answers) == ["mine", *["taken"] * 5]


def test_a_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    write_lock(tmp_path, host="node17", slurm_job_id=None)
    with pytest.raises(LockError, match="on node17: two runs may not write there"):
        Lock(tmp_path).acquire()


def test_the_same_slurm_job_takes_its_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    write_lock(tmp_path, host="node17", slurm_job_id="4711")
    assert Lock(tmp_path).acquire() is not None


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        ("echo '4711 gpu train'", False),
        ("exit 0", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_slurm_is_asked_about_another_job(
    answer: str, gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\n{answer}\n")
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    write_lock(tmp_path, host="node17", slurm_job_id="4711")
    if gone:
        assert Lock(tmp_path).acquire() is not None
    else:
        with pytest.raises(LockError, match=r"on node17 \(Slurm job 4711\)"):
            Lock(tmp_path).acquire()


def test_a_step_of_the_clock_displaces_no_live_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock, by which a process's start can be told as well, says now that it was two seconds later."""
    Lock(tmp_path).acquire()
    started, now = psutil.Process().create_time(), time.time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: started + 2)
    monkeypatch.setattr(time, "time", lambda: now + 2)
    os.utime(tmp_path / "lock.json", (0, 0))
    with pytest.raises(LockError, match="in use by process"):
        Lock(tmp_path).acquire()


def test_a_start_is_told_by_boot_and_ticks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the lock reads: neither of the two files follows the wall clock, unlike btime in /proc/stat."""
    read: list[str] = []
    whole = Path.read_text

    def note(path: Path, *args: object, **kwargs: object) -> str:
        read.append(str(path))
        return whole(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", note)
    assert locks._start_of(os.getpid()) == locks._start_of(os.getpid())
    assert set(read) == {f"/proc/{os.getpid()}/stat", "/proc/sys/kernel/random/boot_id"}
