"""What Snakemake says before anything runs: the plan of the published recipe, and what is wrong with a wrong one."""

import re
import subprocess
import sys

import pytest
import yaml

STAGES = {
    "finetune_amberchat",
    "finetune_preferred",
    "score_reference",
    "train_dpo",
    "evaluate",
}


def test_the_published_recipe_is_planned_whole(fresh):
    printed = fresh.snakemake("-n")
    assert re.search(r"^total +32$", printed, re.MULTILINE)
    for rule in STAGES:
        block = re.search(rf"^rule {rule}:\n(?:    .*\n)+", printed, re.MULTILINE)
        assert block, rule
        assert "gres=gpu:a100:8" in block[0]
        assert "nodes=1" in block[0]
        assert "mem_mb=480000" in block[0]
        assert "runtime=" in block[0]


def test_the_slurm_profile_plans_it_without_slurm(fresh):
    printed = fresh.snakemake("-n", "--profile", "slurm")
    assert re.search(r"^total +32$", printed, re.MULTILINE)
    for rule in STAGES:
        block = re.search(rf"^rule {rule}:\n(?:    .*\n)+", printed, re.MULTILINE)
        assert block, rule
        assert "slurm_partition=gpu" in block[0]


@pytest.mark.parametrize(
    ("target", "jobs"),
    [("evol_mix", 6), ("amberchat", 12), ("safe_pairs", 5), ("ambersafe_sft", 20), ("report", 29), ("evaluation", 28)],
)
def test_named_targets(fresh, target, jobs):
    printed = fresh.snakemake("-n", target)
    assert int(re.search(r"^total +(\d+)$", printed, re.MULTILINE)[1]) == jobs


DEMO = ["--configfile", "demo/config.yaml"]


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        ("amberchat: {trainig: 1}", ["amberchat.trainig", "unknown key", "amberchat.training"]),
        ("amberchat: {training: {epochs: some}}", ["amberchat.training.epochs", "'some'", "integer"]),
        ("sources: {sharegpt: {path: demo/raw/none.json}}", ["sources.sharegpt.path", "demo/raw/none.json", "no such"]),
        (f"sources: {{sharegpt: {{sha256: '{'0' * 64}'}}}}", ["sources.sharegpt.sha256", "46d96ff0c8b1", "000000"]),
        ("ambersafe: {dpo: {global_batch: -16}}", ["ambersafe.dpo.global_batch", "-16", "greater than 0"]),
        ("amberchat: {training: {global_batch: 7}}", ["global_batch (7)", "micro_batch_examples (2)"]),
        ("hardware: {dpo: {attention: sparse}}", ["hardware.dpo.attention", "'sparse'", "'varlen'"]),
        ("base_model: {tiny: null, path: results/nowhere}", ["base_model.path", "results/nowhere", "no config.json"]),
        ("base_model: {tiny: null, repository: null}", ["base_model", "tiny, path, or both repository and revision"]),
        ("ambersafe: {dpo: {learning_rate: fast}}", ["ambersafe.dpo.learning_rate", "'fast'", "number"]),
    ],
)
def test_a_wrong_configuration_stops_before_any_job(fresh, tmp_path, overlay, said):
    file = tmp_path / "mine.yaml"
    file.write_text(overlay)
    printed = fresh.snakemake("--cores", "2", *DEMO, str(file), check=False)
    assert all(part in printed for part in said), printed
    assert "nothing was started" in printed
    assert "Traceback" not in printed
    assert not (fresh.root / "results").exists()


def test_a_misspelt_target_names_the_nearest(fresh):
    printed = fresh.snakemake("--cores", "2", "ambersave", check=False)
    assert "there is no target 'ambersave', nothing was started. Did you mean ambersafe" in printed
    assert not (fresh.root / "results").exists()


def test_a_configured_value_never_reaches_a_shell(fresh, tmp_path):
    """A path may hold anything; it must arrive as it is."""
    file = tmp_path / "mine.yaml"
    file.write_text("results: 'results/$(touch pwned); x'")
    printed = fresh.snakemake("-n", "-p", *DEMO, str(file))
    assert "'results/$(touch pwned); x'" in printed or "'results/$(touch pwned); x/" in printed
    assert not (fresh.root / "pwned").exists()


def test_the_readme_draws_the_rules_as_they_are(fresh):
    done = subprocess.run(
        [sys.executable, "docs/make_dag.py", "--check"], cwd=fresh.root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_conda_files_hold_what_the_locks_hold(fresh):
    for name in ("cpu", "gpu"):
        locked = {
            line for line in (fresh.root / f"envs/{name}.lock").read_text().splitlines() if not line.startswith("#")
        }
        *_, packages = yaml.safe_load((fresh.root / f"envs/{name}.yaml").read_text())["dependencies"]
        assert set(packages["pip"]) == locked, "run: make lock"
