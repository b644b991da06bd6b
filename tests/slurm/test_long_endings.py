"""Ctrl-C and SIGTERM in each state in which a pipeline waits for a real cluster, and what the next start does then."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.local_cluster import local_cluster, why_not
from slurm.pipelines import Sleepers
from slurm.stand_ins import program
from slurm.test_outages import without

pytestmark = [pytest.mark.slurm_long, pytest.mark.timeout(900)]


class Trial:
    """A pipeline to be, and the cluster that it waits for."""

    def __init__(self, cluster, folder: Path) -> None:
        self.cluster, self.folder, self.environment = cluster, folder, cluster.environment
        self.config: dict[str, object] = {"seconds": 600}

    def start(self, **config: object) -> Sleepers:
        return Sleepers(self.folder / "project", self.environment, **{**self.config, **config})

    def waits(self, *sentences: str) -> Sleepers:
        """Start the pipeline, and wait until it has said all sentences."""
        pipeline = self.start()
        pipeline.until(lambda: all(re.search(sentence, pipeline.text) for sentence in sentences), 120)
        return pipeline

    def works(self) -> Sleepers:
        """Start the pipeline, and wait until its job's program runs."""
        pipeline = self.waits("1 running")
        pipeline.until((pipeline.folder / "results/logs/sleep-0.log").exists)
        return pipeline

    @contextlib.contextmanager
    def crowd(self, jobs: int) -> Iterator[None]:
        """Jobs of others, each of which needs all nodes for itself."""
        others = [
            self.cluster.ask(
                *("sbatch", "--parsable", "--nodes=2", "--exclusive", "--mem=100", "--output=/dev/null"),
                *("--wrap", "sleep 600"),
            ).strip()
            for _ in range(jobs)
        ]
        try:
            yield
        finally:
            self.cluster.ask("scancel", *others)


# Each state is entered, held while the pipeline is ended, and left before the next start.


@contextlib.contextmanager
def running(trial: Trial) -> Iterator[Sleepers]:
    yield trial.works()


@contextlib.contextmanager
def pending_for_resources(trial: Trial) -> Iterator[Sleepers]:
    with trial.crowd(1):
        yield trial.waits(r"1 pending\. Job \d+ \(sleep 0\): Resources, waiting for free nodes")


@contextlib.contextmanager
def pending_behind_others(trial: Trial) -> Iterator[Sleepers]:
    with trial.crowd(2):
        yield trial.waits(r"1 pending\. Job \d+ \(sleep 0\): Priority, others are before it")


@contextlib.contextmanager
def without_controller(trial: Trial) -> Iterator[Sleepers]:
    pipeline = trial.works()
    trial.cluster.stop_controller()
    try:
        pipeline.until(lambda: "Slurm does not answer" in pipeline.text)
        yield pipeline
    finally:
        trial.cluster.start_controller()


@contextlib.contextmanager
def submitting_without_controller(trial: Trial) -> Iterator[Sleepers]:
    trial.cluster.stop_controller()
    try:
        yield trial.waits("Slurm does not answer")
    finally:
        trial.cluster.start_controller()


@contextlib.contextmanager
def without_squeue(trial: Trial) -> Iterator[Sleepers]:
    trial.environment, silent = without(trial.folder, trial.environment, "squeue")
    pipeline = trial.works()
    silent.touch()
    pipeline.until(lambda: "Slurm does not answer" in pipeline.text)
    yield pipeline
    silent.unlink()


@contextlib.contextmanager
def waiting_for_its_nodes(trial: Trial) -> Iterator[Sleepers]:
    """What a job has been given is still in use, so Slurm does not start its program."""
    busy = trial.folder / "busy"
    busy.touch()
    occupied = f"srun --ntasks=1 sh -c 'while [ -e {busy} ]; do sleep 0.2; done' < /dev/null > /dev/null 2>&1"
    start = f'[ ! -e {busy} ] || {{ /usr/bin/{occupied} & sleep 1; }}\nexec /usr/bin/srun "$@"\n'
    program(trial.folder / "bin", "srun", f"#!/bin/sh\n{start}")
    trial.environment = {**trial.environment, "PATH": f"{trial.folder / 'bin'}:{os.environ['PATH']}"}
    yield trial.waits(r"Slurm job \d+ \(sleep 0\) waits for its nodes: srun: .*, retrying")
    busy.unlink()


@contextlib.contextmanager
def partition_down(trial: Trial) -> Iterator[Sleepers]:
    trial.cluster.ask("scontrol", "update", "PartitionName=cpu", "State=DOWN")
    try:
        yield trial.waits("PartitionDown, the partition is down")
    finally:
        trial.cluster.ask("scontrol", "update", "PartitionName=cpu", "State=UP")


STATES = [
    running,
    pending_for_resources,
    pending_behind_others,
    without_controller,
    submitting_without_controller,
    without_squeue,
    waiting_for_its_nodes,
    partition_down,
]


def ends(pipeline: Sleepers, number: signal.Signals) -> str:
    """End a pipeline, within ten seconds. Returns what it says about it."""
    began = time.monotonic()
    pipeline.process.send_signal(number)
    assert pipeline.end(30) == 1
    seconds = time.monotonic() - began
    print(f"{number.name}: {seconds:.1f} s\n{pipeline.text}")
    assert seconds < 10
    assert "Traceback" not in pipeline.text
    [said] = [line for line in pipeline.text.splitlines() if "the pipeline ends" in line]
    return said


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_pipeline_is_ended_and_started_again(cluster, tmp_path, state, number):
    trial = Trial(cluster, tmp_path)
    with state(trial) as pipeline:
        said = ends(pipeline, number)
        jobs = pipeline.submitted()
    cancels = number == signal.SIGINT and state is not without_controller
    if state is submitting_without_controller:
        assert not jobs
        assert said.startswith(
            "Ctrl-C: the pipeline ends; none of its Slurm jobs was left."
            if number == signal.SIGINT
            else "SIGTERM: the pipeline ends; no Slurm jobs were left."
        )
    elif number == signal.SIGTERM:
        assert said.startswith(f"SIGTERM: the pipeline ends; its Slurm jobs run on: {jobs[0]} (sleep 0).")
    elif cancels:
        assert said.startswith(f"Ctrl-C: the pipeline ends, its Slurm jobs were cancelled: {jobs[0]} (sleep 0).")
    else:
        assert said.startswith(f"Ctrl-C: the pipeline ends, but {jobs[0]} could not be cancelled (scancel")

    following = trial.start(seconds=1)
    assert following.end(120) == 0, following.text
    print(following.text)
    # One that was cancelled may not be gone yet.
    found = re.findall(r"(\d+) \(sleep_wildcards_0, (?:running|pending)\)", following.text)
    assert found == ([] if cancels else jobs), following.text
    queue = cluster.ask("squeue", "--noheader", "--format=%Z").splitlines()
    assert str(pipeline.folder) not in queue


def test_a_job_that_was_left_before_it_started_does_its_work(cluster, tmp_path):
    trial = Trial(cluster, tmp_path)
    trial.config["seconds"] = 1
    with pending_for_resources(trial) as pipeline:
        pipeline.process.send_signal(signal.SIGTERM)
        assert pipeline.end(30) == 1
    end = time.monotonic() + 60
    while cluster.ask("squeue", "--noheader", "--jobs", *pipeline.submitted(), "--format=%T"):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert (pipeline.folder / "results/0.txt").exists()
    following = trial.start()
    assert following.end(60) == 0, following.text
    assert len(following.submitted()) == 1
    assert following.text.strip().endswith("Nothing to be done (all requested files are present and up to date).")


POWER_SAVING = """
SuspendProgram=/usr/bin/true
ResumeProgram=/usr/bin/true
SuspendTime=86400
SuspendTimeout=1
ResumeTimeout=300
"""


def test_a_job_whose_nodes_are_powered_down_waits_for_them(tmp_path):
    if (reason := why_not()) is not None:
        pytest.skip(f"NOT RUN, a Slurm cluster cannot be started here: {reason}")
    configuring = r"1 configuring\. Job \d+ \(sleep 0\): its nodes are being started"
    with local_cluster(more=POWER_SAVING) as cluster:
        for name in cluster.names:
            cluster.crash_node(name)
            cluster.ask("scontrol", "update", f"NodeName={name}", "State=POWER_DOWN")
        time.sleep(3)
        trial = Trial(cluster, tmp_path)
        trial.config["seconds"] = 1

        pipeline = trial.waits(configuring)
        [left] = pipeline.submitted()
        assert ends(pipeline, signal.SIGTERM).startswith(
            f"SIGTERM: the pipeline ends; its Slurm jobs run on: {left} (sleep 0)."
        )
        pipeline = trial.waits(configuring)
        assert re.search(rf"are cancelled now: {left} \(sleep_wildcards_0, configuring\)", pipeline.text)
        [_, job] = pipeline.submitted()
        assert ends(pipeline, signal.SIGINT).startswith(
            f"Ctrl-C: the pipeline ends, its Slurm jobs were cancelled: {job} (sleep 0)."
        )
        pipeline = trial.waits(configuring)
        for name in cluster.names:
            cluster.start_node(name, powered=True)
        assert pipeline.end(120) == 0, pipeline.text
        print(pipeline.text)
