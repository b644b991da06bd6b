"""A job that lacks memory gets more; one that fails by itself is not tried again, and says why."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PAIRS = "results/demo/data/safe-pairs-test.json.manifest.json"
BASE = "results/demo/models/base/manifest.json"


def test_memory_grows_and_errors_are_explained(project, cluster):
    # More than the gigabyte that a job is given first; and a fault such as no second attempt can mend.
    project.edit("scripts/select_safe_pairs.py", 'if __name__ == "__main__":\n', 'if __name__ == "__main__":\n' + HOG)
    project.edit("scripts/make_tiny_base.py", 'if __name__ == "__main__":\n', 'if __name__ == "__main__":\n' + FAULT)
    (project.root / "small.yaml").write_text("data_hardware: {memory_gb: 1, processes: 1}\n")
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("snakemake"), "--profile", "slurm"),
            *("--slurm-init-seconds-before-status-checks", "1"),
            *("--configfile", "demo/config.yaml", "small.yaml", "--", PAIRS, BASE),
        ],
        cwd=project.root,
        env={**cluster.environment, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed

    assert "ran out of memory" in printed
    assert (project.root / PAIRS).exists(), printed
    assert asked_memory(cluster, "select_safe_pairs_wildcards_test") == ["1000M", "1500M"]

    assert asked_memory(cluster, "make_tiny_base") == ["1000M"]  # submitted once
    message = printed[printed.index("Error in rule make_tiny_base") :]
    assert "failed.\nThe last lines of results/demo/logs/make_tiny_base.log:" in message
    assert "    line 39: the file sharegpt.json is torn; mend it" in message
    assert "line 2:" not in message
    assert ".snakemake/slurm_logs/rule_make_tiny_base/" in message


HOG = "    hog = bytearray(900 * 2**20)\n    import time; time.sleep(4)\n"
FAULT = """\
    for number in range(40):
        print(f"line {number}: the file sharegpt.json is torn; mend it")
    raise SystemExit(1)
"""


def asked_memory(cluster, rule: str) -> list[str]:
    """The memory of each job that was submitted for a rule, oldest first."""
    lines = cluster.ask("squeue", "--states=all", "--sort=i", "--noheader", "--format=%k %m").splitlines()
    return [line.split()[1] for line in lines if line.startswith(f"rule_{rule} ")]
