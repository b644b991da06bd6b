"""The line that tells what a waiting pipeline waits for."""

from collections import Counter
from collections.abc import Mapping, Sequence

from amberline.cluster.slurm import Job

# What the commonest reasons of pending jobs mean.
MEANINGS = {
    "Resources": "waiting for free nodes",
    "Priority": "others are before it",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionNodeLimit": "too few of the partition's nodes are up",
    "ReqNodeNotAvail": "nodes are down or reserved",
    "JobHeldUser": "held; scontrol release starts it",
    "JobHeldAdmin": "held by an administrator",
    "BeginTime": "put back into the queue, starts in a moment",
}


def waiting_for(jobs: Sequence[Job], stages: Mapping[str, str]) -> str:
    """Jobs by state, and why the oldest one that does not run yet waits. `stages` are names of jobs, by number."""
    states = Counter(job.state.lower() for job in jobs)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items(), reverse=True))
    line = f"Waiting for {len(jobs)} Slurm job{'s' * (len(jobs) != 1)}: {counts}"
    waiting = [job for job in jobs if job.state in {"PENDING", "CONFIGURING"}]
    if waiting:
        oldest = min(waiting, key=lambda job: int(job.number.split("_")[0]))
        line += f". Job {oldest.number} ({stages.get(oldest.number, oldest.comment)}): {_why(oldest)}"
    return line


def _why(job: Job) -> str:
    """Why a job does not run yet: Slurm's reason, and what it means."""
    if job.state == "CONFIGURING":
        return "its nodes are being started"
    if job.reason == "None":
        return "new in the queue"
    meaning = MEANINGS.get(job.reason.split(",")[0])
    return f"{job.reason}, {meaning}" if meaning else job.reason


def with_progress(line: str, progress: Mapping[str, str]) -> str:
    """The line, and how far running stages have got."""
    return ". ".join([line, *(f"{stage}: {text}" for stage, text in progress.items())])
