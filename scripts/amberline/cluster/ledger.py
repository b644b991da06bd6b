"""What the executor remembers of the pipeline's Slurm jobs."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amberline.cluster import logs
from amberline.cluster.progress import IDLE_STARTS, is_complete, newest_checkpoint

LOOKS = 3  # at a state before it is believed: a job that is put back into the queue may pass through it
FAULTS = 3  # times that a job is submitted again which Slurm did not start


@dataclass(frozen=True)
class Stages:
    """What the rules tell of the pipeline's stages."""

    results: Path
    record: Path  # of submitted jobs
    training: Callable[[Any], tuple[Path, str] | None]  # of a Snakemake job: folder of checkpoints, stage
    keys: Callable[[Any], str]  # of a Snakemake job: the settings of what it asks for


class Ledger:
    """Slurm jobs by number, and how often Snakemake's jobs were interrupted."""

    def __init__(self, stages: Stages) -> None:
        self.known: dict[str, str] = {}  # the stages of all submitted Slurm jobs
        self.running: set[str] = set()  # of these, the ones that have not ended
        self.faults: Counter[Any] = Counter()  # by Snakemake job: times that Slurm did not start it
        self._stages = stages
        self._looks: Counter[tuple[str, str]] = Counter()  # by Slurm job and state: how often it was seen in it
        self._starts: dict[Any, tuple[str | None, int]] = {}  # by Snakemake job: progress, starts without any
        self._logs: dict[str, Mapping[Path, logs.Mark | None]] = {}  # by Slurm job: its logs before it was submitted

    def submitted(self, number: str, stage: str, before: Mapping[Path, logs.Mark | None]) -> None:
        """Note a Slurm job, and what its program's logs were like before."""
        self.known[number] = stage
        self._logs[number] = before
        self.running.add(number)

    def own_log(self, number: str, started: float | None) -> Path | None:
        """The log that a job's program has written since a time; None if it has not got as far."""
        return logs.own_log(self._logs.get(number, {}), started)

    def named(self, numbers: set[str]) -> str:
        """Slurm jobs, for people."""
        return ", ".join(f"{number} ({self.known.get(number, 'unknown')})" for number in sorted(numbers, key=int))

    def seen(self, number: str, state: str) -> bool:
        """Note that a job was seen in a state, or with a reason. Whether that was so often that it is believed."""
        self._looks[number, state] += 1
        return self._looks[number, state] >= LOOKS

    def may_be_started_again(self, job: Any) -> bool:
        """Note that Slurm did not start a job. Whether it shall be submitted again."""
        self.faults[job] += 1
        return self.faults[job] <= FAULTS

    def may_go_on(self, job: Any) -> bool:
        """Note that a job was interrupted. Whether it got further since the last time, or has a chance left to."""
        training = self._stages.training(job)
        if training is not None and is_complete(*training):
            return True
        now = newest_checkpoint(*training) if training else None
        before, idle = self._starts.get(job, ("", 0))
        idle = 0 if now and now != before else idle + 1
        self._starts[job] = (now, idle)
        return idle < IDLE_STARTS
