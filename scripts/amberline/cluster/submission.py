"""Handing a job to Slurm, once, whatever the controller does meanwhile."""

import re
import shlex
from collections.abc import Callable
from threading import Event

from amberline.cluster.slurm import LOOK, WAITS, NoAnswer, Outage, SlurmError, ask, queued

TRIES = 4  # after errors that say neither that Slurm did not answer nor that it does not want the job

# As sbatch tells that it will not take a job however often it is asked.
REFUSED = re.compile(
    r"invalid (?!.*credential)|not available|violates|not permitted|denied|exceed|too (long|large|many)|unrecognized"
    r"|more processors requested|node count specification|cannot be satisfied|required partition|unknown|not found",
    re.I,
)
UNAVAILABLE = re.compile(r"node configuration is not available", re.I)


class Refused(Exception):
    """Slurm does not take the job."""


class Stopped(Exception):
    """The pipeline ends before the job was submitted."""


def submit(
    call: str, script: str, find: Callable[[], str | None], outage: Outage, say: Callable[[str], None], stop: Event
) -> str:
    """The number of a job that was submitted with a line of sbatch, which reads its script from standard input.

    A job may be in the queue although sbatch failed: `find` looks for it there before each new try. Raises Refused,
    and Stopped once `stop` is set.
    """
    failures = 0
    while not stop.is_set():
        try:
            printed = ask(*shlex.split(call), given=script, stop=stop)
            outage.answered(call)
            return _number(printed)
        except NoAnswer as error:
            seconds = outage.failed(call, str(error))
        except SlurmError as error:
            failures += 1
            if REFUSED.search(str(error)) or failures == TRIES:
                outage.answered(call)
                raise Refused(str(error)) from None
            seconds = WAITS[failures - 1]
            say(f"{error}. It is tried again in {seconds} s.")
        stop.wait(seconds)
        if (number := _found(find, outage, stop)) is not None:
            outage.answered(call)
            say(f"sbatch failed, but Slurm has taken the job: it is job {number}.")
            return number
    raise Stopped


def _found(find: Callable[[], str | None], outage: Outage, stop: Event) -> str | None:
    """What `find` finds, as soon as Slurm answers."""
    while not stop.is_set():
        try:
            found = find()
            outage.answered(LOOK)
            return found
        except SlurmError as error:
            stop.wait(outage.failed(LOOK, str(error)))
    raise Stopped


def _number(printed: str) -> str:
    """The job's number in what sbatch --parsable printed: a line of the number, or of number;cluster."""
    numbers = [line for line in printed.splitlines() if re.fullmatch(r"\d+(;\S*)?", line.strip())]
    if not numbers:
        raise Refused(f"sbatch printed no job number, but {printed.strip()!r}")
    return numbers[-1].strip().split(";")[0]


def finder(name: str, comment: str, known: Callable[[], set[str]], stop: Event) -> Callable[[], str | None]:
    """Looks in the queue for a job with a name and a comment whose number is not known yet."""

    def find() -> str | None:
        """The newest such job. Raises SlurmError."""
        jobs = queued(name=name, ended=True, stop=stop)
        fresh = [job.number for job in jobs if job.comment == comment and job.number not in known()]
        return max(fresh, key=int, default=None)

    return find
