"""A job that lacks memory gets more; one that fails by itself is not tried again, and says why; others go on."""

import pytest

from slurm.conftest import PAIRS
from slurm.pipelines import RUN

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("trainings"), pytest.mark.timeout(900)]


def test_memory_grows_and_errors_are_explained(first, cluster):
    printed = first.text
    assert first.process.returncode == 1, printed
    assert (first.project.root / RUN).exists(), printed

    assert "ran out of memory" in printed
    assert (first.project.root / PAIRS).exists(), printed
    assert asked_memory(cluster, "select_safe_pairs_wildcards_test") == ["1000M", "1500M"]

    assert asked_memory(cluster, "tokenise_preferences_wildcards_test") == ["1000M"]  # submitted once
    message = printed[printed.index("Error in rule tokenise_preferences") :]
    assert "failed.\nThe last lines of results/demo/logs/tokenise_preferences-test.log:" in message
    assert "    line 39: the file safe-pairs-test.json is torn; mend it" in message
    assert "line 2:" not in message
    assert ".snakemake/slurm_logs/rule_tokenise_preferences/" in message


def asked_memory(cluster, rule: str) -> list[str]:
    """The memory of each job that was submitted for a rule, oldest first."""
    lines = cluster.ask("squeue", "--states=all", "--sort=i", "--noheader", "--format=%k %m").splitlines()
    return [line.split()[1] for line in lines if line.startswith(f"rule_{rule} ")]
