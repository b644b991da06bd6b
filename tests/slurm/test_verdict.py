"""What becomes of jobs that ended without success, told from what Slurm and torchrun print."""

from pathlib import Path

import pytest

from amberline.cluster.ledger import Ledger, Stages
from amberline.cluster.verdict import FORGOTTEN, SUBMIT_AGAIN, Verdict, judge

OVER_LIMIT = "slurmstepd-node1: error: StepId=5.0 exceeded memory limit (642859008 > 209715200), being killed"
CGROUP = "srun: error: Detected 1 oom-kill event(s) in StepId=5.0. Some of your processes may have been killed"
RANK = "rank 1 on node2 was killed by SIGKILL"
OURS = "amberchat: results/tokens/sft-train is damaged: make that stage again"


@pytest.mark.parametrize(
    ("state", "printed", "continues", "verdict"),
    [
        ("OUT_OF_MEMORY", "", True, Verdict.MORE),
        ("FAILED", OVER_LIMIT, False, Verdict.MORE),
        ("CANCELLED", OVER_LIMIT, True, Verdict.MORE),
        ("FAILED", CGROUP, True, Verdict.MORE),
        ("FAILED", f"{RANK}\n{CGROUP}", True, Verdict.MORE),
        ("TIMEOUT", "", True, Verdict.AGAIN),
        ("TIMEOUT", "", False, Verdict.MORE),
        ("PREEMPTED", "", True, Verdict.AGAIN),
        ("PREEMPTED", "", False, Verdict.AGAIN),
        ("NODE_FAIL", "", True, Verdict.AGAIN),
        (FORGOTTEN, "", True, Verdict.AGAIN),
        ("FAILED", f"launch: after step 7, {SUBMIT_AGAIN} (scontrol requeue 5: denied)", True, Verdict.AGAIN),
        ("FAILED", RANK, True, Verdict.AGAIN),
        ("FAILED", OURS, True, Verdict.FINAL),
        ("FAILED", "", False, Verdict.FINAL),
        ("CANCELLED", "", True, Verdict.FINAL),
        ("CANCELLED", RANK, True, Verdict.FINAL),
    ],
)
def test_judges(state, printed, continues, verdict):
    assert judge(state, printed, continues=continues)[0] is verdict


@pytest.mark.parametrize(
    ("checkpoints", "goes_on"),
    [
        (["", ""], [True, False]),
        (["10", "20", "30"], [True, True, True]),
        (["10", "10", "20", "20", "20"], [True, True, True, True, False]),
    ],
)
def test_an_interrupted_job_is_submitted_again_while_it_gets_on(checkpoints, goes_on, monkeypatch):
    ledger = Ledger(Stages(Path(), Path(), lambda job: (Path("checkpoints"), "sft"), lambda job: ""))
    seen = iter(checkpoints)
    monkeypatch.setattr("amberline.cluster.ledger.newest_checkpoint", lambda *_: next(seen))
    assert [ledger.may_go_on("job") for _ in checkpoints] == goes_on


LAUNCH = "srun: error: Task launch for StepId=10.0 failed on node node1: Communication connection failure"


@pytest.mark.parametrize(
    "line",
    [
        LAUNCH,
        "srun: error: Task launch for StepId=7.0 failed on node node2: Job credential expired",
        "srun: error: Unable to confirm allocation for job 7: Unable to contact slurm controller (connect failure)",
        "srun: Job 7 step creation temporarily disabled, retrying (Requested nodes are busy)",
        "srun: error: Unable to create step for job 7: Socket timed out on send/recv operation",
        "srun: error: Application launch failed: Invalid job credential",
    ],
)
def test_what_slurm_did_not_start_is_no_failure_of_the_program(line):
    verdict, why = judge(
        "FAILED", f"Select jobs to execute...\n{line}\nError in rule mix:", continues=False, started=False
    )
    assert verdict is Verdict.FAULT
    assert why == f"was not started by Slurm ({line})"


def test_a_launch_that_failed_on_one_node_is_no_failure_of_the_other():
    printed = f"tokens are read from copies in /local\n{LAUNCH}\nsrun: error: node1: task 0: Killed\nlaunch: sft failed"
    assert judge("FAILED", printed, continues=True, started=True)[0] is Verdict.FAULT


def test_a_program_that_has_started_is_not_excused_by_what_slurm_said_before():
    waited = "srun: Job 7 step creation temporarily disabled, retrying (Requested nodes are busy)"
    assert judge("FAILED", f"{waited}\n{OURS}", continues=False, started=True)[0] is Verdict.FINAL


def test_what_a_program_prints_about_slurm_is_not_slurms(tmp_path):
    assert judge("FAILED", "mix: Task launch failed", continues=False, started=False)[0] is Verdict.FINAL
