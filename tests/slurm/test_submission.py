"""How the training jobs of the published recipe are asked for, seen with a recording sbatch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from amberline.recipe.check import check_recipe
from amberline.recipe.files import read_recipe
from dag.conftest import Project
from slurm.stand_ins import program

PUBLISHED = check_recipe(read_recipe([]), files=False)
TOKENS = [PUBLISHED.tokens("amberchat", what).name for what in ("train", "heldout")]
INPUTS = ("models/base", *(f"tokens/{name}" for name in TOKENS))
TRAINING = "results/training/amberchat/run.json"

# What a job is asked for, beyond its name, its log and its command.
REST = "--requeue --cpus-per-task=64 --signal=URG@300 --open-mode=append"
REST_OF_TWO = "--requeue --ntasks=2 --cpus-per-task=64 --signal=URG@300 --open-mode=append"


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder of commands that record what is submitted, and tell that it failed at once."""
    folder = tmp_path / "bin"
    record = tmp_path / "submitted"
    program(
        folder,
        "sbatch",
        f"#!{sys.executable}\nimport json, sys\n"
        f"with open({str(record)!r}, 'a') as lines: lines.write(json.dumps(sys.argv[1:]) + '\\n')\nprint(7)\n",
    )
    program(
        folder,
        "squeue",
        '#!/bin/sh\necho "7|FAILED|amberline|me|NonZeroExitCode|0|gpu|rule_train_wildcards_amberchat"\n',
    )
    program(folder, "scontrol", "#!/bin/sh\necho 'MinJobAge = 300 sec'\n")
    program(folder, "sinfo", "#!/bin/sh\necho cpu; echo gpu\n")
    for name in ("sacct", "scancel"):
        program(folder, name, "#!/bin/sh\nexit 0\n")
    return folder


def submitted(project: Project, slurm: Path, overlay: dict) -> list[list[str]]:
    """The arguments of each sbatch for the AmberChat finetune with an overlay, its inputs being there."""
    for made in INPUTS:
        manifest = project.root / "results" / made / "manifest.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text("{}")
    (project.root / "mine.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("snakemake"), "--profile", "slurm", TRAINING),
            *("--allowed-rules", "train", "--configfile", "mine.yaml"),
            *("--slurm-init-seconds-before-status-checks", "1"),
        ],
        cwd=project.root,
        env={**os.environ, "PATH": f"{slurm}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1  # the stand-in says so
    record = slurm.parent / "submitted"
    assert record.exists(), done.stdout + done.stderr
    return [json.loads(line) for line in record.read_text().splitlines()]


def asked(arguments: list[str]) -> str:
    """What a job is asked for: the line without its name, its log, its folder and its script."""
    line = " ".join(arguments)
    return re.sub(r"^.*--comment \S+ | -D \S+| /dev/stdin$", "", line)


CASES = {
    "one node": ({}, f"-p gpu -t 1440 --mem 480000 --nodes=1 {REST} --gres=gpu:a100:8"),
    "any GPU with some features, an account": (
        {"cluster": {"gpu_model": None, "account": "amber_gpu", "constraint": "nvlink&80g"}},
        f"-A amber_gpu -p gpu -t 1440 -C nvlink&80g --mem 480000 --nodes=1 {REST} --gres=gpu:8",
    ),
    "the default partition": (
        {"cluster": {"training_partition": None}},
        f"-t 1440 --mem 480000 --nodes=1 {REST} --gres=gpu:a100:8",
    ),
    "two nodes": (
        {"hardware": {"amberchat": {"nodes": 2}}},
        f"-p gpu -t 1440 --mem 480000 --nodes=2 {REST_OF_TWO} --gres=gpu:a100:8",
    ),
    "two nodes, any GPU, an account": (
        {"hardware": {"amberchat": {"nodes": 2}}, "cluster": {"gpu_model": None, "account": "amber_gpu"}},
        f"-A amber_gpu -p gpu -t 1440 --mem 480000 --nodes=2 {REST_OF_TWO} --gres=gpu:8",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_published_finetune_is_asked_for_as_pinned(project, slurm, case):
    overlay, expected = CASES[case]
    lines = submitted(project, slurm, overlay)
    assert len(lines) == 1  # a failure of its own is not tried again
    assert asked(lines[0]) == expected


def test_a_partition_that_the_cluster_does_not_have_stops_everything(project, slurm):
    with pytest.raises(AssertionError) as nothing_submitted:
        submitted(project, slurm, {"cluster": {"training_partition": "dgx"}})
    assert "cluster.training_partition in slurm/site.yaml: found 'dgx'" in str(nothing_submitted.value)
    assert "Partitions of this cluster: cpu, gpu" in str(nothing_submitted.value)


@pytest.mark.slurm
@pytest.mark.parametrize("case", [case for case in CASES if "features" not in case])
def test_a_real_cluster_accepts_it(cluster, case, tmp_path):
    _, expected = CASES[case]
    # The local cluster keeps no accounts.
    arguments = [each for each in expected.split() if each not in {"-A", "amber_gpu"}]
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    tried = subprocess.run(
        ["sbatch", "--test-only", *arguments, script], env=cluster.environment, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr
    assert "to start at" in tried.stderr
