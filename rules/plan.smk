"""How jobs are shown: why each runs and what it asks for, a line each; and at the end, why those failed that did.

With --verbose Snakemake shows them in its own way, with all their files.
"""

import ast
import atexit
import copy
import logging
import re
import shlex
import time

from amberline.recipe.changes import told_changes
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

MOST = 4  # changes told of one job
# Snakemake shows the whole command of a job that failed, of which all that tells people something is its log.
FAILED = re.compile(r"Command '.*\| tee (?P<log>[^|]+)' returned non-zero exit status (?P<status>\d+)\.", re.DOTALL)
INTERRUPTED = "130"  # exit status after Ctrl-C
NOT_ASKED = ("_cores", "_nodes", "tmpdir", "mem", "mem_mib")  # resources that no rule asks for in these words


class Short(logging.Formatter):
    """Snakemake's own words, except of jobs: there it would list every file, and whole settings where one has changed."""

    def __init__(self, usual):
        super().__init__()
        self.usual = usual
        self.jobs = {}
        self.failed = []  # logs of the jobs that failed

    def format(self, record):
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR:
            record = copy.copy(record)
            record.input, record.output, record.shellcmd = [], [], None
        if event != LogEvent.JOB_INFO:
            return FAILED.sub(self.failure, self.usual.format(record))
        if record.jobid not in self.jobs:
            self.jobs = {workflow.dag.jobid(job): job for job in workflow.dag.jobs}
        return shown_job(self.jobs[record.jobid], record)

    def failure(self, found):
        """A failed job by its log, which is remembered."""
        (log,) = shlex.split(found["log"])
        if found["status"] != INTERRUPTED:
            self.failed.append(log)
        return f"It ended with exit status {found['status']}; its log is {log}"

    def tell_failures(self):
        """After all that Snakemake has said: why each job failed, and where to read on."""
        for log in self.failed:
            print(f"{last_words(Path(log))}\nIts log: {log}", file=sys.stderr)


def last_words(log):
    """The last line of a log that is a program's own; what the launcher says below it is no reason."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    own = [line for line in lines if line.strip() and not line.startswith("launch: ")]
    return own[-1] if own else "A job failed, and left nothing in its log."


def shown_job(job, record):
    """A job as a plan shows it, and as it is shown when it starts."""
    wildcards = "".join(f" {name}={value}" for name, value in record.wildcards.items())
    asked = {"threads": record.threads} if record.threads > 1 else {}
    asked |= {name: value for name, value in record.resources.items() if name not in NOT_ASKED}
    told = {
        "reason": told_reason(workflow.dag.reason(job)),
        "resources": ", ".join(f"{name}={value}" for name, value in asked.items()),
        "log": "" if workflow.dryrun else ", ".join(record.log),
    }
    when = "" if workflow.dryrun else f"[{time.asctime()}]\n"
    return f"{when}rule {record.rule_name}:{wildcards}" + "".join(
        f"\n    {key}: {told[key]}" for key in told if told[key]
    )


def told_reason(reason):
    """Why a job runs; files by the first of them, settings by what changed in them."""
    if reason.forced:
        return "forced"
    found = [
        ("missing", reason.missing_output),
        ("incomplete", reason.incomplete_output),
        ("newer input", reason.updated_input - reason.updated_input_run),
        ("input that is made before it", reason.updated_input_run),
        ("changed", changes_of(reason)),
    ]
    return "; ".join(f"{name}: {first_of(each)}" for name, each in found if each) or str(reason)


def changes_of(reason):
    """What changed since a job last ran, as one text; none if nothing did."""
    params = reason.params_changed
    told = told_changes(*(map(ast.literal_eval, sorted(each)) for each in (params.only_old, params.only_new)))
    told += ["its inputs"] * bool(reason.input_changed) + ["its shell command"] * bool(reason.code_changed)
    told += ["its conda environment"] * bool(reason.software_stack_changed)
    return [", ".join(told[:MOST] + [f"and {len(told) - MOST} more"] * (len(told) > MOST))] if told else []


def first_of(names):
    """The first of several names, and how many there are beside it."""
    first, *others = sorted(map(str, names))
    return f"{first} and {len(others)} more" if others else first


if workflow.is_main_process and not IS_MODULE and not workflow.output_settings.verbose:
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            short = Short(handler.formatter)
            handler.setFormatter(short)
            atexit.register(short.tell_failures)
