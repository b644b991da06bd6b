"""Trials that take minutes together, on a real cluster, with -m slurm_long."""

import contextlib
import re
import signal
import time

import psutil
import pytest

from amberline.cluster.accounts import RECORD
from amberline.cluster.progress import IDLE_STARTS, newest_checkpoint
from slurm.pipelines import Pipeline, Sleepers, on_cluster, on_slurm, weights
from slurm.stand_ins import program
from slurm.test_interruptions import Training
from slurm.test_outages import SILENCE, without
from slurm.test_slurm_faults import once

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


def trained_through(pipeline, untrained) -> None:
    """Wait for the pipeline's end, and see that it was one job that trained what is trained without outages."""
    assert pipeline.end(400) == 0, pipeline.text
    lines = (untrained.root / "results/demo" / RECORD).read_text().splitlines()
    assert sum("train amberchat" in line for line in lines) == 2  # the second is ours, the first that of `first`


def has_begun(pipeline, project) -> None:
    """Wait for a training's first checkpoint."""
    pipeline.until(lambda: newest_checkpoint(project.root / "results/demo/checkpoints", "amberchat") != "")


def test_a_training_outlives_commands_that_fail(first, untrained, cluster, tmp_path):
    environment, silent = without(tmp_path / "commands", cluster.environment, "squeue")
    for name in ("scontrol", "sacct"):
        program(tmp_path / "commands/bin", name, f"#!/bin/sh\necho '{name}: error: no such thing' >&2; exit 1\n")
    pipeline = Pipeline(untrained, environment, *on_slurm())
    has_begun(pipeline, untrained)
    silent.touch()
    time.sleep(25)
    silent.unlink()
    trained_through(pipeline, untrained)
    assert weights(untrained) == weights(first.project)
    assert len(SILENCE.findall(pipeline.text)) == 1, pipeline.text


@pytest.mark.parametrize("seconds", [60, 600])
def test_an_outage_of_the_controller_costs_no_more_than_itself(first, untrained, cluster, seconds):
    pipeline = Pipeline(untrained, cluster.environment, *on_slurm())
    has_begun(pipeline, untrained)
    began = time.monotonic()
    cluster.stop_controller()
    time.sleep(seconds)
    cluster.start_controller()
    back = time.monotonic()
    trained_through(pipeline, untrained)
    print(f"away for {back - began:.0f} s, ended {time.monotonic() - back:.0f} s later\n{pipeline.text}")
    assert weights(untrained) == weights(first.project)
    assert len(SILENCE.findall(pipeline.text)) == 1, pipeline.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_goes_on_after_its_pipeline_was_ended(first, untrained, cluster, number):
    pipeline = Pipeline(untrained, cluster.environment, *on_slurm())
    has_begun(pipeline, untrained)
    began = time.monotonic()
    pipeline.process.send_signal(number)
    assert pipeline.end(20) == 1
    assert time.monotonic() - began < 10
    log = untrained.root / "results/demo/logs/train/amberchat.log"
    if number == signal.SIGINT:
        assert "its Slurm jobs were cancelled" in pipeline.text
        eventually(lambda: "stopped on request after step" in log.read_text())
    else:
        assert "its Slurm jobs run on" in pipeline.text
        assert cluster.ask("squeue", "--noheader", "--states=RUNNING")
    following = Pipeline(untrained, cluster.environment, *on_slurm())
    assert following.end(300) == 0, following.text
    assert "continuing after step" in log.read_text()
    assert weights(untrained) == weights(first.project)


def eventually(reached) -> None:
    """Wait for something for half a minute."""
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_job_that_dies_before_its_program_is_not_explained_by_an_older_log(cluster, tmp_path):
    environment = once(tmp_path, cluster.environment, "srun", 'echo "no such file: sh" >&2; exit 1')
    log = tmp_path / "project/results/logs/sleep-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("an error of last week\n")
    pipeline = Sleepers(tmp_path / "project", environment)
    assert pipeline.end(60) == 1
    assert "an error of last week" not in pipeline.text
    assert "no such file: sh" in pipeline.text.split("The last lines of ")[1]


def test_a_program_that_fails_is_explained_by_its_own_log(cluster, tmp_path):
    pipeline = Sleepers(tmp_path / "project", cluster.environment, seconds=0, ends="echo sleep is broken; exit 3")
    assert pipeline.end(60) == 1
    [job] = pipeline.submitted()
    assert "The last lines of results/logs/sleep-0.log:\n    sleep is broken\n" in pipeline.text
    summary = pipeline.text.split("\nFailed:\n")[1].splitlines()[0]
    assert summary == f"  Slurm job {job} (sleep 0) failed. Log: results/logs/sleep-0.log"


def test_the_pipeline_as_a_job_is_not_told_that_this_is_wrong(cluster, tmp_path):
    environment = {**cluster.environment, "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "7"}
    pipeline = Sleepers(tmp_path / "project", environment, seconds=1)
    assert pipeline.end(60) == 0, pipeline.text
    assert "not recommended" not in pipeline.text


def test_a_partition_that_is_down_is_waited_for(cluster, tmp_path):
    cluster.ask("scontrol", "update", "PartitionName=cpu", "State=DOWN")
    try:
        pipeline = Sleepers(tmp_path / "project", cluster.environment, seconds=1)
        pipeline.until(lambda: "PartitionDown, the partition is down" in pipeline.text)
        time.sleep(15)
    finally:
        cluster.ask("scontrol", "update", "PartitionName=cpu", "State=UP")
    assert pipeline.end(60) == 0, pipeline.text
    assert len(pipeline.submitted()) == 1


def test_a_node_that_is_away_when_a_job_starts_costs_time_alone(cluster, tmp_path):
    """The job starts on the other one, or again when the node has come back."""
    cluster.crash_node("node2")
    try:
        pipeline = Sleepers(tmp_path / "project", cluster.environment, jobs=4, seconds=2)
        time.sleep(40)
    finally:
        cluster.start_node("node2")
    assert pipeline.end(120) == 0, pipeline.text
    print(pipeline.text)


HOLD = """\
    import time

    with open("begun", "a") as begun:
        begun.write("written\\n")
    while Path("held").exists():
        time.sleep(0.1)
"""


def test_a_training_with_final_weights_may_be_started_again_and_again(first, untrained, cluster):
    """It has only its summary to write, which each start is kept from."""
    summary = 'Returns what it says."""\n'
    untrained.edit("scripts/amberline/training/stage.py", summary, summary + HOLD)
    held, begun = untrained.root / "held", untrained.root / "begun"
    held.touch()
    training, starts = Training(untrained, cluster), 0
    pipeline = Pipeline(untrained, cluster.environment, *on_slurm())

    def has_final_weights() -> str:
        nonlocal starts
        starts += 1
        pipeline.until(lambda: begun.exists() and len(begun.read_text().splitlines()) == starts)
        assert list(untrained.root.glob("results/demo/checkpoints/amberchat-*/final/checkpoint.json"))
        [job] = training.jobs("RUNNING")
        return job

    # The guard in the job, which counts starts under one number.
    job = has_final_weights()
    for _ in range(IDLE_STARTS + 1):
        cluster.ask("scontrol", "requeue", job)
        assert has_final_weights() == job
    # The guard in the pipeline, which counts the jobs that it submits.
    for _ in range(IDLE_STARTS + 1):
        ranks_of(untrained)[0].kill()
        killed, job = job, has_final_weights()
        assert job != killed
        assert f"Slurm job {killed} (train amberchat) had a process killed: it is submitted again." in pipeline.text
    held.unlink()
    assert pipeline.end(300) == 0, pipeline.text
    print(f"{starts} starts\n{pipeline.text}")
    assert weights(untrained) == weights(first.project)


def ranks_of(project) -> list[psutil.Process]:
    """The processes that train a project's model, on whichever node."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if process.cwd() == str(project.root) and "scripts/train.py" in words[:3]:
                found.append(process)
    return found


def test_a_cluster_that_cancels_and_a_user_who_does_leave_no_trace_in_the_weights(first, untrained, cluster):
    training = Training(untrained, cluster)
    pipeline = on_cluster(untrained, cluster, {"cluster": {"training_partition": "cancelled"}})
    # By a job of a higher priority, on a cluster that does not requeue.
    displaced = training.gets_on(pipeline)
    training.is_displaced()
    training.is_interrupted(pipeline, displaced)
    job = training.gets_on(pipeline)
    assert (
        f"Slurm job {displaced} (train amberchat) had to make room for others: it is submitted again." in pipeline.text
    )
    assert job != displaced
    # By somebody who means it.
    cluster.ask("scancel", job)
    assert pipeline.end() == 1
    assert f"Slurm job {job} (train amberchat) was cancelled" in pipeline.text
    assert not training.jobs()

    pipeline = on_cluster(untrained, cluster)
    assert pipeline.end() == 0, pipeline.text
    assert weights(untrained) == weights(first.project)
