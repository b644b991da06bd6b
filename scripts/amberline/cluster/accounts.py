"""What became of the pipeline's Slurm jobs, and how much they used of what they asked for.

Snakemake's executor notes each job that it submits in a file beside the logs; Slurm's accounts, where the cluster keeps
any, tell the rest when the report is written.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from amberline.cluster.slurm import SlurmError, ask

RECORD = Path("logs/slurm-jobs.jsonl")  # of submitted jobs, in the results folder; no input of any rule
SECONDS = 20  # for an answer: sacct waits for a database that does not answer, however long that takes
LOOKS = 3  # at accounts in which a job still seems to run: they are a moment late
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# A start of a job as sacct prints it, and its steps, each of which measured its own memory.
FIELDS = ("JobID", "JobName", "State", "ElapsedRaw", "TotalCPU", "CPUTimeRAW", "MaxRSS", "AllocTRES")
Row = dict[str, str]
Start = list[Row]  # the job's own row first


def note_job(record: Path, *, job: str, name: str, stage: str) -> None:
    """Add a submitted job to the record: its number, its name (Snakemake's, one for all jobs of a run), its stage."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with open(record, "a", encoding="utf-8") as lines:
        lines.write(json.dumps({"job": job, "name": name, "stage": stage}) + "\n")


def accounts(record: Path) -> dict[str, Any]:
    """The recorded jobs that led to what is there now, one entry a start, and why there are no figures of them.

    `jobs`: stage, job, state, seconds, cpu_efficiency (CPU time / (cores · time)), peak_memory and asked_memory (bytes
    on one node), nodes, gpus; null where it is not known. `missing`: the reason, or null.
    """
    jobs = _recorded(record)
    if not jobs:
        return {"missing": None, "jobs": []}
    try:
        starts, missing = _settled_starts(jobs), None
    except SlurmError as error:
        starts, missing = [], str(error)
    entries = [entry for job in jobs for entry in _entries(job, starts)]
    return {"missing": missing, "jobs": _without_replaced(entries)}


def _recorded(record: Path) -> list[dict[str, str]]:
    """The jobs in the record; lines that a kill or a power loss has left unreadable are passed over."""
    jobs = []
    for line in record.read_bytes().splitlines() if record.exists() else ():
        with suppress(ValueError):
            job = json.loads(line)
            if isinstance(job, dict) and {"job", "name", "stage"} <= job.keys():
                jobs.append(job)
    return jobs


def _settled_starts(jobs: Sequence[Mapping[str, str]]) -> list[Start]:
    """What Slurm's accounts have of some jobs, when all have ended or after a few looks. Raises SlurmError."""
    for look in range(LOOKS):
        if look:
            time.sleep(2)
        starts = list(_starts(sacct([job["job"] for job in jobs])))
        if all(_state(start) not in {"PENDING", "RUNNING", "COMPLETING"} for start in starts):
            break
    return starts


def sacct(numbers: Sequence[str]) -> str:
    """Slurm's accounts of all starts of some jobs, one start or step a line. Raises SlurmError."""
    return ask(
        *("sacct", f"--jobs={','.join(numbers)}", "--duplicates", "--parsable2", "--noheader", "--noconvert"),
        f"--format={','.join(FIELDS)}",
        seconds=SECONDS,
    )


def ended_states(numbers: Sequence[str]) -> dict[str, str]:
    """The states of some jobs, by number, as far as Slurm's accounts have them. Raises SlurmError."""
    rows = ask(
        *("sacct", f"--jobs={','.join(numbers)}", "--allocations", "--parsable2", "--noheader", "--format=JobID,State"),
        seconds=SECONDS,
    ).splitlines()
    return {number: state.split()[0] for number, state in (row.split("|", 1) for row in rows)}


def _starts(printed: str) -> Iterator[Start]:
    """Each start of each job: its own row, and behind it those of its steps."""
    start: Start = []
    for line in printed.splitlines():
        row = dict(zip(FIELDS, line.split("|"), strict=True))
        if start and "." not in row["JobID"]:
            yield start
            start = []
        start.append(row)
    if start:
        yield start


def _entries(job: Mapping[str, str], starts: Sequence[Start]) -> list[dict[str, Any]]:
    """A recorded job's starts; one without figures where the accounts have none."""
    # Numbers are used again when a cluster's controller is set up anew; names are not.
    own = [start for start in starts if (start[0]["JobID"], start[0]["JobName"]) == (job["job"], job["name"])]
    return [{"stage": job["stage"], "job": job["job"], **_figures(start)} for start in own or [[]]]


def _figures(start: Start) -> dict[str, Any]:
    whole = start[0] if start else dict.fromkeys(FIELDS, "")
    granted = dict(part.split("=") for part in whole["AllocTRES"].split(",") if part)
    nodes = int(granted["node"]) if "node" in granted else None
    asked_seconds = int(whole["CPUTimeRAW"] or 0)
    peaks = [_bytes(step["MaxRSS"]) for step in start if step["MaxRSS"]]
    return {
        "state": _state(start) if start else None,
        "seconds": int(whole["ElapsedRaw"]) if start else None,
        "cpu_efficiency": _seconds(whole["TotalCPU"]) / asked_seconds if asked_seconds else None,
        "peak_memory": max(peaks, default=None),
        "asked_memory": _bytes(granted["mem"]) // nodes if nodes and "mem" in granted else None,
        "nodes": nodes,
        "gpus": int(granted["gres/gpu"]) if "gres/gpu" in granted else None,
    }


def _without_replaced(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without starts whose stage was completed, and later made again."""
    lasting: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        before = lasting.setdefault(entry["stage"], [])
        if before and before[-1]["state"] == "COMPLETED":
            before.clear()
        before.append(entry)
    return [entry for each in lasting.values() for entry in each]


def _state(start: Start) -> str:
    return start[0]["State"].split()[0]  # without "by" whom it was cancelled


def _bytes(text: str) -> int:
    """A size as Slurm prints it, such as 320604K."""
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)", text).groups()  # type: ignore[union-attr]
    return int(float(number) * UNITS[unit])


def _seconds(text: str) -> float:
    """A time as Slurm prints it: [[days-]hours:]minutes:seconds."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return int(days or 0) * 86400 + seconds
