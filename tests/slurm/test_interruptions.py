"""Interrupted in every way that a cluster knows, a training ends with the weights of one that was left in peace."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from amberline.cluster.progress import newest_checkpoint
from dag.conftest import Project, checkout

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]

RULE = "finetune_amberchat"
RUN = "results/demo/training/amberchat/run.json"
OVERLAYS = ("demo/config.yaml", "tests/slurm/interrupted.yaml")


@pytest.fixture(scope="module", autouse=True)
def nothing_runs_on():
    """A pipeline that a failed test leaves behind would run on without its cluster."""
    yield
    for pipeline in Pipeline.started:
        pipeline.process.kill()


class Pipeline:
    """Snakemake in a project, on the cluster or on this machine."""

    started: ClassVar[list["Pipeline"]] = []

    def __init__(self, project: Project, environment: dict[str, str], *arguments: str, overlay: dict | None = None):
        (project.root / "overlay.yaml").write_text(yaml.safe_dump(overlay or {}))
        self.printed = project.root / f"printed-{time.monotonic_ns()}.txt"
        with open(self.printed, "wb") as printed:
            self.process = subprocess.Popen(
                [
                    *(Path(sys.executable).with_name("snakemake"), *arguments),
                    *("--configfile", *OVERLAYS, "overlay.yaml", "--", RUN),
                ],
                cwd=project.root,
                env={**environment, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
            )

        self.started.append(self)

    @property
    def text(self) -> str:
        """What was printed so far."""
        return self.printed.read_text(errors="replace")

    def end(self, seconds: float = 300) -> int:
        """Wait for the end; the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not done after {seconds} s:\n{self.text[-5000:]}") from None


def on_cluster(project: Project, cluster, overlay: dict | None = None) -> Pipeline:
    return Pipeline(
        project,
        cluster.environment,
        *("--profile", "slurm", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"),
        overlay=overlay,
    )


def weights(project: Project) -> dict[str, str]:
    """sha256 of the files that the final weights lie in."""
    files = json.loads((project.root / RUN).read_text())["final_weights_sha256"]
    return {name: digest for name, digest in files.items() if name.endswith(".distcp")}


@pytest.fixture(scope="module")
def prepared(cluster, tmp_path_factory) -> Project:
    """A checkout in which the data stages and the finetune have run as jobs, undisturbed."""
    project = checkout(tmp_path_factory.mktemp("prepared"))
    pipeline = on_cluster(project, cluster)
    assert pipeline.end(400) == 0, pipeline.text
    return project


@pytest.fixture
def untrained(prepared, tmp_path) -> Project:
    """The same with the finetune still to do."""
    project = prepared.copy(tmp_path / "untrained")
    for made in ("checkpoints", "training"):
        shutil.rmtree(project.root / "results/demo" / made)
    return project


class Training:
    """What a test sees of a training job from outside, and does to it."""

    def __init__(self, project: Project, cluster) -> None:
        self.cluster = cluster
        self._checkpoints = project.root / "results/demo/checkpoints"
        self._before = ""

    def jobs(self, state: str = "") -> list[str]:
        """Numbers of the training's jobs that wait or run."""
        lines = self.cluster.ask("squeue", "--noheader", "--format=%A %T %k").splitlines()
        return [line.split()[0] for line in lines if line.endswith(f"rule_{RULE}") and state in line]

    def gets_on(self, pipeline: Pipeline) -> str:
        """Wait for a checkpoint that was not there; the number of the job that writes them, the only one."""
        until(lambda: newest_checkpoint(self._checkpoints, "amberchat") not in {"", self._before}, pipeline)
        self._before = newest_checkpoint(self._checkpoints, "amberchat")
        [job] = self.jobs("RUNNING")
        return job

    def is_interrupted(self, pipeline: Pipeline, job: str) -> None:
        """Wait until none of a job's processes is left."""
        until(lambda: job not in self.jobs("RUNNING") + self.jobs("COMPLETING"), pipeline)
        self._before = newest_checkpoint(self._checkpoints, "amberchat")

    def is_displaced(self) -> None:
        """Somebody more important takes both nodes for a moment."""
        self.cluster.ask(
            *("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--mem=100", "--output=/dev/null"),
            *("--wrap", "sleep 1"),
        )


def until(reached: Callable[[], bool], pipeline: Pipeline, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert pipeline.process.poll() is None, pipeline.text
        assert time.monotonic() < end, pipeline.text
        time.sleep(0.2)


def test_two_nodes_give_the_weights_of_one_machine(prepared, tmp_path):
    alone = prepared.copy(tmp_path / "alone")
    for made in ("checkpoints", "training"):
        shutil.rmtree(alone.root / "results/demo" / made)
    here = Pipeline(
        alone, dict(os.environ), "--cores", "2", overlay={"hardware": {"amberchat": {"nodes": 1, "ranks_per_node": 2}}}
    )
    assert here.end() == 0, here.text
    assert weights(alone) == weights(prepared)


def test_a_hard_life_leaves_no_trace_in_the_weights(prepared, untrained, cluster):
    training = Training(untrained, cluster)
    pipeline = on_cluster(untrained, cluster, {"cluster": {"training_partition": "requeued"}})

    # As before its time limit: it saves its state, and goes back into the queue by itself.
    first = training.gets_on(pipeline)
    cluster.ask("scancel", "--signal=URG", first)
    training.is_interrupted(pipeline, first)
    # By an administrator.
    assert training.gets_on(pipeline) == first
    cluster.ask("scontrol", "requeue", first)
    training.is_interrupted(pipeline, first)
    # By a job of a higher priority.
    assert training.gets_on(pipeline) == first
    training.is_displaced()
    training.is_interrupted(pipeline, first)
    # By a machine that dies.
    assert training.gets_on(pipeline) == first
    cluster.crash_node("node2")
    training.is_interrupted(pipeline, first)
    cluster.start_node("node2")
    # By a laptop that is closed: the job runs on, and the next start finds it.
    assert training.gets_on(pipeline) == first
    pipeline.process.kill()
    pipeline.process.wait()
    assert training.jobs() == [first]

    pipeline = on_cluster(untrained, cluster, {"cluster": {"training_partition": "cancelled"}})
    until(lambda: f"{first} ({RULE}, running)" in pipeline.text, pipeline)
    training.is_interrupted(pipeline, first)
    second = training.gets_on(pipeline)
    assert second != first
    # By a job of a higher priority, on a cluster that does not requeue.
    training.is_displaced()
    training.is_interrupted(pipeline, second)
    third = training.gets_on(pipeline)
    assert f"Slurm job {second} ({RULE}) had to make room for others: it is submitted again." in pipeline.text
    assert third != second
    # By somebody who means it.
    cluster.ask("scancel", third)
    assert pipeline.end() == 1
    assert f"Slurm job {third} was cancelled" in pipeline.text
    assert not training.jobs()

    pipeline = on_cluster(untrained, cluster)
    assert pipeline.end() == 0, pipeline.text
    assert weights(untrained) == weights(prepared)


def test_a_time_limit_that_is_too_short_is_reached_several_times(prepared, untrained, cluster):
    pipeline = on_cluster(untrained, cluster, {"hardware": {"amberchat": {"hours": 1 / 60}}})
    assert pipeline.end(800) == 0, pipeline.text
    log = (untrained.root / "results/demo/logs/finetune_amberchat.log").read_text()
    assert re.search(r"continuing after step \d+", log)
    assert weights(untrained) == weights(prepared)
