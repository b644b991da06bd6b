"""What becomes of jobs that ended without success, told from what Slurm and torchrun print."""

import pytest

from amberline.cluster.executor import WatchfulExecutor
from amberline.cluster.verdict import FORGOTTEN, SUBMIT_AGAIN, Verdict, judge

OVER_LIMIT = "slurmstepd-node1: error: StepId=5.0 exceeded memory limit (642859008 > 209715200), being killed"
CGROUP = "srun: error: Detected 1 oom-kill event(s) in StepId=5.0. Some of your processes may have been killed"
TORCHRUN = "  traceback : Signal 9 (SIGKILL) received by PID 4711"
OURS = "amberchat: results/tokens/sft-train is damaged: make that stage again"


@pytest.mark.parametrize(
    ("state", "printed", "continues", "verdict"),
    [
        ("OUT_OF_MEMORY", "", True, Verdict.MORE),
        ("FAILED", OVER_LIMIT, False, Verdict.MORE),
        ("CANCELLED", OVER_LIMIT, True, Verdict.MORE),
        ("FAILED", CGROUP, True, Verdict.MORE),
        ("FAILED", f"{TORCHRUN}\n{CGROUP}", True, Verdict.MORE),
        ("TIMEOUT", "", True, Verdict.AGAIN),
        ("TIMEOUT", "", False, Verdict.MORE),
        ("PREEMPTED", "", True, Verdict.AGAIN),
        ("PREEMPTED", "", False, Verdict.AGAIN),
        ("NODE_FAIL", "", True, Verdict.AGAIN),
        (FORGOTTEN, "", True, Verdict.AGAIN),
        ("FAILED", f"launch: after step 7, {SUBMIT_AGAIN} (scontrol requeue 5: denied)", True, Verdict.AGAIN),
        ("FAILED", TORCHRUN, True, Verdict.AGAIN),
        ("FAILED", OURS, True, Verdict.FINAL),
        ("FAILED", "", False, Verdict.FINAL),
        ("CANCELLED", "", True, Verdict.FINAL),
        ("CANCELLED", TORCHRUN, True, Verdict.FINAL),
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
        ([None, None], [True, False]),
    ],
)
def test_an_interrupted_job_is_submitted_again_while_it_gets_on(checkpoints, goes_on):
    executor = WatchfulExecutor.__new__(WatchfulExecutor)
    executor._starts = {}
    seen = iter(checkpoints)
    executor.progress = lambda job: next(seen)
    assert [executor._may_go_on("job") for _ in checkpoints] == goes_on
