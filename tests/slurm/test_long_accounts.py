"""Limits and names of accounts and QOS: which of them a job waits for, and which it can never meet.

On a cluster that keeps accounts. Skipped where slurmdbd and MariaDB are not installed; nothing installs them.
"""

import os
from collections.abc import Iterator

import pytest

from slurm.local_cluster import LocalCluster, local_cluster, why_no_accounts
from slurm.pipelines import Sleepers
from slurm.stand_ins import program

pytestmark = [pytest.mark.slurm_long, pytest.mark.timeout(300)]

ACCOUNT = ("modify", "account", "students", "set")
QOS = ("modify", "qos", "short", "set")
USER = ("modify", "user", "root", "where", "account=students", "set")


@pytest.fixture(scope="module")
def keeps_accounts() -> Iterator[LocalCluster]:
    """A cluster with an account, whose user is in a QOS of its own."""
    reason = why_no_accounts()
    if reason is not None:
        pytest.skip(f"NOT RUN, a Slurm cluster that keeps accounts cannot be started here: {reason}")
    with local_cluster(accounts=True) as started:
        yield started
        for pipeline in Sleepers.started:
            pipeline.process.kill()


@pytest.fixture
def cluster(keeps_accounts) -> Iterator[LocalCluster]:
    """The same, without limits."""
    keeps_accounts.account("add", "qos", "short")
    keeps_accounts.account("add", "user", "root", "account=students")
    assert keeps_accounts.account(*USER, "qos=normal,short", "defaultqos=short")
    yield keeps_accounts
    keeps_accounts.ask("scancel", "--user=root")
    keeps_accounts.account(*ACCOUNT, "GrpJobs=-1", "MaxWall=-1")
    keeps_accounts.account(*QOS, "MaxJobsPerUser=-1", "MaxWall=-1", "MaxTRESPerJob=cpu=-1,mem=-1")


@pytest.mark.parametrize(
    ("limit", "reason"),
    [((*ACCOUNT, "GrpJobs=1"), "AssocGrpJobsLimit"), ((*QOS, "MaxJobsPerUser=1"), "QOSMaxJobsPerUserLimit")],
)
def test_a_limit_on_all_jobs_together_is_waited_for(cluster, tmp_path, limit, reason):
    assert cluster.account(*limit)
    other = cluster.ask(
        "sbatch", "--parsable", "--account=students", "--mem=100", "--output=/dev/null", "--wrap", "sleep 600"
    ).strip()
    pipeline = Sleepers(tmp_path / "project", cluster.environment, account="students", seconds=1)
    pipeline.until(lambda: reason in pipeline.text, 30)
    [job] = pipeline.submitted()
    assert f"Waiting for 1 Slurm job: 1 pending. Job {job} (sleep 0): {reason}" in pipeline.text
    cluster.ask("scancel", other)
    assert pipeline.end(60) == 0, pipeline.text
    print(pipeline.text)
    assert pipeline.submitted() == [job]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            (*QOS, "MaxWall=5"),
            "QOSMaxWallDurationPerJobLimit (asked for 1 h in partition cpu). Fix: lower data_hardware.hours, or",
        ),
        (
            (*ACCOUNT, "MaxWall=5"),
            "AssocMaxWallDurationPerJobLimit (asked for 1 h in partition cpu). Fix: lower data_hardware.hours, or",
        ),
        (
            (*QOS, "MaxTRESPerJob=mem=500"),
            "QOSMaxMemoryPerJob (asked for 1 GB a node in partition cpu). Fix: lower data_hardware.memory_gb, or",
        ),
        (
            (*QOS, "MaxTRESPerJob=cpu=2"),
            "QOSMaxCpuPerJobLimit (asked for 4 cores a node in partition cpu). Fix: lower data_hardware.processes, or",
        ),
    ],
    ids=["QOS wall", "account wall", "QOS memory", "QOS cores"],
)
def test_a_limit_on_each_job_is_never_met(cluster, tmp_path, limit, said):
    assert cluster.account(*limit)
    pipeline = Sleepers(tmp_path / "project", cluster.environment, account="students", cores=4)
    assert pipeline.end(60) == 1
    print(pipeline.text)
    assert f"cannot start: {said}" in pipeline.text, pipeline.text
    assert not cluster.ask("squeue", "--noheader")


@pytest.mark.parametrize(
    ("taken", "reason"),
    [
        ([("delete", "user", "root", "account=students")], "InvalidAccount"),
        ([(*USER, "defaultqos=normal"), (*USER, "qos-=short")], "InvalidQOS"),
    ],
    ids=["account", "QOS"],
)
def test_an_account_that_is_taken_away_from_a_waiting_job_is_named(cluster, tmp_path, taken, reason):
    # slurmdbd lets go of an account only if no job could start with it: this one could not yet.
    program(tmp_path / "bin", "sbatch", '#!/bin/sh\nexec /usr/bin/sbatch --begin=now+25 "$@"\n')
    environment = {**cluster.environment, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    pipeline = Sleepers(tmp_path / "project", environment, account="students")
    pipeline.until(lambda: "BeginTime" in pipeline.text, 30)
    for command in taken:
        assert cluster.account(*command)
    assert pipeline.end(90) == 1
    print(pipeline.text)
    [job] = pipeline.submitted()
    assert (
        f"Slurm job {job} (sleep 0) cannot start: {reason} (asked for account students in partition cpu). Fix: change "
        "cluster.account in slurm/site.yaml. It was cancelled."
    ) in pipeline.text


def test_an_account_that_is_not_mine_is_refused(cluster, tmp_path):
    pipeline = Sleepers(tmp_path / "project", cluster.environment, account="professors")
    assert pipeline.end(30) == 1
    print(pipeline.text)
    assert "Slurm does not take the job sleep 0: sbatch: error: " in pipeline.text
    assert "Invalid account or account/partition combination specified" in pipeline.text
    assert "`sacctmgr show associations user=$USER`" in pipeline.text
    assert not pipeline.submitted()
