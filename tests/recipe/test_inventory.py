"""What lies in a results folder and is of no recipe: it is listed, and deleted only when that is asked for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from amberline.recipe import paths
from amberline.recipe.inventory import entries, find_unused, models_of_no_node
from recipe.conftest import DEMO, ROOT, recipe_with

B3 = {"variants": {"b3": {"models": {"ambersafe": {"beta": 0.3}}}}}


def fill(results: Path, recipe) -> None:
    """Everything that a recipe names, as small files."""
    for entry in entries(recipe):
        path = results / entry
        if path.suffix in {".json", ".jsonl", ".xz"}:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x" * 100)
            path.with_name(f"{path.name}.manifest.json").write_text("{}")
        else:
            path.mkdir(parents=True, exist_ok=True)
            (path / "manifest.json").write_text("x" * 50)
    for number, name in enumerate(recipe.runs.values()):
        folder = results / f"checkpoints/{name}-{number:016x}/final"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text("{}")
        final = os.path.relpath(folder, (results / paths.run(name)).parent)
        (results / paths.run(name)).write_text(json.dumps({"final_weights": final}))


@pytest.fixture
def results(tmp_path) -> Path:
    fill(tmp_path / "demo", recipe_with(B3, on=DEMO))
    return tmp_path / "demo"


def listed(results: Path, *recipes) -> set[str]:
    return {each.path.relative_to(results).as_posix() for each in find_unused(results, recipes)}


def test_nothing_of_a_recipe_is_listed(results):
    assert listed(results, recipe_with(B3, on=DEMO)) == set()
    assert models_of_no_node(results, recipe_with(B3, on=DEMO)) == []


def test_what_is_left_of_a_removed_variant_is_listed_with_its_run(results):
    assert listed(results, recipe_with(on=DEMO)) == {
        "models/ambersafe@b3",
        "training/ambersafe@b3",
        "checkpoints/ambersafe@b3-0000000000000003",
        *(f"evaluations/{name}/ambersafe@b3.json" for name in ("heldout", "rewards", "answers")),
    }
    assert models_of_no_node(results, recipe_with(on=DEMO)) == ["ambersafe@b3"]


def test_what_another_recipe_names_is_kept(results):
    assert listed(results, recipe_with(on=DEMO), recipe_with(B3, on=DEMO)) == set()


def test_unfinished_runs_of_the_recipe_are_kept_and_finished_ones_that_nothing_names_are_listed(results):
    (results / "checkpoints/ambersafe-00000000000000aa/step-00000020").mkdir(parents=True)
    (results / "checkpoints/gone-00000000000000aa/step-00000020").mkdir(parents=True)
    (results / "checkpoints/ambersafe-00000000000000bb/final").mkdir(parents=True)
    (results / "checkpoints/ambersafe-00000000000000bb/final/checkpoint.json").write_text("{}")
    assert listed(results, recipe_with(B3, on=DEMO)) == {
        "checkpoints/gone-00000000000000aa",
        "checkpoints/ambersafe-00000000000000bb",
    }


def test_the_folder_of_a_sources_files_is_listed_with_its_manifest(results):
    own = {"sources": {"mine": {"path": "data", "files": "*.jsonl", "format": "messages"}}}
    folder = results / "raw/mine.files"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.jsonl").write_text("x" * 30)
    folder.with_name("mine.files.manifest.json").write_text("x" * 5)
    assert listed(results, recipe_with(B3, own, on=DEMO)) == set()
    assert [(each.path, each.bytes) for each in find_unused(results, [recipe_with(B3, on=DEMO)])] == [(folder, 35)]


def test_tokens_of_other_settings_are_listed(results):
    longer = recipe_with(B3, {"models": {"ambersafe-sft": {"max_length": 120}}}, on=DEMO)
    assert {Path(each).parts[0] for each in listed(results, longer)} == {"tokens", "funnels", "rejects"}


def test_the_program_lists_and_deletes(tmp_path, results):
    shutil.copytree(ROOT / "demo", tmp_path / "recipes", ignore=shutil.ignore_patterns("raw"))
    demo = tmp_path / "recipes/config.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"results: {results}\n")
    program = [sys.executable, ROOT / "scripts/unused.py", "--recipe", f"{demo},{mine}"]

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*program, *more], cwd=tmp_path, capture_output=True, text=True)

    printed = run().stdout
    assert f"6 files and folders under {results} are of none of these recipes" in printed
    assert (results / "models/ambersafe@b3").exists()
    assert "deleted 6 files and folders" in run("--delete").stdout
    assert not (results / "models/ambersafe@b3").exists()
    assert not (results / "evaluations/heldout/ambersafe@b3.json.manifest.json").exists()
    assert (results / "models/ambersafe").exists()
    assert run("--delete").stdout.startswith("0 files and folders")
    other = run("--recipe", str(demo))
    assert "different results folders" in other.stderr
    assert other.returncode == 1
