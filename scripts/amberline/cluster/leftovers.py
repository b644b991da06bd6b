"""One pipeline in a folder at a time, and what becomes of the jobs of one that was killed.

Slurm jobs outlive the Snakemake that submitted them. The next start must know of them, or two jobs would write the
same files.
"""

from collections.abc import Callable
from pathlib import Path

from amberline.cluster.slurm import Job, cancel, queued
from amberline.training.place import Lock


def claim(folder: Path, prefix: str, say: Callable[[str], None]) -> Lock:
    """Make this the pipeline of a folder. Jobs that another one left there, named with a prefix, are cancelled.

    Cancelled jobs lose little: a training that is submitted again continues from its last checkpoint. Raises
    PlaceError if the other one still runs, SlurmError if Slurm does not answer.
    """
    state = folder / ".snakemake"
    (state / "amberline").mkdir(parents=True, exist_ok=True)
    lock = Lock(state / "amberline")
    if lock.acquire() is not None:
        say("The pipeline that ran here before was killed: its lock is taken over.")
        # Snakemake's own locks are of the same process, and are gone with it.
        for stale in (state / "locks").glob("*.lock"):
            stale.unlink(missing_ok=True)
    left = [job for job in queued() if job.name.startswith(prefix) and job.folder == folder]
    if left:
        say(f"An earlier start left jobs in the queue, which are cancelled now: {', '.join(map(_named, left))}.")
        cancel(left)
        say("They are gone. What they did not finish is submitted again; trainings go on from their last checkpoint.")
    return lock


def _named(job: Job) -> str:
    """For people; the executor puts the rule into the comment."""
    return f"{job.number} ({job.comment.removeprefix('rule_')}, {job.state.lower()})"
