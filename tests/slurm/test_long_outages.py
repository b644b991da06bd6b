"""Outages of the controller that take minutes, with -m slurm_long."""

import re
import time

import pytest

from slurm.pipelines import Sleepers
from slurm.test_outages import SILENCE

pytestmark = [pytest.mark.slurm_long, pytest.mark.timeout(1800)]


def test_jobs_that_end_while_the_controller_is_away_are_not_forgotten(cluster, tmp_path):
    pipeline = Sleepers(tmp_path / "project", cluster.environment, jobs=2, seconds=6)
    logs = [pipeline.folder / f"results/logs/sleep-{number}.log" for number in range(2)]
    pipeline.until(lambda: all(log.exists() for log in logs))
    cluster.stop_controller()
    try:
        pipeline.until(lambda: "Slurm does not answer" in pipeline.text)
        time.sleep(6)
    finally:
        cluster.start_controller()
    assert pipeline.end(120) == 0, pipeline.text
    assert len(pipeline.submitted()) == 2
    assert len(SILENCE.findall(pipeline.text)) == 1, pipeline.text
    assert len(re.findall(r"Slurm answers again, after \d+ s\.", pipeline.text)) == 1


def test_jobs_that_cannot_start_while_the_controller_is_away_are_submitted_again(cluster, tmp_path):
    pipeline = Sleepers(tmp_path / "project", cluster.environment)
    pipeline.until(lambda: "1 running" in pipeline.text)
    cluster.stop_controller()
    try:
        pipeline.until(lambda: "Unable to confirm allocation" in slurm_log(pipeline))
    finally:
        cluster.start_controller()
    assert pipeline.end(120) == 0, pipeline.text
    assert len(pipeline.submitted()) == 2
    assert re.search(r"was not started by Slurm \(srun: error: .*\): it is submitted again\.", pipeline.text)


def slurm_log(pipeline: Sleepers) -> str:
    """What the logs of all its jobs say."""
    return "".join(log.read_text() for log in pipeline.folder.glob(".snakemake/slurm_logs/**/*.log"))
