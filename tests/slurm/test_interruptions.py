"""Interrupted in every way that a cluster knows, a training ends with the weights of one that was left in peace.

A stage that lacks memory gets more; one that fails by itself is not tried again, and says why; others go on.
"""

import json
import os
import shutil

import pytest

from amberline.cluster.accounts import RECORD
from amberline.cluster.progress import newest_checkpoint
from dag.conftest import Project
from slurm.conftest import PAIRS, pair_tokens
from slurm.pipelines import RUN, Pipeline, on_cluster, weights

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]

JOB = "rule_train_wildcards_amberchat"  # what Slurm notes of the training


class Training:
    """What a test sees of a training job from outside, and does to it."""

    def __init__(self, project: Project, cluster) -> None:
        self.cluster = cluster
        self._root = project.root
        self._checkpoints = project.root / "results/demo/checkpoints"
        self._before = ""

    def jobs(self, state: str = "") -> list[str]:
        """Numbers of the training's jobs that wait or run."""
        lines = self.cluster.ask("squeue", "--noheader", "--format=%A %T %k").splitlines()
        return [line.split()[0] for line in lines if line.endswith(JOB) and state in line]

    def gets_on(self, pipeline: Pipeline) -> str:
        """Wait for a checkpoint that was not there; the number of the job that writes them, the only one."""
        pipeline.until(lambda: newest_checkpoint(self._checkpoints, "amberchat") not in {"", self._before})
        self._before = newest_checkpoint(self._checkpoints, "amberchat")
        [job] = self.jobs("RUNNING")
        return job

    def is_interrupted(self, pipeline: Pipeline, job: str) -> None:
        """Wait until none of a job's processes is left."""
        pipeline.until(lambda: job not in self.jobs("RUNNING") + self.jobs("COMPLETING"))
        self._before = newest_checkpoint(self._checkpoints, "amberchat")

    def reaches_its_time_limit(self, pipeline: Pipeline, job: str) -> None:
        """Give a job two minutes in all, and wait until Slurm has warned it, and it has stopped by itself.

        Slurm looks at limits twice a minute. Its warning wakes the ranks, which stand still until then: they must not
        reach the end of the training before.
        """
        self.cluster.ask("scancel", "--signal=STOP", job)
        self.cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=2")
        pipeline.until(lambda: job in self.jobs("PENDING"))
        self.is_interrupted(pipeline, job)
        self.cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
        log = (self._root / "results/demo/logs/train/amberchat.log").read_text()
        assert "stopped on request after step" in log

    def is_displaced(self) -> None:
        """Somebody more important takes both nodes for a moment."""
        self.cluster.ask(
            *("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--mem=100", "--output=/dev/null"),
            *("--wrap", "sleep 1"),
        )


@pytest.fixture(scope="module")
def alone(first, tmp_path_factory) -> Pipeline:
    """The finetune on one machine without Slurm, started. The cluster has idle moments enough for it."""
    project = first.project.copy(tmp_path_factory.mktemp("alone") / "project")
    for made in ("checkpoints", "training"):
        shutil.rmtree(project.root / "results/demo" / made)
    one_machine = {"hardware": {"amberchat": {"nodes": 1, "ranks_per_node": 2}}}
    return Pipeline(project, dict(os.environ), "--cores", "2", overlay=one_machine)


def test_tokens_were_read_from_the_nodes_own_disks_and_nothing_is_left_there(first, scratch):
    log = (first.project.root / "results/demo/logs/train/amberchat.log").read_text()
    for node in ("node1", "node2"):
        assert f"tokens are read from copies in {scratch}/{node}/" in log
    assert not list(scratch.rglob("*.arrow"))


def test_memory_grows_and_errors_are_explained(first, cluster):
    printed = first.text
    assert first.process.returncode == 1, printed
    assert (first.project.root / RUN).exists(), printed

    assert "ran out of memory" in printed
    assert (first.project.root / PAIRS).exists(), printed
    assert asked_memory(cluster, "select_pairs_wildcards_safe-pairs_train") == ["1000M", "1500M"]

    assert asked_memory(cluster, f"tokenize_wildcards_{pair_tokens()}") == ["1000M"]  # submitted once
    message = printed[printed.index("Error in rule tokenize") :]
    assert f"failed.\nThe last lines of results/demo/logs/tokenize/{pair_tokens()}.log:" in message
    assert "    line 39: the file safe-pairs-test.json is torn; fix it" in message
    assert "line 2:" not in message
    assert ".snakemake/slurm_logs/rule_tokenize/" in message


def asked_memory(cluster, rule: str) -> list[str]:
    """The memory of each job that was submitted for a rule, oldest first."""
    lines = cluster.ask("squeue", "--states=all", "--sort=i", "--noheader", "--format=%k %m").splitlines()
    return [line.split()[1] for line in lines if line.startswith(f"rule_{rule} ")]


def test_a_hard_life_leaves_no_trace_in_the_weights(first, untrained, alone, cluster, scratch):
    local_disk = {"scratch": f"{scratch}/$SLURMD_NODENAME"}
    training = Training(untrained, cluster)
    pipeline = on_cluster(untrained, cluster, {"cluster": {"training_partition": "requeued", **local_disk}})

    # By its time limit: it is warned, saves its state, and goes back into the queue by itself.
    job = training.gets_on(pipeline)
    training.reaches_its_time_limit(pipeline, job)
    # By an administrator.
    assert training.gets_on(pipeline) == job
    cluster.ask("scontrol", "requeue", job)
    training.is_interrupted(pipeline, job)
    # By a job of a higher priority.
    assert training.gets_on(pipeline) == job
    training.is_displaced()
    training.is_interrupted(pipeline, job)
    # By a machine that dies.
    assert training.gets_on(pipeline) == job
    cluster.crash_node("node2")
    training.is_interrupted(pipeline, job)
    cluster.start_node("node2")
    # By a laptop that is closed: the job runs on, and the next start finds it.
    assert training.gets_on(pipeline) == job
    pipeline.process.kill()
    pipeline.process.wait()
    assert training.jobs() == [job]

    pipeline = on_cluster(untrained, cluster, {"cluster": local_disk})
    pipeline.until(lambda: f"{job} (train amberchat, running)" in pipeline.text)
    assert pipeline.end() == 0, pipeline.text
    assert weights(untrained) == weights(first.project)
    assert len(submitted(untrained)) == len(submitted(first.project)) + 2
    assert not list(scratch.rglob("*.arrow"))


def submitted(project: Project) -> list[dict[str, str]]:
    """The jobs that the report will tell of."""
    lines = (project.root / "results/demo" / RECORD).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_nodes_give_the_weights_of_one_machine(first, alone):
    assert alone.end() == 0, alone.text
    assert weights(alone.project) == weights(first.project)
