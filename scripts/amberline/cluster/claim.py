"""One pipeline in a results folder at a time, and what becomes of the processes and jobs of one that was killed.

Slurm jobs outlive the Snakemake that submitted them, and so do the programs that a killed Snakemake has started on its
own machine. The next start must end them first, or two programs would write the same files.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from amberline.cluster.accounts import RECORD
from amberline.cluster.remains import clear
from amberline.cluster.slurm import NO_CLUSTER, Job, SlurmError, cancel, queued
from amberline.core.locks import Lock, LockError, user_name

PREFIX = "amberline_"  # begins the names of all Slurm jobs that are submitted
VARIABLE = "AMBERLINE_RESULTS"  # in the environment of every program of a pipeline: its results folder
SECONDS = 120  # for programs to end by themselves: a training writes a checkpoint


class ClaimError(Exception):
    """The results folder, or the working directory, cannot be used."""


def name_prefix(results: Path) -> str:
    """How the names of a results folder's Slurm jobs begin, whichever clone of the project submits them."""
    return PREFIX + hashlib.sha256(str(results.resolve()).encode()).hexdigest()[:12]


def claim(results: Path, say: Callable[[str], None]) -> Lock:
    """Make this the pipeline of a results folder, and end what a killed one left running.

    Little is lost: trainings write a checkpoint, and go on from it. Raises ClaimError where a folder belongs to
    somebody else or another pipeline may be at work, SlurmError if Slurm does not answer.
    """
    _check_state(Path(".snakemake"))
    lock = Lock(results, "pipeline.lock.json")
    before = None
    try:
        results.mkdir(parents=True, exist_ok=True)
        before = lock.holder()
        taken_over = lock.acquire() is not None
    except LockError as error:
        raise ClaimError(str(error)) from None
    except PermissionError as error:
        raise ClaimError(_held(results, before) + _whose(Path(error.filename or results))) from None
    try:
        if taken_over:
            say(f"The pipeline that wrote to {results} before was killed: its lock is taken over.")
        if taken_over and before and before.get("folder") == str(Path.cwd()):
            # Snakemake's own locks are of the same process, and are gone with it.
            for stale in Path(".snakemake/locks").glob("*.lock"):
                stale.unlink(missing_ok=True)
        _end_programs(results, say)
        _end_jobs(results, say)
        clear(results, say)
    except BaseException:
        lock.release()
        raise
    os.environ[VARIABLE] = str(results.resolve())
    return lock


def _check_state(state: Path) -> None:
    """Raise ClaimError if Snakemake cannot write its state, before it fails with a traceback."""
    inside = state.glob("*") if os.access(state, os.R_OK | os.X_OK) else ()
    for folder in (state if state.exists() else Path.cwd(), *inside):
        if folder.is_dir() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise ClaimError(_whose(folder))


def _held(results: Path, holder: Mapping[str, Any] | None) -> str:
    """Who holds a results folder in which no lock can be written; empty if nobody does."""
    if holder is None:
        return ""
    return (
        f"{results} is in use by user {holder.get('user')} (process {holder['pid']} on {holder['host']}, since "
        f"{holder.get('since')}). "
    )


def _whose(path: Path) -> str:
    """Whose a path is that cannot be written."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        owner = path.owner()
    except KeyError:
        owner = f"user {path.stat().st_uid}"
    return (
        f"{path.absolute()} belongs to {owner}, and {user_name()} may not write there. Fix: run the pipeline in a "
        f"clone of your own, with `results:` in a folder of your own, or ask {owner} for access"
    )


def _end_programs(results: Path, say: Callable[[str], None]) -> None:
    """End programs on this machine that a killed pipeline left."""
    left = _programs(results)
    if not left:
        return
    say(
        f"A killed pipeline left programs that still write to {results}, which are ended now: "
        f"{', '.join(str(each.pid) for each in left)}."
    )
    for process in left:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(left, timeout=SECONDS)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive)
    say("They are gone. Trainings go on from their last checkpoint.")


def _programs(results: Path) -> list[psutil.Process]:
    """My processes on this machine that belong to a results folder; those of Slurm jobs are Slurm's to end."""
    mine = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        of_slurm = environment.get("SLURM_JOB_ID") not in {None, os.environ.get("SLURM_JOB_ID")}
        if environment.get(VARIABLE) == str(results.resolve()) and process.pid not in mine and not of_slurm:
            found.append(process)
    return found


def _quietly(end: Callable[[], None]) -> None:
    try:
        end()
    except psutil.NoSuchProcess:
        return


def _end_jobs(results: Path, say: Callable[[str], None]) -> None:
    """Cancel Slurm jobs that an earlier pipeline left in the queue. Raises ClaimError, SlurmError."""
    if not (results / RECORD).exists() or shutil.which("squeue") is None:
        return  # no job was ever submitted for these results, or not from here
    try:
        left = [job for job in queued() if job.name.startswith(name_prefix(results))]
    except SlurmError as error:
        if NO_CLUSTER in str(error):
            return
        raise SlurmError(
            f"{error}. Slurm jobs of an earlier start may still write to {results}, so nothing was started. "
            "Fix: type the same command again when squeue answers"
        ) from None
    others = [job for job in left if job.user != user_name()]
    if others:
        raise ClaimError(
            f"Slurm jobs of {others[0].user} still write to {results}: {', '.join(map(_named, others))}. "
            f"Fix: wait for them, or ask {others[0].user} for: scancel {' '.join(job.number for job in others)}"
        )
    if left:
        say(f"An earlier start left jobs in the queue, which are cancelled now: {', '.join(map(_named, left))}.")
        cancel(left)
        say("They are gone. What they did not finish is submitted again; trainings go on from their last checkpoint.")


def _named(job: Job) -> str:
    """For people; the executor puts the rule into the comment."""
    what = job.comment.removeprefix("rule_").replace("_wildcards_", " ")
    return f"{job.number} ({what}, {job.state.lower()})"
