"""What is wrong with a request, with Slurm, or with a start: each is told from the others, and said in one sentence."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from slurm.pipelines import Sleepers
from slurm.stand_ins import program

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

LOCAL = ("--cores", "1")


def once(folder: Path, environment: dict[str, str], name: str, failing: str) -> dict[str, str]:
    """An environment in which the first call of a command is a shell text; "$real" is the command itself."""
    text = f"#!/bin/sh\nreal=/usr/bin/{name}\n[ -e {folder}/failed ] || {{ touch {folder}/failed; {failing}; }}\n"
    program(folder / "bin", name, f'{text}exec $real "$@"\n')
    return {**environment, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"hours": 30},
            "cannot start: PartitionTimeLimit (asked for 30 h in partition cpu). Fix: lower data_hardware.hours, or "
            "change cluster.data_partition in slurm/site.yaml. It was cancelled.",
        ),
        (
            {"memory_gb": 2000},
            "partition cpu does not have: 2000 GB of memory a node, and the largest has 512 GB: lower "
            "data_hardware.memory_gb.",
        ),
        (
            {"cores": 500},
            "cannot start: PartitionConfig: partition cpu does not have 500 cores a node, and the largest has 64: "
            "lower data_hardware.processes. It was cancelled.",
        ),
    ],
)
def test_what_the_cluster_can_never_give_is_named_with_its_setting(cluster, tmp_path, asked, said):
    pipeline = Sleepers(tmp_path / "project", cluster.environment, **asked)
    assert pipeline.end(60) == 1
    assert said in pipeline.text, pipeline.text
    assert not ran(cluster, pipeline, states="PENDING,RUNNING")


def test_a_submission_whose_answer_is_lost_is_found_in_the_queue(cluster, tmp_path):
    lost = '$real "$@" > /dev/null; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'
    pipeline = Sleepers(tmp_path / "project", once(tmp_path, cluster.environment, "sbatch", lost), seconds=1)
    assert pipeline.end(60) == 0, pipeline.text
    [job] = pipeline.submitted()
    assert f"sbatch failed, but Slurm has taken the job: it is job {job}." in pipeline.text
    assert ran(cluster, pipeline) == [job]


def ran(cluster, pipeline: Sleepers, states: str = "all") -> list[str]:
    """The pipeline's jobs that Slurm knows."""
    lines = cluster.ask("squeue", f"--states={states}", "--noheader", "--format=%A %Z").splitlines()
    return [line.split()[0] for line in lines if line.endswith(str(pipeline.folder))]


def test_a_job_that_slurm_did_not_start_is_submitted_again(cluster, tmp_path):
    expired = 'echo "srun: error: Task launch for StepId=1.0 failed on node node1: Job credential expired" >&2; exit 1'
    pipeline = Sleepers(tmp_path / "project", once(tmp_path, cluster.environment, "srun", expired), seconds=1)
    assert pipeline.end(60) == 0, pipeline.text
    first, _ = pipeline.submitted()
    assert f"Slurm job {first} (sleep 0) was not started by Slurm (srun: error: Task launch" in pipeline.text


@pytest.mark.parametrize("next_start", [LOCAL, (*LOCAL, "--unlock")])
def test_after_a_kill_nothing_overtakes_what_was_left(cluster, tmp_path, next_start):
    killed = Sleepers(tmp_path / "project", cluster.environment, seconds=600)
    killed.until(lambda: "1 running" in killed.text)
    [job] = killed.submitted()
    refused = Sleepers(tmp_path / "project", cluster.environment, *next_start)
    assert refused.end(60) == 1
    assert f"results is in use by process {killed.process.pid} on " in refused.text
    assert "Traceback" not in refused.text
    killed.process.kill()
    killed.process.wait()
    following = Sleepers(tmp_path / "project", cluster.environment, *next_start, seconds=1)
    assert following.end(60) == 0, following.text
    assert f"An earlier start left jobs in the queue, which are cancelled now: {job} " in following.text
    assert not ran(cluster, following, states="PENDING,RUNNING")


def test_after_a_kill_of_a_local_start_its_programs_are_ended(cluster, tmp_path):
    killed = Sleepers(tmp_path / "project", cluster.environment, *LOCAL, seconds=600)
    log = killed.folder / "results/logs/sleep-0.log"
    killed.until(log.exists)
    programs = psutil.Process(killed.process.pid).children(recursive=True)
    assert programs
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    following = Sleepers(tmp_path / "project", cluster.environment, *LOCAL, seconds=1)
    assert following.end(60) == 0, following.text
    assert "A killed pipeline left programs that still write to results" in following.text
    assert not [each for each in programs if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
