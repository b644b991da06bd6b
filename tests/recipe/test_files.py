"""Recipe files on top of each other."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from amberline.recipe.check import check_recipe
from amberline.recipe.files import ConfigurationError, find_file, put_on_top, read_recipe
from amberline.recipe.yaml_files import with_types
from recipe.conftest import DEMO, PUBLISHED, ROOT


@pytest.fixture
def write(tmp_path):
    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return written


def test_without_files_it_is_the_published_one():
    assert read_recipe([]) == read_recipe([ROOT / "config.yaml"]) == PUBLISHED


def test_later_files_win_key_by_key(write):
    one = write("one.yaml", "models: {amberchat: {seed: 1, optimizer: {beta1: 0.8}}}\n")
    two = write("two.yaml", "models: {amberchat: {seed: 2}}\n")
    merged = read_recipe([one, two])["models"]["amberchat"]
    assert merged["seed"] == 2
    assert merged["optimizer"] == PUBLISHED["models"]["amberchat"]["optimizer"] | {"beta1": 0.8}


def test_lists_are_replaced_whole(write):
    file = write("mine.yaml", "datasets: {evol-mix: {mix: [evol_instruct]}}\n")
    assert read_recipe([file])["datasets"]["evol-mix"]["mix"] == ["evol_instruct"]


def test_a_node_of_another_kind_replaces_the_one_below(write):
    file = write("mine.yaml", "models: {base: {pretrained: ./mine, revision: null}}\n")
    assert read_recipe([ROOT / "demo/config.yaml", file])["models"]["base"] == {
        "pretrained": "./mine",
        "revision": None,
    }
    assert "pretrained" not in DEMO["models"]["base"]


def test_a_part_with_another_name_replaces_the_one_below(write):
    file = write("mine.yaml", "models: {amberchat: {schedule: {name: constant, warmup_steps: 5}}}\n")
    assert read_recipe([file])["models"]["amberchat"]["schedule"] == {"name": "constant", "warmup_steps": 5}


def test_null_removes_a_node(write):
    file = write("mine.yaml", "evaluations: {answers: null}\n")
    assert list(read_recipe([file])["evaluations"]) == ["heldout", "rewards"]


def test_a_removed_node_takes_its_hardware_along(write):
    assert "ambersafe-sft" in PUBLISHED["hardware"]
    file = write("mine.yaml", "models: {ambersafe-sft: null}\n")
    assert "ambersafe-sft" not in read_recipe([file])["hardware"]


def test_null_for_what_is_not_there_is_refused(write):
    file = write("mine.yaml", "evaluations: {answer: null}\n")
    with pytest.raises(ConfigurationError, match=r"evaluations\.answer: null removes.*Did you mean answers\?"):
        read_recipe([file])


def test_null_for_a_node_in_use_is_refused():
    values = put_on_top(PUBLISHED, {"models": {"amberchat": None}})
    with pytest.raises(ConfigurationError, match=r"models\.ambersafe-sft\.from: there is no model 'amberchat'"):
        check_recipe(values, files=False)


def test_a_file_may_stand_on_another(write):
    write("below.yaml", "models: {amberchat: {seed: 5, epochs: 1}}\n")
    file = write(
        "mine.yaml", f"extends: {write('below.yaml', 'models: {amberchat: {seed: 5, epochs: 1}}')}\nstale: keep\n"
    )
    values = read_recipe([file])
    assert (values["models"]["amberchat"]["epochs"], values["stale"]) == (1, "keep")
    assert "extends" not in values


def test_a_file_may_stand_alone(write):
    assert read_recipe([write("mine.yaml", "extends: null\nresults: mine\n")]) == {"results": "mine"}


def test_what_a_file_extends_is_looked_for_in_the_working_and_then_in_the_workflow_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write("mine.yaml", "extends: demo/config.yaml\n")
    assert read_recipe([file]) == DEMO
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/config.yaml").write_text("extends: null\nresults: here\n", encoding="utf-8")
    assert read_recipe([file]) == {"results": "here"}
    assert find_file("demo/raw/sharegpt.json") == ROOT / "demo/raw/sharegpt.json"


def test_a_later_file_may_not_stand_on_another(write):
    one = write("one.yaml", "stale: keep\n")
    two = write("two.yaml", "extends: null\n")
    read_recipe([one, write("three.yaml", f"extends: {one}\n")])
    read_recipe([one, write("four.yaml", f"extends: {ROOT / 'config.yaml'}\n")])
    other = write("five.yaml", f"extends: {ROOT / 'demo/config.yaml'}\n")
    with pytest.raises(ConfigurationError, match="extends works in the first recipe file alone"):
        read_recipe([one, other])
    assert two.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: nowhere.yaml\n", "extends 'nowhere.yaml', and there is no such file"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "'c' stands in line 3 already"),
        ("a: [1\n", "cannot be read"),
        ("- 1\n", "holds no keys"),
    ],
)
def test_what_cannot_be_read_is_told_with_file_and_line(write, text, said):
    with pytest.raises(ConfigurationError) as error:
        read_recipe([write("mine.yaml", text)])
    assert said in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_files_that_extend_each_other_are_refused(write, tmp_path):
    write("one.yaml", f"extends: {tmp_path / 'two.yaml'}\n")
    file = write("two.yaml", f"extends: {tmp_path / 'one.yaml'}\n")
    with pytest.raises(ConfigurationError, match="in a circle"):
        read_recipe([file])


def test_a_missing_file_is_told():
    with pytest.raises(ConfigurationError, match=r"there is no recipe file nowhere\.yaml"):
        read_recipe([Path("nowhere.yaml")])


def test_on_is_a_key_and_an_exponent_makes_a_number(write):
    file = write("mine.yaml", "models: {mine: {on: x, learning_rate: 2e-5, tf32: true, note: yes}}\n")
    node = read_recipe([file])["models"]["mine"]
    assert node == {"on": "x", "learning_rate": 2e-5, "tf32": True, "note": "yes"}


def test_values_of_the_command_line_come_last(write):
    more = {"stale": "keep", "models": {"amberchat": {True: "safe-pairs"}}}
    values = read_recipe([write("mine.yaml", "stale: retrain\n")], more)
    assert values["stale"] == "keep"
    assert values["models"]["amberchat"]["on"] == "safe-pairs"


def test_a_resolved_recipe_can_be_printed_and_used(tmp_path):
    program = [sys.executable, ROOT / "scripts/print_recipe.py"]
    done = subprocess.run([*program, "demo/config.yaml"], cwd=ROOT, capture_output=True, text=True, check=True)
    (tmp_path / "whole.yaml").write_text(done.stdout, encoding="utf-8")
    again = read_recipe([tmp_path / "whole.yaml"])
    assert "defaults" not in yaml.safe_load(done.stdout)
    assert check_recipe(again, files=False).nodes.filled == check_recipe(DEMO, files=False).nodes.filled
    done = subprocess.run([*program, "nowhere.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "print_recipe: there is no recipe file nowhere.yaml, nothing was started\n"


def test_values_of_the_command_line_have_types() -> None:
    """Snakemake reads `--config models='{a: {seed: 7}}'`, and leaves what is inside as text."""
    given = {"a": {"seed": "7", "beta": "2e-5", "on": "on", "none": "null", "flag": "true", "odd": "a: b"}, "b": ["1"]}
    found = {"a": {"seed": 7, "beta": 2e-5, "on": "on", "none": None, "flag": True, "odd": "a: b"}, "b": [1]}
    assert with_types(given) == found
    assert with_types("7") == "7", "what Snakemake has read itself stays"
