"""Which log tells what a job did, and which of its lines are worth showing."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from amberline.cluster.verdict import RETRYING, SLURM_LINE

LINES = 20  # shown of the log of a job that has failed
CLOCKS = 5  # seconds by which the clocks of file server and controller may differ
TAIL = 2**16  # bytes read of a log

BAR = re.compile(r"\d+%\|.*\| *[\d.,]+\w?/[\d.,]+\w? ")  # tqdm's; of many, the last one tells all
# The step, the number of steps, and the time left.
PROGRESS = re.compile(r"\| *(\d+)/(\d+) \[[\d:]+<([\d:?]+)")

Mark = tuple[int, int, int]  # a file's inode, size and time


def marks(files: Iterable[Path]) -> dict[Path, Mark | None]:
    """What log files are like before a job is submitted, to tell later whether it wrote them."""
    return {file: _mark(file) for file in files}


def _mark(file: Path) -> Mark | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def own_log(before: Mapping[Path, Mark | None], started: float | None) -> Path | None:
    """The log that a job's program has written in its last start; None if it has not got as far.

    `before` are the marks of when it was submitted, `started` the time of its last start as Slurm tells it.
    """
    for file, mark in before.items():
        now = _mark(file)
        if now is None or now == mark or now[1] == 0:
            continue
        if started is None or now[2] / 1e9 >= started - CLOCKS:
            return file
    return None


def end_of(file: Path) -> list[str]:
    """The last lines of a text file, of progress bars only the last one; empty if it cannot be read."""
    try:
        with open(file, "rb") as handle:
            handle.seek(max(0, file.stat().st_size - TAIL))
            text = handle.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    bars = [number for number, line in enumerate(lines) if BAR.search(line)]
    return [line for number, line in enumerate(lines) if number not in bars[:-1]]


def started(log: Path | None) -> bool:
    """Whether a program's log has lines of the program, not only Slurm's."""
    return log is not None and any(not SLURM_LINE.match(line) for line in end_of(log))


def quoted(own: Path | None, log: Path) -> str:
    """The last lines of the program's own log, or else of the job's, and where the rest is."""
    lines = end_of(own or log)[-LINES:]
    if not lines:
        return f"It printed nothing. All of the job's output would be in {log}\n"
    text = "".join(f"    {line}\n" for line in lines)
    return f"The last lines of {own or log}:\n{text}\nAll of the job's output: {log}\n"


def progress_in(log: Path) -> str | None:
    """How far the program that writes a log has got, for people."""
    found = [match for line in end_of(log) if (match := PROGRESS.search(line))]
    if not found:
        return None
    step, steps, left = found[-1].groups()
    return f"step {step} of {steps}" + ("" if "?" in left else f", {left} left")


def waits_for_nodes(log: Path) -> str | None:
    """What srun prints at the end of a job's log while it waits for nodes that it does not get."""
    lines = end_of(log)
    return lines[-1] if lines and SLURM_LINE.match(lines[-1]) and RETRYING.search(lines[-1]) else None
