"""What becomes of trainings whose code or packages have changed: unfinished ones stop, finished ones are stale."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from amberline.core.manifests import read_manifest
from dag.conftest import DEMO, Project
from dag.test_reruns import CARDS, CODE, FROM_AMBERCHAT, FROM_SFT, append, replace

pytestmark = pytest.mark.timeout(1800)

RUN = Path("results/demo/training/amberchat/run.json")
TARGET = ("--quiet", "rules", "progress", "--", str(RUN))
SHUFFLE = "_order(len(of_repeats), settings.seed)"
EDIT = append("scripts/amberline/training/loop.py", CODE)


def run_directories(project: Project) -> set[Path]:
    return set((project.root / "results/demo/checkpoints").glob("amberchat-*/"))


def facts(project: Project, run: Path = RUN) -> dict:
    return read_manifest(project.root / run)["facts"]


def interrupted(project: Project) -> Path:
    """Start a training with another seed, kill it as soon as the checkpoint after step 40 is there; its directory."""
    project.overlay({"models": {"amberchat": {"seed": 7, "epochs": 3}}})
    before = run_directories(project)
    program = Path(sys.executable).with_name("snakemake")
    started = subprocess.Popen(
        [program, *DEMO, *TARGET],
        cwd=project.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    while not [each for new in run_directories(project) - before for each in new.glob("step-00000040/checkpoint.json")]:
        assert started.poll() is None
        time.sleep(0.002)
    # The launcher starts the ranks in sessions of their own.
    (new,) = run_directories(project) - before
    ranks = [process for process in Path("/proc").glob("[0-9]*") if str(project.root).encode() in environment(process)]
    os.killpg(started.pid, signal.SIGKILL)
    for process in ranks:
        with suppress(ProcessLookupError):
            os.kill(int(process.name), signal.SIGKILL)
    started.wait()
    project.snakemake(*DEMO, "--unlock")
    assert not (new / "final").exists()
    return new


def environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes() + os.fsencode((process / "cwd").readlink())
    except OSError:
        return b""


def commands(printed: str) -> dict[str, list[str]]:
    """The two commands that a refused training names."""
    found = re.findall(r"^ +(\S+ scripts/unfinished_run\.py (continue|discard) \S+)$", printed, re.MULTILINE)
    return {name: [sys.executable, *command.split()[1:]] for command, name in found}


@pytest.mark.parametrize("choice", ["continue", "discard"])
def test_an_unfinished_training_stops_and_both_commands_work(finished, tmp_path, choice):
    project = finished.copy(tmp_path / "project")
    old = interrupted(project)
    code_before = json.loads((old / "identity.json").read_text())["code"]
    EDIT(project)
    rerun = ("--rerun-incomplete", *DEMO, *TARGET)
    printed = project.snakemake(*rerun, check=False)
    assert f"{old.relative_to(project.root)} is an unfinished run of this training" in printed
    assert "made with other code. Nothing was started." in printed
    assert commands(printed).keys() == {"continue", "discard"}
    # A second start says the same again.
    assert commands(project.snakemake(*rerun, check=False)) == commands(printed)

    done = subprocess.run(commands(printed)[choice], cwd=project.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = project.snakemake(*rerun)
    assert not old.exists()
    made = facts(project)
    assert made["made_with"]["code"] != code_before
    if choice == "continue":
        until = made["earlier"][0]["until_step"]
        assert until >= 40
        assert f"continuing after step {until} from" in printed
        assert [part["code"] for part in made["earlier"]] == [code_before]
    else:
        assert made["earlier"] == []
        assert "continuing after step" not in printed
    assert made["steps"] == 120


def test_ask_lists_stale_trainings_and_stops_a_real_run_alone(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.overlay({"stale": "ask"})
    EDIT(project)
    printed = project.look("-n", *DEMO)
    assert "a real run stops before the first job" in printed
    for line in (
        r"  amberchat: code changed; it took 480 steps, 0:0\d:\d\d on 2 processes",
        r"  ambersafe-sft: code changed; it took 60 steps",
        r"  ambersafe: code changed; it took 69 steps",
        r"--config stale=retrain",
        r"--config stale=keep",
    ):
        assert re.search(line, printed), line
    assert project.planned() == FROM_AMBERCHAT

    before = run_directories(project)
    printed = project.snakemake(*DEMO, check=False)
    assert "Finished trainings are stale. Nothing was started." in printed
    assert "Traceback" not in printed
    assert "--config stale=retrain" in printed
    assert run_directories(project) == before
    # What needs no stale training goes on.
    project.snakemake(*DEMO, "--quiet", "rules", "--", "safe-pairs")


def test_a_training_that_starts_from_a_stale_one_is_listed(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.overlay({"stale": "ask"})
    append("scripts/amberline/objectives/sft.py", CODE)(project)
    printed = project.look("-n", *DEMO)
    assert "  amberchat: code changed" in printed
    assert "  ambersafe-sft: code changed" in printed
    assert "  ambersafe: starts from one of the others; it took 69 steps" in printed


def test_keep_is_recorded_in_manifest_card_and_report_and_can_be_undone(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.overlay({"stale": "ask"})
    before = facts(project)
    EDIT(project)
    assert project.planned("--config", "stale=keep") == CARDS
    project.snakemake(*DEMO, "--quiet", "rules", "--config", "stale=keep")
    kept = facts(project)
    assert kept["made_with"] == before["made_with"]
    assert kept["kept_for"]["code"] != before["made_with"]["code"]
    card = (project.root / "results/demo/models/amberchat/README.md").read_text()
    assert "These weights were kept (`stale: keep`) although this has changed since they were trained: code." in card
    page = (project.root / "results/demo/report/index.html").read_text()
    assert page.count("<code>stale: keep</code>") == 3
    # It is settled, until the code changes again or somebody wants it otherwise.
    assert project.planned() == set()
    assert project.planned("--config", "stale=keep") == set()
    assert project.planned("--config", "stale=retrain") == FROM_AMBERCHAT
    append("scripts/amberline/training/loop.py", "\nANOTHER = 1\n")(project)
    assert "amberchat: code changed" in project.look("-n", *DEMO)


def test_keep_is_settled_also_where_nothing_is_to_be_done(finished, tmp_path):
    """A model has no card among its inputs: no job runs."""
    project = finished.copy(tmp_path / "project")
    project.overlay({"stale": "ask"})
    EDIT(project)
    target = "results/demo/models/ambersafe/manifest.json"
    assert "Finished trainings are stale" in project.snakemake(*DEMO, "--", target, check=False)
    assert "Nothing to be done" in project.snakemake(*DEMO, "--config", "stale=keep", "--", target)
    assert "Nothing to be done" in project.snakemake(*DEMO, "--", target)
    # And for a training whose job runs all the same, because a cheap stage before it ran.
    append("scripts/mix.py", CODE)(project)
    before = facts(project)
    printed = project.snakemake(*DEMO, *TARGET)
    assert "kept, though code or packages have changed" in printed
    assert facts(project)["made_with"] == before["made_with"]
    # The code is edited back: nothing is kept any more, and nothing is to be trained again.
    path = project.root / "scripts/amberline/training/loop.py"
    path.write_text(path.read_text().removesuffix(CODE))
    assert "train amberchat" not in project.planned("--config", "stale=retrain")


def test_a_changed_setting_before_a_stale_training_is_no_question(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.overlay({"stale": "ask", "datasets": {"evol-mix": {"seed": 5}}})
    append("scripts/amberline/objectives/sft.py", CODE)(project)
    printed = project.look("-n", *DEMO)
    assert "amberchat: code changed" not in printed


def test_deleted_final_weights_are_made_again_when_they_are_needed(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    run = Path("results/demo/training/ambersafe-sft/run.json")  # of the shortest training
    final = project.root / run.parent / facts(project, run)["final_weights"]
    for file in final.iterdir():
        file.unlink()
    assert project.planned() == set(), "the model is exported"
    model = project.root / "results/demo/models/ambersafe-sft/model.safetensors"
    content = model.read_bytes()
    model.unlink()
    assert project.planned() == FROM_SFT
    project.snakemake(*DEMO, "--quiet", "rules", "progress", "--", "results/demo/models/ambersafe-sft/manifest.json")
    assert model.read_bytes() == content


def test_results_without_records_are_told_of(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    shutil.rmtree(project.root / ".snakemake")
    printed = project.look("-n", *DEMO)
    assert "were made elsewhere" in printed
    assert "add --touch --forceall to the same command once" in printed
    project.snakemake(*DEMO, "--touch", "--forceall")
    assert project.planned() == set()
    assert "were made elsewhere" not in project.look("-n", *DEMO)


def test_retrain_trains_again_after_another_torch(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.overlay({"models": {"amberchat": {"epochs": 1}}})
    project.snakemake(*DEMO, *TARGET)
    before, directories = facts(project), run_directories(project)
    replace("envs/cpu.lock", "torch==2.13.0", "torch==2.13.1")(project)
    printed = project.snakemake(*DEMO, *TARGET)
    assert "because packages.torch changed since" in printed
    assert "already finished" not in printed
    (new,) = run_directories(project) - directories
    assert (new / "metrics.jsonl").read_text().count('"grad_norm"') == 40
    made = facts(project)
    assert made["made_with"]["packages"]["torch"] == "2.13.1"
    assert made["weights_sha256"] == before["weights_sha256"], "for the torch that is installed is the same"
    # And back again: the run of before is still there.
    replace("envs/cpu.lock", "torch==2.13.1", "torch==2.13.0")(project)
    assert "already finished" in project.snakemake(*DEMO, *TARGET)
    assert facts(project) == before


@pytest.mark.parametrize(("stale", "said"), [("ask", "--config stale=retrain"), ("keep", "kept, though")])
def test_other_bytes_from_a_cheap_stage_make_a_training_stale(finished, tmp_path, stale, said):
    """The mix is shuffled otherwise by other code: nobody asked for other data."""
    project = finished.copy(tmp_path / "project")
    project.overlay({"stale": stale})
    replace("scripts/amberline/data/mixing.py", SHUFFLE, f"{SHUFFLE}[::-1]")(project)
    printed = project.snakemake(*DEMO, *TARGET, check=False)
    assert said in printed
    if stale == "ask":
        assert "made with other inputs.tokens" in printed
    else:
        made = facts(project)
        assert made["made_with"]["inputs"]["tokens"] != made["kept_for"]["inputs"]["tokens"]
        assert "already finished" in printed


def test_equal_bytes_from_a_cheap_stage_repeat_no_training(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.overlay({"stale": "ask"})
    append("scripts/mix.py", CODE)(project)
    before = facts(project)
    printed = project.snakemake(*DEMO, *TARGET)
    assert "already finished" in printed
    assert facts(project) == before
    assert project.planned("--", str(RUN)) == set()
