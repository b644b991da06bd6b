"""Snakemake's Slurm executor, with judgement on jobs that ended without success.

The executor itself (version 2.8) retries every failure or none, waits for ever for a job that was preempted for good
or that Slurm has forgotten, and says of a failed job where its log is, not what is in it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import snakemake_executor_plugin_slurm as plugin
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from amberline.cluster.accounts import note_job
from amberline.cluster.progress import IDLE_STARTS
from amberline.cluster.slurm import SlurmError, states
from amberline.cluster.verdict import FORGOTTEN, Verdict, judge

LINES = 20  # of a log, shown when its job has failed
SLOWEST = 4  # times the first wait between two looks at the queue; the executor's own waits grow to three minutes
# States after which nothing comes; the executor waits for more in the first two.
ENDED = {"PREEMPTED", "NODE_FAIL", FORGOTTEN}
LOOKS = 3  # at such a state before it is believed: a job that is put back into the queue may pass through it


class WatchfulExecutor(plugin.Executor):  # type: ignore[misc]
    """Submits interrupted jobs again, while they get on, and explains failures."""

    progress: Callable[[Any], str | None]  # of a Snakemake job
    record: Path  # of submitted jobs

    def __post_init__(self, test_mode: bool = False) -> None:
        """Called by Snakemake when the executor is made."""
        super().__post_init__(test_mode)
        self._looks: Counter[str] = Counter()  # by Slurm job: how often it was seen to have ended
        self._starts: dict[Any, tuple[str | None, int]] = {}  # by Snakemake job: progress, starts without any

    def get_account_arg(self, job: Any) -> Iterator[str]:
        """Without an account, none is guessed from what was run before."""
        if job.resources.get("slurm_account"):
            yield from super().get_account_arg(job)
        else:
            yield ""

    def report_job_submission(self, job_info: Any, register_job: bool = True) -> None:
        """Note the job for the report, and watch it."""
        job = job_info.job
        stage = " ".join((job.name, *(value.strip("-") for value in job.wildcards))).strip()
        note_job(self.record, job=job_info.external_jobid, name=self.run_uuid, stage=stage)
        super().report_job_submission(job_info, register_job)

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        """Yield the jobs that still run; report the others."""
        known: dict[str, str] | None = None
        async for info in super().check_active_jobs(active_jobs):
            try:
                known = states() if known is None else known
                state = known.get(info.external_jobid, FORGOTTEN)
            except SlurmError:
                state = "UNKNOWN"
            self._looks[info.external_jobid] = self._looks[info.external_jobid] + 1 if state in ENDED else 0
            if self._looks[info.external_jobid] < LOOKS:
                yield info
            elif state == FORGOTTEN and all(Path(file).exists() for file in info.job.output):
                self.report_job_success(info)  # outputs are written last, and removed by a job that fails
            else:
                self.report_job_error(info)
        slowest = SLOWEST * self.workflow.executor_settings.init_seconds_before_status_checks
        planned: float = self.next_seconds_between_status_checks  # type: ignore[has-type]
        self.next_seconds_between_status_checks = min(planned, slowest)

    def report_job_error(self, job_info: Any, msg: str | None = None, **more: Any) -> None:
        """Submit the job again if it was interrupted; else tell what happened, and Snakemake whether to retry."""
        job, number = job_info.job, job_info.external_jobid
        if number is None:
            # sbatch refused, or Slurm did not answer and may yet run the job: a second one could meet it.
            job.attempt = job.restart_times + 1
            super().report_job_error(job_info, msg, **more)
            return
        log = Path(job_info.aux["slurm_logfile"])
        continues = self.progress(job) is not None
        verdict, why = judge(_state(number), _end(log, 200), continues=continues)
        if verdict is Verdict.AGAIN and self._may_go_on(job):
            self.logger.warning(f"Slurm job {number} ({job.name}) {why}: it is submitted again.")
            self._submit_job(job)
            return
        if verdict is Verdict.AGAIN:
            why += f", {IDLE_STARTS} times without getting any further; it is not submitted again"
        if verdict is not Verdict.MORE:
            job.attempt = job.restart_times + 1  # Snakemake retries while it is less
        super().report_job_error(job_info, f"Slurm job {number} {why}.\n{_quoted(job, log)}", **more)

    def _may_go_on(self, job: Any) -> bool:
        """Whether the job got further since it was last interrupted, or has a chance left to."""
        now = self.progress(job)
        before, idle = self._starts.get(job, ("", 0))
        idle = 0 if now and now != before else idle + 1
        self._starts[job] = (now, idle)
        return idle < IDLE_STARTS


def watch_jobs(progress: Callable[[Any], str | None], record: Path) -> None:
    """Use the watchful executor. `progress` tells a Snakemake job's newest checkpoint; None if it makes none.

    `record` is the file in which submitted jobs are noted.
    """
    WatchfulExecutor.progress = staticmethod(progress)
    WatchfulExecutor.record = record
    ExecutorPluginRegistry().get_plugin("slurm").executor = WatchfulExecutor


def _state(number: str) -> str:
    """A job's state; FAILED where Slurm does not answer."""
    try:
        return states().get(number, FORGOTTEN)
    except SlurmError:
        return "FAILED"


def _end(file: Path, lines: int) -> str:
    """The last lines of a text file; empty if it cannot be read."""
    try:
        with open(file, encoding="utf-8", errors="replace") as handle:
            return "".join(handle.readlines()[-lines:])
    except OSError:
        return ""


def _quoted(job: Any, log: Path) -> str:
    """The last lines of the program's own log, or of the job's, and where the rest is."""
    own = [Path(file) for file in job.log if Path(file).is_file() and Path(file).stat().st_size]
    shown = own[0] if own else log
    lines = "".join(f"    {line}" for line in _end(shown, LINES).splitlines(keepends=True))
    return f"The last lines of {shown}:\n{lines}\nAll of the job's output: {log}\n"
