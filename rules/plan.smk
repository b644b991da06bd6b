"""How jobs are shown, in a plan and when they start: why each runs and what it asks for, a line each.

With --verbose Snakemake shows them in its own way, with all their files.
"""

import ast
import logging
import time

from amberline.recipe.changes import told_changes
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

MOST = 4  # changes told of one job
NOT_ASKED = ("_cores", "_nodes", "tmpdir", "mem", "mem_mib")  # resources that no rule asks for in these words


class Short(logging.Formatter):
    """Snakemake's own words, except of jobs: there it would list every file, and whole settings where one has changed."""

    def __init__(self, usual):
        super().__init__()
        self.usual = usual
        self.jobs = {}

    def format(self, record):
        if getattr(record, "event", None) != LogEvent.JOB_INFO:
            return self.usual.format(record)
        if record.jobid not in self.jobs:
            self.jobs = {workflow.dag.jobid(job): job for job in workflow.dag.jobs}
        return shown_job(self.jobs[record.jobid], record)


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
            handler.setFormatter(Short(handler.formatter))
