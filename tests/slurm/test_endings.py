"""Ctrl-C and SIGTERM end a pipeline at once, whatever it waits for, and a line says what becomes of its jobs."""

import os
import signal
import time

import pytest

from slurm.pipelines import Sleepers
from slurm.stand_ins import slurm_of_stand_ins

HANGS = "exec sleep 600"
FAILS = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
LEFT = "SIGTERM: the pipeline ends; its Slurm jobs run on: 7 (sleep 0)."
CANCELLED = "Ctrl-C: the pipeline ends, its Slurm jobs were cancelled: 7 (sleep 0). Trainings write a checkpoint"
NOT_CANCELLED = "Ctrl-C: the pipeline ends, but 7 could not be cancelled (scancel"


@pytest.mark.parametrize(
    ("commands", "begun", "interrupted", "terminated"),
    [
        ({}, "1 running", CANCELLED, LEFT),
        ({"squeue": HANGS}, "is Slurm job 7", CANCELLED, LEFT),
        ({"squeue": FAILS, "scancel": FAILS}, "Slurm does not answer", NOT_CANCELLED, LEFT),
        ({"scancel": HANGS}, "1 running", NOT_CANCELLED, LEFT),
        (
            {"sbatch": HANGS, "squeue": "exit 0"},
            "rule sleep:",
            "Ctrl-C: the pipeline ends; none of its Slurm jobs was left.",
            "SIGTERM: the pipeline ends; no Slurm jobs were left.",
        ),
        (
            {"sbatch": FAILS, "squeue": FAILS, "scancel": FAILS},
            "Slurm does not answer",
            "Ctrl-C: the pipeline ends; none of its Slurm jobs was left.",
            "SIGTERM: the pipeline ends; no Slurm jobs were left.",
        ),
    ],
    ids=["waiting", "looking", "outage", "cancelling", "submitting", "submitting in an outage"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipeline_ends_within_ten_seconds(tmp_path, commands, begun, interrupted, terminated, number):
    slurm_of_stand_ins(tmp_path / "bin", **commands)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    pipeline = Sleepers(tmp_path / "project", environment)
    pipeline.until(lambda: begun in pipeline.text, 60)
    time.sleep(1)
    began = time.monotonic()
    pipeline.process.send_signal(number)
    assert pipeline.end(20) == 1
    assert time.monotonic() - began < 10
    assert (interrupted if number == signal.SIGINT else terminated) in pipeline.text, pipeline.text
    assert "Traceback" not in pipeline.text
    assert not (pipeline.folder / "results/pipeline.lock.json").exists()
    assert not list((pipeline.folder / ".snakemake").glob("locks/*"))
    if "run on" in terminated and number == signal.SIGTERM:
        # A job that is still to start could not without them.
        assert (pipeline.folder / ".snakemake/slurm_logs/rule_sleep/0").is_dir()
        assert list((pipeline.folder / ".snakemake").glob("tmp.*"))
