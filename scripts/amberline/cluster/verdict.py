"""What to do when a job has ended without success."""

import re
from enum import Enum


class Verdict(Enum):
    """What becomes of a job."""

    AGAIN = "again"  # it was interrupted: the same again, as long as it gets on
    MORE = "more"  # it lacked memory or time: again, with more of it
    FAULT = "fault"  # Slurm did not start its program: the same again, a few times
    FINAL = "final"  # it failed by itself, and would again; or somebody cancelled it


FORGOTTEN = "FORGOTTEN"  # no state of Slurm's: it does not list the job any more
HELD_AFTER_LAUNCH = re.compile(r"launch.failed.requeued.held", re.I)  # a reason of pending jobs

# What the launcher prints when a training has saved its state, but cannot be put back into the queue from within.
SUBMIT_AGAIN = "the training goes on when this job is submitted again"

# A job is not always in the state OUT_OF_MEMORY when it was killed for memory: that depends on which part of it was.
MEMORY = re.compile(
    r"oom.kill|out.of.memory handler|exceeded (job |step )?memory limit|memory limit .*being killed", re.I
)
# As start_ranks.py tells of a rank that did not end by itself: a machine's fault, or somebody's kill.
KILLED = re.compile(r"was killed by SIG(KILL|TERM|ABRT|BUS|SEGV)")
# As Slurm tells that it could not start all of a job's processes; others may have begun.
LAUNCH_FAILED = re.compile(
    r"task launch .*failed|application launch failed|job credential (expired|revoked)|invalid job credential"
    r"|unable to (confirm allocation|create step)|unable to launch|batch launch|prolog (error|failure)",
    re.I,
)
# The same, if nothing has begun: a program that has may go on after such a line.
NO_CONTACT = re.compile(
    r"step creation temporarily disabled|unable to contact slurm controller|socket timed out|node failure"
    r"|communication connection failure|zero bytes were transmitted|timed out waiting for .*launch",
    re.I,
)
# Slurm's own lines among those of programs.
SLURM_LINE = re.compile(r"^(srun|slurmstepd|slurmd|sbatch)(-\S+)?: ")
# srun waits for nodes that are busy or away, and tries again for minutes.
RETRYING = re.compile(r"step creation temporarily disabled|step creation still disabled|, retrying", re.I)


def judge(state: str, printed: str, *, continues: bool, started: bool = True) -> tuple[Verdict, str]:
    """The verdict on a job in a final state of Slurm, and why, as a clause.

    `printed` is the end of its log. `continues` tells that it goes on from a checkpoint when it is started again,
    `started` that its program printed something of its own.
    """
    again_or_more = Verdict.AGAIN if continues else Verdict.MORE
    fault = _fault(printed, started)
    signs = (
        (state == "OUT_OF_MEMORY" or MEMORY.search(printed), Verdict.MORE, "ran out of memory"),
        (state == "TIMEOUT", again_or_more, "reached its time limit"),
        (state == "PREEMPTED", Verdict.AGAIN, "had to make room for others"),
        (state in {"NODE_FAIL", "BOOT_FAIL", FORGOTTEN}, Verdict.AGAIN, "was lost with its node"),
        (SUBMIT_AGAIN in printed, Verdict.AGAIN, "was told to stop, and saved its state"),
        (state == "CANCELLED", Verdict.FINAL, "was cancelled; the same command goes on where it stopped"),
        (fault, Verdict.FAULT, f"was not started by Slurm ({fault})"),
        (KILLED.search(printed), Verdict.AGAIN, "had a process killed"),
    )
    return next(((verdict, why) for sign, verdict, why in signs if sign), (Verdict.FINAL, "failed"))


def _fault(printed: str, started: bool) -> str | None:
    """The last line in which Slurm says that it could not start the program."""
    lines = [line for line in printed.splitlines() if SLURM_LINE.match(line)]
    faults = [line for line in lines if LAUNCH_FAILED.search(line) or (not started and NO_CONTACT.search(line))]
    return faults[-1] if faults else None
