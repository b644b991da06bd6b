"""What to do when a job has ended without success."""

import re
from enum import Enum


class Verdict(Enum):
    """What becomes of a job."""

    AGAIN = "again"  # it was interrupted: the same again, as long as it gets on
    MORE = "more"  # it lacked memory or time: again, with more of it
    FINAL = "final"  # it failed by itself, and would again; or somebody cancelled it


FORGOTTEN = "FORGOTTEN"  # no state of Slurm's: it does not list the job any more

# What the launcher prints when a training has saved its state, but cannot be put back into the queue from within.
SUBMIT_AGAIN = "the training goes on when this job is submitted again"

# A job is not always in the state OUT_OF_MEMORY when it was killed for memory: that depends on which part of it was.
MEMORY = re.compile(
    r"oom.kill|out.of.memory handler|exceeded (job |step )?memory limit|memory limit .*being killed", re.I
)
# As torchrun tells of a process that did not end by itself: a machine's fault, or somebody's kill.
KILLED = re.compile(r"Signal \d+ \(SIG(KILL|TERM|ABRT|BUS|SEGV)\) received by PID")


def judge(state: str, printed: str, *, continues: bool) -> tuple[Verdict, str]:
    """The verdict on a job in a final state of Slurm, and why, as a clause.

    `printed` is the end of its log. `continues` tells that it goes on from a checkpoint when it is started again.
    """
    again_or_more = Verdict.AGAIN if continues else Verdict.MORE
    signs = (
        (state == "OUT_OF_MEMORY" or MEMORY.search(printed), Verdict.MORE, "ran out of memory"),
        (state == "TIMEOUT", again_or_more, "reached its time limit"),
        (state == "PREEMPTED", Verdict.AGAIN, "had to make room for others"),
        (state in {"NODE_FAIL", "BOOT_FAIL", FORGOTTEN}, Verdict.AGAIN, "was lost with its node"),
        (SUBMIT_AGAIN in printed, Verdict.AGAIN, "was told to stop, and saved its state"),
        (state == "CANCELLED", Verdict.FINAL, "was cancelled; the same command goes on where it stopped"),
        (KILLED.search(printed), Verdict.AGAIN, "had a process killed"),
    )
    return next(((verdict, why) for sign, verdict, why in signs if sign), (Verdict.FINAL, "failed"))
