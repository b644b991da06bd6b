"""Snakemake's Slurm executor, with patience for Slurm and judgement on jobs that ended without success.

The executor itself (version 2.8) forgets its jobs when Slurm does not answer for a second, retries every failure or
none, waits for ever for jobs that can never start, were preempted for good or that Slurm has forgotten, and says of a
failed job where its log is, not what is in it.
"""

import asyncio
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import snakemake_executor_plugin_slurm as plugin
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import get_job_wildcards, set_gres_string
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from amberline.cluster import logs
from amberline.cluster.accounts import ended_states, note_job
from amberline.cluster.claim import name_prefix
from amberline.cluster.endings import cancelled, end_children, left_behind
from amberline.cluster.ledger import FAULTS, Ledger, Stages
from amberline.cluster.progress import IDLE_STARTS
from amberline.cluster.requests import request_of, why_never, why_refused
from amberline.cluster.slurm import LOOK, Job, Outage, SlurmError, ask, queued
from amberline.cluster.status import waiting_for, with_progress
from amberline.cluster.submission import UNAVAILABLE, Refused, Stopped, finder, submit
from amberline.cluster.verdict import FORGOTTEN, HELD_AFTER_LAUNCH, Verdict, judge

SLOWEST = 4  # times the first wait between two looks at the queue; it grows while nothing ends
GROWTH = 10  # seconds
FAULT_WAIT = 2  # times the first wait and the number of faults, before that
STATUS_SECONDS = (30, 600)  # between two lines that tell what is waited for: if it has changed, and if it has not

ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}
# Something may come after these, or nothing.
PERHAPS_ENDED = {"PREEMPTED", "NODE_FAIL", FORGOTTEN}


class WatchfulExecutor(plugin.Executor):  # type: ignore[misc]
    """Waits for Slurm when it does not answer, submits interrupted jobs again while they get on, explains failures."""

    stages: Stages

    def __init__(self, workflow: Any, logger: Any) -> None:
        self.logger = logger
        # The thread that looks at the queue is started before __post_init__.
        self._prepare(workflow.executor_settings.init_seconds_before_status_checks)
        _leave_job()
        workflow.executor_settings.jobname_prefix = name_prefix(self.stages.results)
        super().__init__(workflow, logger)

    def _prepare(self, first_pause: float) -> None:
        """Begin with no jobs."""
        self._stopping = threading.Event()
        self._outage = Outage(self.logger.warning)
        self._first_pause = self._pause = first_pause
        self._ledger = Ledger(self.stages)
        self._failures: list[str] = []
        self._told: tuple[str, float] = ("", float("-inf"))  # what is waited for, and when that was said
        self._warned: set[str] = set()  # Slurm jobs that wait for nodes, which was said
        self._signalled = False

    # The plugin asks Slurm for accounts and partitions without a timeout, and gives the job up without an answer.
    # sbatch checks an account itself, and takes the default partition where none is named.

    def get_account_arg(self, job: Any) -> Iterator[str]:
        """The option that names the account; without an account, none is guessed from what was run before."""
        yield _option("-A", job.resources.get("slurm_account"))

    def get_partition_arg(self, job: Any) -> str:
        """The option that names the partition."""
        return _option("-p", job.resources.get("slurm_partition"))

    # Submission

    def run_jobs(self, jobs: list[Any]) -> None:
        """Called by Snakemake, in its main thread, with jobs to submit."""
        if not self._ledger.known and threading.current_thread() is threading.main_thread():
            # Snakemake's own handler, which it sets after this executor is made, waits until all jobs have ended.
            signal.signal(signal.SIGTERM, self._on_signal)
        super().run_jobs(jobs)

    def run_job(self, job: Any) -> None:
        """Submit a job, in a thread of its own."""
        stage = _stage(job)
        seconds = FAULT_WAIT * self._first_pause * self._ledger.faults[job]
        if seconds and self._stopping.wait(seconds):
            return
        before = logs.marks(Path(file) for file in job.log)
        try:
            call, script, log = self._sbatch(job)
            find = finder(self.run_uuid, _comment(job), lambda: set(self._ledger.known), self._stopping)
            number = submit(
                call, script, find, self._outage, lambda text: self.logger.warning(f"{stage}: {text}"), self._stopping
            )
        except Stopped:
            return
        except Refused as error:
            why = (
                "Fix: compare slurm/site.yaml with `sinfo -o '%P %l %D %c %m %G'`, its account with "
                "`sacctmgr show associations user=$USER`."
            )
            if UNAVAILABLE.search(str(error)):
                why = why_refused(request_of(job, self.stages.keys(job)))
            self._fails(SubmittedJobInfo(job), f"Slurm does not take the job {stage}: {error}. {why}\n")
            return
        except Exception as error:  # as the plugin does: whatever goes wrong here is an error of this job
            self._fails(SubmittedJobInfo(job), f"{stage} cannot be submitted: {error}\n")
            return
        self._ledger.submitted(number, stage, before)
        log = log.with_name(f"{number}.log")
        self.logger.info(f"Job {job.jobid} is Slurm job {number} (log: {log}).")
        self.report_job_submission(SubmittedJobInfo(job, external_jobid=number, aux={"slurm_logfile": log}))

    def _sbatch(self, job: Any) -> tuple[str, str, Path]:
        """The line that submits a job, the script that it reads, and the pattern of its log."""
        plugin.validate_slurm_extra(job)
        log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / "%j.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        parameters = {
            "run_uuid": self.run_uuid,
            "slurm_logfile": log,
            "comment_str": _comment(job),
            "account": next(self.get_account_arg(job)),
            "partition": self.get_partition_arg(job),
            "workdir": self.workflow.workdir_init,
        }
        call = get_submit_command(job, parameters, self.workflow.executor_settings, self._failed_nodes)
        return f"{call}{set_gres_string(job)} /dev/stdin", f"#!/bin/sh\n{self.format_job_exec(job)}", log

    def report_job_submission(self, job_info: Any, register_job: bool = True) -> None:
        """Note the job for the report, and watch it."""
        note_job(self.stages.record, job=job_info.external_jobid, name=self.run_uuid, stage=_stage(job_info.job))
        super().report_job_submission(job_info, register_job)

    # Watching

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        """Yield the jobs that are not known to have ended; report the others."""
        if not active_jobs:
            self._pause = self._first_pause
            return
        try:
            listed = self._look([info.external_jobid for info in active_jobs])
        except SlurmError as error:
            if not self._stopping.is_set():
                self._pause = self._outage.failed(LOOK, str(error))
            for info in active_jobs:
                yield info
            return
        self._outage.answered(LOOK)
        waiting = [info for info in active_jobs if not self._reported(info, listed.get(info.external_jobid))]
        for info in waiting:
            yield info
        ended = len(waiting) < len(active_jobs)
        self._pause = self._first_pause if ended else min(self._pause + GROWTH, SLOWEST * self._first_pause)
        if waiting:
            self._tell(waiting, listed)

    async def sleep(self) -> None:
        """Wait until the next look at the queue, or until the pipeline ends."""
        # No thread can be started any more when a pipeline with nothing to do ends at once.
        end = time.monotonic() + self._pause
        while not self._stopping.is_set() and time.monotonic() < end:
            await asyncio.sleep(0.2)

    def _look(self, numbers: Sequence[str]) -> dict[str, Job]:
        """What Slurm knows of jobs. Raises SlurmError."""
        listed = {job.number: job for job in queued(name=self.run_uuid, ended=True, stop=self._stopping)}
        forgotten = [number for number in numbers if number not in listed]
        if forgotten and self.workflow.executor_settings.status_command == "sacct":
            with suppress(SlurmError):
                for number, state in ended_states(forgotten).items():
                    listed[number] = Job(number, state, self.run_uuid, "", "")
        return listed

    def _reported(self, info: Any, job: Job | None) -> bool:
        """Whether a job has ended, or can never start, and Snakemake was told."""
        number, state = info.external_jobid, job.state if job else FORGOTTEN
        if state == "COMPLETED":
            self._succeeds(info)
        elif state in ENDED or (state in PERHAPS_ENDED and self._ledger.seen(number, state)):
            # Outputs are written last, and removed by a job that fails.
            if state == FORGOTTEN and all(Path(file).exists() for file in info.job.output):
                self._succeeds(info)
            else:
                self._ended(info, state, job.started if job else None)
        elif job and state == "PENDING":
            return self._never_starts(info, job)
        else:
            return False
        return True

    def _never_starts(self, info: Any, job: Job) -> bool:
        """Whether a pending job can never start; it is then taken out of the queue."""
        held = HELD_AFTER_LAUNCH.search(job.reason)
        request = request_of(info.job, self.stages.keys(info.job))
        try:
            why = None if held else why_never(job, request)
            if not (held or why) or not self._ledger.seen(job.number, job.reason):
                return False
            ask("scancel", job.number)
        except SlurmError:
            return False
        if held:
            self._after_fault(info, f"could not be launched by its node, and was held ({job.reason})")
        else:
            self._fails(info, f"Slurm job {job.number} ({_stage(info.job)}) cannot start: {why}. It was cancelled.\n")
        return True

    def _tell(self, waiting: Sequence[Any], listed: Mapping[str, Job]) -> None:
        """Say what is waited for, if it has changed or was not said for long."""
        jobs = [listed[info.external_jobid] for info in waiting if info.external_jobid in listed]
        for info in waiting:
            number, log = info.external_jobid, Path(info.aux["slurm_logfile"])
            if number not in self._warned and (line := logs.waits_for_nodes(log)):
                self._warned.add(number)
                self.logger.warning(f"Slurm job {number} ({_stage(info.job)}) waits for its nodes: {line}")
        line, (before, when), now = waiting_for(jobs, self._ledger.known), self._told, time.monotonic()
        if jobs and now - when >= STATUS_SECONDS[line == before]:
            self._told = (line, now)
            self.logger.info(with_progress(line, self._progress(waiting, listed)))

    def _progress(self, waiting: Sequence[Any], listed: Mapping[str, Job]) -> dict[str, str]:
        """How far running stages have got, as their own logs tell."""
        found = {}
        for info in waiting:
            job = listed.get(info.external_jobid)
            if job and job.state == "RUNNING":
                log = self._ledger.own_log(job.number, job.started)
                if log and (text := logs.progress_in(log)):
                    found[_stage(info.job)] = text
        return found

    # Ends of jobs

    def _succeeds(self, info: Any) -> None:
        self._ledger.running.discard(info.external_jobid)
        if not self.workflow.executor_settings.keep_successful_logs:
            with suppress(OSError):
                Path(info.aux["slurm_logfile"]).unlink(missing_ok=True)
        self.report_job_success(info)

    def _ended(self, info: Any, state: str, started: float | None) -> None:
        """Submit a job again that was interrupted; else tell what happened, and Snakemake whether to retry."""
        job, number, log = info.job, info.external_jobid, Path(info.aux["slurm_logfile"])
        own = self._ledger.own_log(number, started)
        printed = "\n".join([*logs.end_of(log), *(logs.end_of(own) if own else [])])
        verdict, why = judge(state, printed, continues=self.stages.training(job) is not None, started=logs.started(own))
        if verdict is Verdict.FAULT:
            self._after_fault(info, why)
            return
        if verdict is Verdict.AGAIN and self._ledger.may_go_on(job):
            self._again(info, why)
            return
        if verdict is Verdict.AGAIN:
            why += f", {IDLE_STARTS} times without getting any further; it is not submitted again"
        self._fails(
            info,
            f"Slurm job {number} ({_stage(job)}) {why}.\n{logs.quoted(own, log)}",
            final=verdict is not Verdict.MORE,
        )

    def _after_fault(self, info: Any, why: str) -> None:
        """Submit a job again which Slurm did not start, unless that was done too often."""
        if self._ledger.may_be_started_again(info.job):
            self._again(info, why)
            return
        why += f", {FAULTS + 1} times. Fix: ask the cluster's administrators, then type the same command"
        log = Path(info.aux["slurm_logfile"])
        self._fails(info, f"Slurm job {info.external_jobid} ({_stage(info.job)}) {why}.\n{logs.quoted(None, log)}")

    def _again(self, info: Any, why: str) -> None:
        self._ledger.running.discard(info.external_jobid)
        self.logger.warning(f"Slurm job {info.external_jobid} ({_stage(info.job)}) {why}: it is submitted again.")
        self._submit_job(info.job)

    def _fails(self, info: Any, message: str, *, final: bool = True) -> None:
        """Tell Snakemake of a failure; a final one is not tried again."""
        self._ledger.running.discard(info.external_jobid)
        if final:
            info.job.attempt = info.job.restart_times + 1  # Snakemake retries while it is less
        if info.job.attempt > info.job.restart_times:
            self._failures.append(_summary(message, info.job))
        self.report_job_error(info, message)

    # The end of the pipeline

    def _on_signal(self, *_: Any) -> NoReturn:
        """End the pipeline, in Snakemake's main thread, and leave its jobs."""
        self._signalled = True
        raise SystemExit

    def cancel(self) -> None:
        """Called by Snakemake after Ctrl-C, after SIGTERM, and after an error of its own."""
        why = "Ctrl-C" if isinstance(sys.exception(), KeyboardInterrupt) else "An error in Snakemake"
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._stopping.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        line = left_behind(self._ledger) if self._signalled else cancelled(self.run_uuid, self._ledger, why)
        end_children()
        if self._ledger.running:
            self._stop_looking()
        else:
            super().shutdown()
        self.logger.warning(line)

    def _stop_looking(self) -> None:
        """End the thread that looks at the queue, but keep the folder that each job waits for when it starts."""
        with self.lock:
            self.wait = False
        self.wait_thread.join()

    def clean_old_logs(self) -> None:
        """Called by the plugin at the end: remove old logs, but no folders.

        The plugin would remove empty ones. A job that is still to start, ours or that of another pipeline in this
        clone, could not write its log then, and die of it.
        """
        settings = self.workflow.executor_settings
        if settings.keep_successful_logs or settings.delete_logfiles_older_than <= 0:
            return
        oldest = time.time() - settings.delete_logfiles_older_than * 24 * 60 * 60
        for log in self.slurm_logdir.rglob("*.log"):
            with suppress(OSError):
                if log.stat().st_mtime < oldest:
                    log.unlink()

    def shutdown(self) -> None:
        """Called by Snakemake when no jobs are left."""
        self._stopping.set()
        super().shutdown()
        if self._failures:
            self.logger.error("Failed:\n" + "\n".join(f"  {line}" for line in self._failures))


def watch_jobs(stages: Stages) -> None:
    """Use the watchful executor."""
    WatchfulExecutor.stages = stages
    ExecutorPluginRegistry().get_plugin("slurm").executor = WatchfulExecutor


def _leave_job() -> None:
    """Forget that the pipeline itself is a Slurm job (slurm/submit.sh), of which the plugin would warn.

    The plugin would then forget SLURM_CONF, too, without which some clusters' commands do not work.
    """
    if "SLURM_JOB_ID" in os.environ:
        for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
            del os.environ[name]


def _option(name: str, value: Any) -> str:
    """An option of sbatch; empty without a value."""
    return f" {name} {shlex.quote(str(value))}" if value else ""


def _stage(job: Any) -> str:
    """A job's name for people: its rule and its wildcards."""
    return " ".join((job.name, *(value.strip("-") for value in job.wildcards))).strip()


def _comment(job: Any) -> str:
    """A job's comment, by which Slurm's commands show what it is."""
    wildcards = get_job_wildcards(job)
    return f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")


def _summary(message: str, job: Any) -> str:
    """The first line of a failure's message, and where the program's log is."""
    line = message.splitlines()[0]
    return f"{line} Log: {', '.join(job.log)}" if job.log else line
