"""The few things that we ask of Slurm ourselves. Snakemake's executor submits the jobs."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60  # for an answer; a busy controller takes its time


class SlurmError(Exception):
    """Slurm refused, or did not answer."""


@dataclass(frozen=True)
class Job:
    """A job in the queue."""

    number: str
    state: str  # as squeue spells it: PENDING, RUNNING, …
    name: str
    comment: str
    folder: Path  # in which it runs


def ask(*command: str, seconds: float = SECONDS) -> str:
    """What a Slurm command prints within some seconds. Raises SlurmError."""
    name = " ".join(word for word in command if not word.startswith("-"))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{name} did not answer within {seconds:g} seconds") from None
    except OSError as error:
        raise SlurmError(f"{name}: {error}") from None
    if done.returncode != 0:
        raise SlurmError(f"{name}: {done.stderr.strip() or f'ended with {done.returncode}'}")
    return done.stdout


def queued() -> list[Job]:
    """My jobs that wait or run."""
    lines = ask("squeue", "--me", "--noheader", "--format=%A|%T|%j|%k|%Z").splitlines()
    fields = (line.split("|", 4) for line in lines)
    return [Job(number, state, name, comment, Path(folder)) for number, state, name, comment, folder in fields]


def states() -> dict[str, str]:
    """The state of each of my jobs that Slurm still knows, ended ones too."""
    lines = ask("squeue", "--me", "--states=all", "--noheader", "--format=%A|%T").splitlines()
    return dict(line.strip().split("|", 1) for line in lines)


def partitions() -> list[str]:
    """Names of the partitions that I see."""
    return sorted(set(ask("sinfo", "--noheader", "--format=%R").split()))


def cancel(jobs: Sequence[Job]) -> None:
    """Cancel jobs and wait until none of their processes is left."""
    ask("scancel", *(job.number for job in jobs))
    numbers = {job.number for job in jobs}
    while numbers & {job.number for job in queued()}:
        time.sleep(1)


def requeue(number: str) -> None:
    """Put a running job back into the queue; it starts again from the beginning of its script."""
    ask("scontrol", "requeue", number)
