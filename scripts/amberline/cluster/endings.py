"""What becomes of a pipeline's Slurm jobs, and of the programs beside it, when it is told to end."""

import json
import os
from contextlib import suppress
from pathlib import Path

import psutil

from amberline.cluster.ledger import Ledger
from amberline.cluster.slurm import SlurmError, ask, queued

SECONDS = 3  # for each of two questions to Slurm: the pipeline is to end at once


def left_behind(ledger: Ledger) -> str:
    """What to say when jobs are left to run on."""
    if not ledger.running:
        return "SIGTERM: the pipeline ends; no Slurm jobs were left. Type the same command to go on."
    return (
        f"SIGTERM: the pipeline ends; its Slurm jobs run on: {ledger.named(ledger.running)}. The same command cancels "
        "what still runs then, and goes on."
    )


def cancelled(run: str, ledger: Ledger, why: str) -> str:
    """Cancel all jobs with the name of this run; none runs then, unless Slurm does not answer. Returns what to say."""
    numbers = set(ledger.running)
    # Slurm may have taken a job whose number we have not heard.
    with suppress(SlurmError):
        numbers = {job.number for job in queued(name=run, seconds=SECONDS)}
    if not numbers:
        ledger.running.clear()
        return f"{why}: the pipeline ends; none of its Slurm jobs was left."
    try:
        ask("scancel", *sorted(numbers), seconds=SECONDS)
    except SlurmError as error:
        return (
            f"{why}: the pipeline ends, but {', '.join(sorted(numbers))} could not be cancelled ({error}). "
            f"Fix: scancel --name={run}, or type the same command, which cancels them first."
        )
    ledger.running.clear()
    return (
        f"{why}: the pipeline ends, its Slurm jobs were cancelled: {ledger.named(numbers)}. Trainings write a "
        "checkpoint before they end. Type the same command to go on."
    )


def saved_trainings(checkpoints: Path) -> dict[str, int]:
    """The trainings that wait to be started again, and the steps that each has done."""
    saved = {}
    for mark in sorted(checkpoints.glob("*.requeue.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            steps = json.loads(mark.read_text(encoding="utf-8"))["steps"]
            saved[mark.name.removesuffix(".requeue.json")] = steps
    return saved


def interrupted(checkpoints: Path, before: dict[str, int]) -> str:
    """What to say after a Ctrl-C without Slurm: what is kept, and how to go on. `before`: saved by an earlier start."""
    now = saved_trainings(checkpoints).items() - before.items()
    saved = [f"{training} is saved after step {steps}" for training, steps in sorted(now)]
    kept = "; ".join(["finished stages are kept", *saved])
    return f"Ctrl-C: the pipeline ends; {kept}. Type the same command to go on."


def end_children() -> None:
    """End the programs that run beside this process."""
    for child in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.terminate()
