"""Slurm does not answer for a while: nothing is lost, one line tells of it, and Ctrl-C and SIGTERM still work."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from slurm.pipelines import Sleepers
from slurm.stand_ins import program

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SILENCE = re.compile(r"Slurm does not answer since \d\d:\d\d \(.*\); looking again in 5 s")


def without(folder: Path, environment: dict[str, str], *commands: str) -> tuple[dict[str, str], Path]:
    """An environment in which some of Slurm's commands fail for as long as a file is there."""
    switch = folder / "silent"
    for name in commands:
        fails = f"#!/bin/sh\n[ ! -e {switch} ] || {{ echo '{name}: error: Socket timed out' >&2; exit 1; }}\n"
        program(folder / "bin", name, f'{fails}exec /usr/bin/{name} "$@"\n')
    return {**environment, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}, switch


def test_commands_that_fail_for_a_while_are_tried_again(cluster, tmp_path):
    environment, silent = without(tmp_path, cluster.environment, "sbatch", "squeue", "scontrol", "sacct")
    (tmp_path / "project").mkdir()
    silent.touch()
    pipeline = Sleepers(tmp_path / "project", environment, seconds=1)
    pipeline.until(lambda: "Slurm does not answer" in pipeline.text)
    silent.unlink()
    pipeline.until(lambda: "1 running" in pipeline.text)
    silent.touch()
    pipeline.until(lambda: pipeline.text.count("Slurm does not answer") == 2)
    silent.unlink()
    assert pipeline.end(60) == 0, pipeline.text
    assert pipeline.text.count("Slurm answers again") == 2
    assert len(pipeline.submitted()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_waiting_pipeline_ends_at_once_and_says_what_becomes_of_its_jobs(cluster, tmp_path, number):
    pipeline = Sleepers(tmp_path / "project", cluster.environment, seconds=600)
    pipeline.until(lambda: "1 running" in pipeline.text)
    [job] = pipeline.submitted()
    pipeline.process.send_signal(number)
    began = time.monotonic()
    assert pipeline.end(20) == 1
    assert time.monotonic() - began < 10
    running = cluster.ask("squeue", "--noheader", "--format=%A", "--states=RUNNING").split()
    assert (job in running) is (number == signal.SIGTERM)
    what = "its Slurm jobs run on" if number == signal.SIGTERM else "its Slurm jobs were cancelled"
    assert f"{what}: {job} (sleep 0)." in pipeline.text
    assert "Traceback" not in pipeline.text
    cluster.ask("scancel", job)
