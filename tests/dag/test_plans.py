"""What Snakemake says before anything runs: the plan of the published recipe, and what is wrong with a wrong one."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from amberline.core.code import locked
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, read_recipe
from amberline.recipe.resolve import RESERVED
from dag.conftest import jobs
from slurm.stand_ins import printing, program

WORK = ("train", "score_reference", "evaluate")
# Others rely on these names.
RULES = {
    *("acquire", "acquire_model", "make_tiny_model", "mix", "chunk", "select_pairs", "tokenize", "train"),
    *("score_reference", "export", "write_card", "evaluate", "report", "evaluation", "all"),
}


def running_models(printed: str) -> Iterator[tuple[str, str]]:
    """The jobs of a plan that run a model, and what is printed of them."""
    return ((name, block) for name, block in jobs(printed).items() if name.split()[0] in WORK)


def test_the_published_recipe_is_planned_whole(fresh):
    plan = dict(running_models(fresh.look("-n")))
    assert {"train amberchat", "train ambersafe-sft", "train ambersafe", "evaluate answers ambersafe"} < plan.keys()
    assert len(plan) == 15
    for name, block in plan.items():
        # Answers are made by one process.
        share = 8 if name.startswith("evaluate answers") else 1
        assert f"gres=gpu:a100:{8 // share}," in block
        assert f"local_gpus={8 // share}" in block
        assert "nodes=1," in block
        assert re.search(rf"mem_mb={480_000 // share}\b", block)
        assert "runtime=" in block
    assert len(jobs(fresh.look("-n"))) == 39


def test_a_plan_is_short(fresh):
    printed = fresh.look("-n", "--configfile", "demo/config.yaml")
    assert len(jobs(printed)) == 40
    assert len(printed.splitlines()) < 200
    assert max(map(len, printed.splitlines())) < 300


def test_the_slurm_profile_plans_it_without_slurm(fresh):
    printed = fresh.look("-n", "--profile", "slurm")
    assert jobs(printed).keys() == jobs(fresh.look("-n")).keys()
    for name, block in running_models(printed):
        assert "slurm_partition=gpu," in block, name


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("pku_train", 2),
        ("evol-mix", 4),
        ("evol-mix-split", 6),
        ("safe-pairs", 5),
        ("base", 2),
        ("amberchat", 12),
        ("ambersafe-sft", 20),
        ("heldout", 29),
        ("rewards", 29),
        ("report", 35),
        ("evaluation", 35),
    ],
)
def test_named_targets(fresh, target, number):
    plan = jobs(fresh.look("-n", target))
    assert target in plan
    assert len(plan) == number


def test_the_rules_have_the_settled_names_and_no_node_can_have_one(fresh):
    rules = fresh.look("--list-rules").split()
    nodes = check_recipe(read_recipe([PUBLISHED]), files=False).names
    assert set(nodes) < set(rules)
    assert set(rules) - set(nodes) == RULES
    assert RULES < RESERVED


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        ("ambersave", "ambersafe"),
        ("evol-mixsplit", "evol-mix-split"),
        ("pku_trian", "pku_train"),
        ("reward", "rewards"),
    ],
)
def test_a_misspelt_target_names_the_nearest(fresh, target, nearest):
    printed = fresh.refused("--cores", "2", target)
    assert f"there is no target {target!r}, nothing was started. Did you mean {nearest}" in printed
    assert not (fresh.root / "results").exists()


@pytest.mark.parametrize("name", ["ambersafe", "score_reference", "evaluate", "rewards"])
def test_hardware_of_one_node_or_kind_of_work_is_of_that_alone(fresh, tmp_path, name):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"hardware": {name: {"nodes": 2}}}))
    for job, block in running_models(fresh.look("-n", "--configfile", str(file))):
        kind, *of = job.split()
        # Answers are made by one process, whatever the hardware; a model's hardware is that of its training.
        concerned = name in ({kind, of[0]} if kind == "evaluate" else {kind, *of}) and "answers" not in of
        assert ("nodes=2," in block) == concerned, job
        for resource in ("mpi=srun", "tasks=2", "tasks_per_gpu=0"):
            assert (resource in block) == concerned, job


DEMO = ["--configfile", "demo/config.yaml"]


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        ("models: {amberchat: {epoch: 1}}", ["models.amberchat.epoch", "unknown key", "models.amberchat.epochs"]),
        ("models: {amberchat: {epochs: some}}", ["models.amberchat.epochs", "'some'", "integer"]),
        ("sources: {sharegpt: {path: demo/raw/none.json}}", ["sources.sharegpt.path", "demo/raw/none.json", "no such"]),
        (f"sources: {{sharegpt: {{sha256: '{'0' * 64}'}}}}", ["sources.sharegpt.sha256", "46d96ff0c8b1", "000000"]),
        ("models: {ambersafe: {global_batch: -16}}", ["models.ambersafe.global_batch", "-16", "greater than 0"]),
        ("models: {amberchat: {global_batch: 7}}", ["global_batch (7)", "micro_batch_examples (2)"]),
        ("hardware: {ambersafe: {attention: sparse}}", ["hardware.ambersafe.attention", "'sparse'", "'varlen'"]),
        (
            "models: {base: {pretrained: ./results/nowhere, revision: null}}",
            ["models.base.pretrained", "./results/nowhere", "no config.json"],
        ),
        ("models: {base: {pretrained: LLM360/Amber, revision: null}}", ["models.base", "say which revision"]),
        ("models: {ambersafe: {learning_rate: fast}}", ["models.ambersafe.learning_rate", "'fast'", "number"]),
    ],
)
def test_a_wrong_configuration_stops_before_any_job(fresh, tmp_path, overlay, said):
    file = tmp_path / "mine.yaml"
    file.write_text(overlay)
    printed = fresh.refused("--cores", "2", *DEMO, str(file))
    assert all(part in printed for part in said), printed
    assert "nothing was started" in printed
    assert "Traceback" not in printed
    assert not (fresh.root / "results").exists()


def test_a_configured_value_never_reaches_a_shell(fresh, tmp_path):
    """A path may hold anything; it must arrive as it is."""
    file = tmp_path / "mine.yaml"
    file.write_text("results: 'results/$(touch pwned); x'")
    printed = fresh.look("-n", "-p", *DEMO, str(file))
    assert "'results/$(touch pwned); x'" in printed or "'results/$(touch pwned); x/" in printed
    assert not (fresh.root / "pwned").exists()


def test_the_drawings_are_those_of_recipe_rules_and_layers(fresh):
    done = subprocess.run(
        [sys.executable, "docs/make_drawings.py", "--check"], cwd=fresh.root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def pins(lock: str) -> list[str]:
    return re.findall(r"^[A-Za-z][^\s]*", lock, re.MULTILINE)


def test_conda_files_hold_what_the_locks_hold(fresh):
    for name in ("cpu", "gpu"):
        *_, packages = yaml.safe_load((fresh.root / f"envs/{name}.yaml").read_text())["dependencies"]
        assert packages["pip"] == pins((fresh.root / f"envs/{name}.lock").read_text()), "run: make lock"


def test_the_gpu_lock_is_that_of_the_cpu_with_the_cuda_build_of_torch(fresh):
    """Every file of it has a hash, and nothing in it has to be compiled."""
    text = (fresh.root / "envs/gpu.lock").read_text()
    gpu, cpu = locked(fresh.root / "envs/gpu.lock"), locked(fresh.root / "envs/cpu.lock")
    assert gpu.items() >= cpu.items()
    assert all(re.match("nvidia-|cuda-|triton|setuptools", name) for name in gpu.keys() - cpu.keys())
    assert "torch===" in text, "two equals signs would take a CPU build of another index"
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=[A-Za-z])", text)[1:])
    assert len(pins(text)) == len(gpu)


def test_a_machine_without_gpus_is_told_before_any_job(fresh):
    printed = fresh.snakemake("--cores", "2", "--", "amberchat", check=False)
    assert "This machine cannot run what is asked for. Nothing was started." in printed
    assert "train amberchat asks for 8 GPUs (ranks_per_node), and this machine has none" in printed
    assert "make demo" in printed
    assert "Traceback" not in printed
    assert not (fresh.root / "results/raw").exists()


def test_stages_on_one_machine_wait_for_each_others_gpus(fresh, tmp_path, monkeypatch):
    """The limit is what the driver lists, or what the user says; the torch of this environment stops them later."""
    program(tmp_path, "nvidia-smi", printing("".join(f"GPU {number}: A (UUID: x)\n" for number in range(8))))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    start = ("--cores", "64", "--", "amberchat")
    assert 'Provided resources: local_gpus=Resource("local_gpus", 8)' in fresh.snakemake(*start, check=False)
    said = fresh.snakemake("--resources", "local_gpus=4", *start, check=False)
    assert 'Provided resources: local_gpus=Resource("local_gpus", 4)' in said


def test_snakemake_holds_to_a_limit_that_is_set_while_it_reads_the_rules(tmp_path):
    (tmp_path / "Snakefile").write_text(
        "workflow.register_resource('local_gpus', 8)\n"
        "rule all:\n    input: 'a', 'b'\n"
        "rule stage:\n    output: '{name}'\n    resources: local_gpus=8\n"
        "    shell: 'echo start >> log; sleep 0.2; echo end >> log; touch {output}'\n"
    )
    snakemake = [Path(sys.executable).with_name("snakemake"), "--cores", "2"]
    subprocess.run(snakemake, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "log").read_text().split() == ["start", "end"] * 2


def test_the_docs_hold_what_snakemake_says_before_the_recipe_is_read(fresh, tmp_path):
    table = (fresh.root / "docs/recipes.md").read_text(encoding="utf-8")
    torn = tmp_path / "torn.yaml"
    torn.write_text("models: {a: [}\n")
    for said, arguments in {
        "No such file or directory: 'ambersafe'": (*DEMO, "ambersafe"),
        "No such file or directory: 'mine.yaml'": ("--configfile", "mine.yaml"),
        "Config entry must start with a valid identifier": (*DEMO, "--config", "models.ambersafe.beta=0.3"),
        "Config file is not valid JSON or YAML": ("--configfile", str(torn)),
    }.items():
        assert f"`{said}`" in table
        assert said in fresh.refused("-n", *arguments)
    named = subprocess.run(
        [sys.executable, "scripts/print_recipe.py", torn], cwd=fresh.root, capture_output=True, text=True
    )
    assert re.search(r"torn\.yaml.*line 1", named.stderr, re.DOTALL)
    assert "Traceback" not in named.stderr


def test_an_environment_that_there_is_not_stops_make_at_once(fresh):
    # As a person's make, not as one inside of that which runs the tests: it would say where it is.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "demo", "ENVIRONMENT=tpu"]
    done = subprocess.run(command, cwd=fresh.root, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "there is no envs/tpu.lock; choose cpu or gpu" in done.stderr


def test_two_configfile_flags_are_refused(fresh):
    printed = fresh.refused("-n", "--configfile", "demo/config.yaml", "--configfile", "config.yaml")
    assert "--configfile is given twice. Nothing was started." in printed
