"""The few things that we ask of Slurm ourselves. No question blocks for longer than its timeout."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Event, Lock

SECONDS = 60  # for an answer; a busy controller takes its time
LOOK_SECONDS = 20  # for a look at the queue, which is repeated anyway
LOOK = "squeue"  # the question that is asked again and again
WAITS = (5, 10, 20, 30)  # seconds between tries while Slurm does not answer; the last one again and again

# What Slurm's commands print when they got no answer, as opposed to a refusal.
NO_ANSWER = re.compile(
    r"unable to contact slurm controller|socket timed out|connection (refused|timed out|reset)|zero bytes were transm"
    r"|unable to establish|controller in standby|no route to host|network is unreachable|temporarily un"
    r"|protocol authentication|munge|transport endpoint|communication (connection )?failure",
    re.I,
)

NO_CLUSTER = "DNS SRV lookup failed"  # printed by Slurm's commands on a machine that knows of no cluster

NOT_A_NODE = (
    "this machine is not a node of a Slurm cluster: {}. Nothing was started. Fix: start it on a login node of the "
    "cluster, or run it on this machine: without --profile slurm, with --cores all"
)


class SlurmError(Exception):
    """Slurm refused, or did not answer."""


class NoAnswer(SlurmError):
    """Slurm did not answer. It may have done what it was asked for all the same."""


@dataclass(frozen=True)
class Job:
    """A job in the queue."""

    number: str
    state: str  # as squeue spells it: PENDING, RUNNING, …
    name: str
    comment: str
    user: str
    reason: str = "None"  # why it waits
    started: float | None = None  # seconds since 1970, of its last start
    partition: str = ""


def ask(*command: str, seconds: float = SECONDS, given: str | None = None, stop: Event | None = None) -> str:
    """What a Slurm command prints within some seconds, or until `stop` is set. `given` is its standard input.

    Raises NoAnswer without an answer, SlurmError at a refusal.
    """
    name = " ".join(word for word in command if not word.startswith("-")) if len(command) < 8 else command[0]
    try:
        # In a session of its own: a Ctrl-C that is meant for us does not reach it, and all of it can be killed.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
            start_new_session=True,
        )
    except OSError as error:
        raise NoAnswer(f"{name}: {error}") from None
    end = time.monotonic() + seconds
    while True:
        try:
            printed, complaint = process.communicate(given, timeout=0.25)
            break
        except subprocess.TimeoutExpired:
            given = None
            if (stop is not None and stop.is_set()) or time.monotonic() > end:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise NoAnswer(f"{name} did not answer within {seconds:g} seconds") from None
    if process.returncode != 0:
        complaint = "; ".join(complaint.split("\n")).strip("; ") or f"ended with {process.returncode}"
        named = complaint if complaint.startswith(command[0]) else f"{name}: {complaint}"
        raise (NoAnswer if NO_ANSWER.search(complaint) else SlurmError)(named)
    return printed


class Outage:
    """Notices when Slurm stops answering and when it answers again, and says each once.

    Some questions may be answered and others not: it is over when none is open.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since = 0.0
        self._tries: Counter[str] = Counter()  # of each question that was not answered
        self._lock = Lock()  # jobs are submitted and watched in different threads

    def failed(self, question: str, why: str) -> float:
        """Note that a question was not answered. Returns the seconds to wait before it is asked again."""
        with self._lock:
            seconds = WAITS[min(self._tries.get(question, 0), len(WAITS) - 1)]
            if not self._tries:
                self._since = time.monotonic()
                self._say(
                    f"Slurm does not answer since {datetime.now():%H:%M} ({why}); looking again in {seconds} s, "
                    f"then less often, but at least every {WAITS[-1]} s. Jobs that run are not affected."
                )
            self._tries[question] += 1
            return seconds

    def answered(self, question: str) -> None:
        """Note that a question was answered."""
        with self._lock:
            if self._tries.pop(question, 0) and not self._tries:
                self._say(f"Slurm answers again, after {time.monotonic() - self._since:.0f} s.")


def queued(
    *, name: str | None = None, ended: bool = False, seconds: float = LOOK_SECONDS, stop: Event | None = None
) -> list[Job]:
    """Jobs of all users that wait or run; ended ones too, as long as Slurm remembers them. `name`: only of this name.

    Raises SlurmError.
    """
    options = [f"--name={name}"] if name else []
    options += ["--states=all"] if ended else []
    lines = ask(
        *("squeue", "--array", "--noheader", "--format=%i|%T|%j|%u|%r|%S|%P|%k"),
        *options,
        seconds=seconds,
        stop=stop,
    ).splitlines()
    return [_job(line) for line in lines if line.strip()]


def _job(line: str) -> Job:
    number, state, name, user, reason, started, partition, comment = line.strip().split("|", 7)
    when = float(started) if started.isdigit() else None
    return Job(number, state, name, comment, user, reason, when, partition)


def partitions() -> list[str]:
    """Names of the partitions that I see. Raises SlurmError, which says what to do: nothing was started yet."""
    if shutil.which("sinfo") is None:
        raise SlurmError(NOT_A_NODE.format("there is no sinfo"))
    try:
        return sorted(set(ask("sinfo", "--noheader", "--format=%R").split()))
    except SlurmError as error:
        if NO_CLUSTER in str(error):
            raise SlurmError(NOT_A_NODE.format("sinfo knows of no cluster")) from None
        raise SlurmError(f"{error}. Nothing was started. Fix: type the same command again when sinfo answers") from None


def cancel(jobs: Sequence[Job]) -> None:
    """Cancel jobs and wait until none of their processes is left. Raises SlurmError."""
    ask("scancel", *(job.number for job in jobs))
    numbers = {job.number for job in jobs}
    while numbers & {job.number for job in queued()}:
        time.sleep(1)


def state_of(number: str) -> str | None:
    """The state of one job; None if Slurm does not know it any more. Raises SlurmError."""
    try:
        return ask("squeue", f"--jobs={number}", "--noheader", "--format=%T", seconds=LOOK_SECONDS).strip() or None
    except NoAnswer:
        raise
    except SlurmError:
        return None  # Invalid job id


def requeue(number: str) -> None:
    """Put a running job back into the queue; it starts again from the beginning of its script. Raises SlurmError."""
    ask("scontrol", "requeue", number)
