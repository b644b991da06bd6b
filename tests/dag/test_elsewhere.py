"""The workflow used from another folder, and as a module of another project."""

import shutil

import pytest

from dag.conftest import jobs

pytestmark = pytest.mark.timeout(600)

SECOND = "examples/second_project/Snakefile"


def test_it_runs_in_another_folder(fresh, tmp_path):
    """What a recipe names is looked for there, and then in the workflow's folder; all that is made lies there."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: demo/config.yaml\nresults: made\n")
    arguments = ("--directory", str(tmp_path), "--configfile", str(mine), "--cores", "2", "--", "evol-mix")
    fresh.snakemake("--quiet", "rules", *arguments)
    assert (tmp_path / "made/data/evol-mix.json").exists()
    assert not (fresh.root / "made").exists()
    assert "Nothing to be done" in fresh.look("-n", *arguments)
    for name in ("sharegpt", "evol_instruct"):
        shutil.copy(fresh.root / f"demo/raw/{name}.json", tmp_path / f"{name}.json")
    mine.write_text(
        "extends: demo/config.yaml\nresults: made\nsources: {sharegpt: {path: sharegpt.json}, "
        "evol_instruct: {path: evol_instruct.json}}\n"
    )
    assert "Nothing to be done" in fresh.look("-n", *arguments), "the same files elsewhere"


def test_a_second_project_plans_and_makes_what_it_needs(fresh, tmp_path):
    arguments = ("-s", SECOND, "--directory", str(tmp_path), "--cores", "2")
    planned = jobs(fresh.look("-n", *arguments))
    assert {name for name in planned if "train" in name} == {
        "amberline_train amberchat",
        "amberline_train chat-slow",
    }
    assert "table" in planned
    assert len(planned) == 2 + 1 + 1 + 2 + 2 + 2 + 2 + 2 + 1
    assert " --directory" not in planned["table"]
    fresh.snakemake("--quiet", "rules", *arguments, "--", "amberline_evol-mix-split")
    made = tmp_path / "amberline/models-of-mine"
    assert (made / "data/evol-mix-split.json").exists()
    assert (made / "logs/mix/evol-mix.log").exists()
    left = jobs(fresh.look("-n", *arguments))
    assert not {"amberline_mix evol-mix", "amberline_chunk evol-mix-split"} & left.keys()
    assert "amberline_train amberchat" in left


def test_a_second_project_is_told_what_is_wrong_with_its_recipe(fresh, tmp_path):
    project = tmp_path / "Snakefile"
    text = (fresh.root / SECOND).read_text(encoding="utf-8")
    text = text.replace('"../../Snakefile"', f'"{fresh.root}/Snakefile"').replace('"learning_rate"', '"learning_rat"')
    project.write_text(text, encoding="utf-8")
    printed = fresh.refused("-n", "-s", str(project), "--directory", str(tmp_path))
    assert "models.chat-slow.learning_rat: unknown key" in printed
    assert "did you mean models.chat-slow.learning_rate?" in printed
