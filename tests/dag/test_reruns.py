"""What runs again after a change: exactly the stages that it can affect."""

import ast
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from amberline.core.settings import Kind, leaves
from amberline.recipe.check import check_configuration

PAGE = Counter(write_report=1, all=1)
EVALUATION = PAGE | Counter(evaluate=4, sample_answers=1)
# An exported model, its card, and its own evaluation.
EXPORT_OF_AMBERSAFE = PAGE | Counter(export_ambersafe=1, card_of_ambersafe=1, evaluate=1, sample_answers=1)
CARDS = PAGE | Counter(card_of_amberchat=1, card_of_ambersafe_sft=1, card_of_ambersafe=1)

FROM_DPO = EXPORT_OF_AMBERSAFE | Counter(train_dpo=1)
FROM_REFERENCE = FROM_DPO | EVALUATION | Counter(score_reference=2)
FROM_EXPORT_OF_SFT = FROM_REFERENCE | Counter(export_ambersafe_sft=1, card_of_ambersafe_sft=1)
FROM_SFT = FROM_EXPORT_OF_SFT | Counter(finetune_preferred=1)
FROM_EXPORT_OF_AMBERCHAT = FROM_SFT | Counter(export_amberchat=1, card_of_amberchat=1)
FROM_AMBERCHAT = FROM_EXPORT_OF_AMBERCHAT | Counter(finetune_amberchat=1)
FROM_PREFERENCE_TOKENS = FROM_SFT | Counter(tokenise_preferences=2)
FROM_PAIRS = FROM_PREFERENCE_TOKENS | Counter(select_safe_pairs=2)
FROM_CHUNKS = FROM_AMBERCHAT | Counter(tokenise_conversations=2)
FROM_SPLIT = FROM_CHUNKS | Counter(split=2)
FROM_MIX = FROM_SPLIT | Counter(mix=1)
EVERYTHING_FROM_SHAREGPT = FROM_MIX | FROM_PREFERENCE_TOKENS | Counter(acquire=1, make_tiny_base=1)
EVERYTHING = FROM_MIX | FROM_PAIRS | Counter(acquire=4, make_tiny_base=1)
# Of the test split only what is measured on it: a training that was watched on it is not touched.
FROM_TEST_ROWS = (
    EVALUATION
    | Counter(acquire=1, select_safe_pairs=1, tokenise_preferences=1, score_reference=1)
    | Counter(card_of_ambersafe_sft=1, card_of_ambersafe=1)
)
ALL_TRAININGS = ("finetune_amberchat", "finetune_preferred", "train_dpo")

DEMO = "demo/config.yaml"
MADE = "results/demo"

# Edits


def replace(file, old, new):
    return lambda project: project.edit(file, old, new)


def append(file, text):
    def edit(project):
        path = project.root / file
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")

    return edit


def overlay(values):
    """Put settings on top of the demo's."""

    def edit(project):
        path = project.root / DEMO
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump(merged(settings, values)), encoding="utf-8")

    return edit


def merged(one, other):
    both = {**one, **other}
    return {
        key: merged(one[key], value) if isinstance(value, dict) and isinstance(one.get(key), dict) else value
        for key, value in both.items()
    }


def swap_decays(project):
    """Two values of one stage change places: the set of values stays the same."""
    project.edit("config.yaml", "      beta1: 0.9 ", "      beta1: 0.999 ")
    project.edit("config.yaml", "      beta2: 0.999 ", "      beta2: 0.9 ")


def swap_keys(project):
    project.edit(
        DEMO,
        "    max_length: 128\n    max_prompt_length: 64\n",
        "    max_prompt_length: 64\n    max_length: 128\n",
    )


def change_raw(name, old, new, time=None):
    """Other content of a raw file, which the configuration then takes as it is; with `time`, as old as that."""

    def edit(project):
        (path,) = (project.root / "demo/raw").glob(f"{name}.json")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        if time:
            os.utime(path, (time, time))
        overlay({"sources": {name: {"bytes": None, "sha256": None}}})(project)

    return edit


def fewer_test_rows(project):
    import lzma

    path = project.root / "demo/raw/pku_test.jsonl.xz"
    rows = lzma.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(lzma.compress(b"".join(rows[:-5])))
    overlay({"sources": {"pku_test": {"bytes": None, "sha256": None, "rows": None}}})(project)


def copy_of_raw(project):
    """The same bytes under another path."""
    shutil.copyfile(project.root / "demo/raw/sharegpt.json", project.root / "copy.json")
    overlay({"sources": {"sharegpt": {"path": "copy.json"}}})(project)


def comments_and_docstrings(project):
    """In one file of each layer and in a program: a comment, and another docstring of the module."""
    library = project.root / "scripts/amberline"
    files = [next(iter(sorted(package.glob("[a-z]*.py")))) for package in sorted(library.iterdir()) if package.is_dir()]
    assert len(files) > 8
    for path in [*files, project.root / "scripts/train.py", library / "training/loop.py"]:
        text = path.read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(text), clean=False)
        changed = text.replace(docstring, f"{docstring} And more.", 1) + "\n# A comment.\n"
        path.write_text(changed, encoding="utf-8")


def rename_a_local_variable(project):
    path = project.root / "scripts/amberline/data/mixing.py"
    text, found = re.subn(r"\bis_held_out\b", "withheld", path.read_text(encoding="utf-8"))
    assert found >= 2
    path.write_text(text, encoding="utf-8")


def remove(file):
    return lambda project: (project.root / MADE / file).unlink()


def cut_short(file):
    def edit(project):
        path = project.root / MADE / file
        path.write_bytes(path.read_bytes()[:-10])

    return edit


def other_bytes(file):
    """Other content of the same size; its modification time is that of now."""

    def edit(project):
        path = project.root / MADE / file
        path.write_bytes(path.read_bytes()[:-2] + b"?\n")

    return edit


def restore(file):
    """The same bytes again, in a new file."""

    def edit(project):
        path = project.root / MADE / file
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)

    return edit


def after(*edits):
    def edit(project):
        for each in edits:
            each(project)

    return edit


CODE = "\n\ndef added_by_a_test() -> None:\n    pass\n"
LOCK = "envs/cpu.lock"
ANOTHER_TORCH = replace(LOCK, "torch==2.13.0", "torch==2.13.1")

RUNTIME = {
    "stale": "ask",
    "amberchat": {
        "training": {
            "checkpoints": {"every_steps": 7, "keep": 4},
            "evaluation": {"every_examples": 80, "examples": 20},
            "monitors": {"action": "stop", "loss_spike": 9.0},
        }
    },
    "ambersafe": {
        "sft": {
            "checkpoints": {"every_steps": 7, "keep": 4},
            "evaluation": {"every_examples": 80, "examples": 20},
            "monitors": {"action": "stop", "loss_spike": 9.0},
        },
        "dpo": {
            "checkpoints": {"every_steps": 7, "keep": 4},
            "evaluation": {"every_examples": 80, "examples": 20},
            "monitors": {"action": "stop", "loss_spike": 9.0, "reward_accuracy": 0.1, "reward_margin": -1.0},
        },
    },
    "tracking": {"wandb_project": "mine", "wandb_mode": "online"},
}
ELSEWHERE = {
    "results",
    "environment",
}  # where things are made, and under which lock: rows of their own, or other folders

EDITS = {
    "nothing": (lambda project: None, Counter()),
    "every file touched": (lambda project: project.touch_everything(), Counter()),
    # What changes no result
    "every runtime setting": (overlay(RUNTIME), Counter()),
    "hardware of a stage": (replace(DEMO, "micro_batch_tokens: 4096", "micro_batch_tokens: 2048"), Counter()),
    "processes of the data stages": (replace(DEMO, "  processes: 2", "  processes: 1"), Counter()),
    "a folder on nodes for tokens": (replace("slurm/site.yaml", "scratch: null", "scratch: $TMPDIR"), Counter()),
    "a comment in config.yaml": (append("config.yaml", "# a comment\n"), Counter()),
    "the order of keys": (swap_keys, Counter()),
    "a number written another way": (replace(DEMO, "5.0e-4", "5e-4"), Counter()),
    "comments and docstrings in each layer": (comments_and_docstrings, Counter()),
    "a comment in the lock": (append(LOCK, "# a comment\n"), Counter()),
    "tqdm in the lock": (append(LOCK, "tqdm==99.0\n"), Counter()),
    # What is only said of the data
    "a licence": (overlay({"sources": {"sharegpt": {"licence": "cc0-1.0"}}}), CARDS),
    "a licence of the test rows": (
        overlay({"sources": {"pku_test": {"licence": "mit"}}}),
        PAGE | Counter(card_of_ambersafe_sft=1, card_of_ambersafe=1),
    ),
    "an expectation less": (overlay({"sources": {"evol_instruct": {"rows": None, "sha256": None}}}), CARDS),
    "the same raw file elsewhere": (copy_of_raw, CARDS),
    "an expectation that no longer fits": (
        overlay({"sources": {"sharegpt": {"rows": 241}}}),
        EVERYTHING_FROM_SHAREGPT,
    ),
    # Settings
    "mix: seed": (overlay({"amberchat": {"mix": {"seed": 1}}}), FROM_MIX),
    "mix: rows withheld": (overlay({"amberchat": {"mix": {"heldout_conversations": 41}}}), FROM_MIX),
    "split: length": (overlay({"amberchat": {"split": {"max_length": 200}}}), FROM_SPLIT),
    "conversation tokens: mode": (overlay({"amberchat": {"tokens": {"mode": "lossless"}}}), FROM_CHUNKS),
    "amberchat: learning rate": (overlay({"amberchat": {"training": {"learning_rate": 0.002}}}), FROM_AMBERCHAT),
    "amberchat: two values swapped": (swap_decays, FROM_AMBERCHAT),
    "amberchat: dtype of the export": (
        overlay({"amberchat": {"training": {"export_dtype": "bfloat16"}}}),
        FROM_EXPORT_OF_AMBERCHAT,
    ),
    "preference tokens: length": (overlay({"ambersafe": {"tokens": {"max_length": 120}}}), FROM_PREFERENCE_TOKENS),
    "sft: learning rate": (overlay({"ambersafe": {"sft": {"learning_rate": 6.0e-5}}}), FROM_SFT),
    "dpo: beta": (overlay({"ambersafe": {"dpo": {"beta": 0.2}}}), FROM_DPO | EVALUATION),
    "dpo: learning rate": (overlay({"ambersafe": {"dpo": {"learning_rate": 2.0e-4}}}), FROM_DPO),
    "dpo: dtype of the export": (overlay({"ambersafe": {"dpo": {"export_dtype": "bfloat16"}}}), EXPORT_OF_AMBERSAFE),
    "a variant of dpo": (
        overlay({"ambersafe": {"variants": {"mild": {"beta": 0.5}}}}),
        PAGE | Counter(train_dpo=1, export_ambersafe=1, card_of_ambersafe=1, evaluate=1),
    ),
    "evaluation: tokens of answers": (
        overlay({"evaluation": {"sample_tokens": 9}}),
        PAGE | Counter(sample_answers=1),
    ),
    # Code and packages
    "a program": (append("scripts/select_safe_pairs.py", CODE), FROM_PAIRS),
    "a renamed local variable": (rename_a_local_variable, FROM_MIX),
    "a library file used by DPO alone": (append("scripts/amberline/objectives/dpo.py", CODE), FROM_DPO),
    "the objective of supervised finetuning": (append("scripts/amberline/objectives/sft.py", CODE), FROM_AMBERCHAT),
    "a library file used by every training": (append("scripts/amberline/training/loop.py", CODE), FROM_AMBERCHAT),
    "a library file used by everything": (append("scripts/amberline/core/files.py", CODE), EVERYTHING),
    "a library file used by cards alone": (
        append("scripts/amberline/report/cards.py", CODE),
        CARDS - Counter(write_report=1),
    ),
    "the report's template": (append("scripts/amberline/report/report.html.jinja", "<!-- -->\n"), PAGE),
    # Reference scores and evaluations are computed with torch as well; data stages are not.
    "torch in the lock": (
        ANOTHER_TORCH,
        FROM_AMBERCHAT | Counter(make_tiny_base=1) | FROM_MIX - Counter(mix=1) | FROM_PREFERENCE_TOKENS,
    ),
    "sentencepiece in the lock": (
        replace(LOCK, "sentencepiece==", "sentencepiece==9"),
        FROM_SPLIT | FROM_PREFERENCE_TOKENS | Counter(make_tiny_base=1),
    ),
    "code of a training, kept": (
        after(append("scripts/amberline/training/loop.py", CODE), overlay({"stale": "keep"})),
        CARDS,
    ),
    "torch in the lock, kept": (
        after(ANOTHER_TORCH, overlay({"stale": "keep"})),
        FROM_AMBERCHAT | Counter(make_tiny_base=1) | FROM_MIX - Counter(mix=1) | FROM_PREFERENCE_TOKENS,
    ),
    # Raw files
    "a raw file": (change_raw("evol_instruct", "a museum", "a castle"), EVERYTHING_FROM_SHAREGPT),
    "a raw file, by an older one": (
        change_raw("sharegpt", "a rainy walk", "a sunny walk", time=1_000_000_000),
        EVERYTHING_FROM_SHAREGPT,
    ),
    "five test rows less": (fewer_test_rows, FROM_TEST_ROWS),
    # Files that change behind the pipeline's back
    "weights deleted": (remove("models/amberchat/model.safetensors"), FROM_EXPORT_OF_AMBERCHAT),
    "weights changed": (other_bytes("models/ambersafe/model.safetensors"), EXPORT_OF_AMBERSAFE),
    "a token file cut short": (
        cut_short("tokens/conversations/shard-00000.arrow"),
        FROM_AMBERCHAT | Counter(tokenise_conversations=1),
    ),
    "a raw copy cut short": (cut_short("raw/evol_instruct.json"), EVERYTHING_FROM_SHAREGPT),
    "a funnel changed": (other_bytes("funnels/mix.json"), FROM_MIX),
    "a curve changed": (other_bytes("training/dpo/metrics.jsonl"), FROM_DPO),
    "reference scores deleted": (
        remove("tokens/reference-train/shard-00000.arrow"),
        FROM_DPO | Counter(score_reference=1),
    ),
    "an evaluation changed": (other_bytes("evaluation/base.json"), PAGE | Counter(evaluate=1)),
    "the report changed": (other_bytes("report/index.html"), PAGE),
    "a card changed": (other_bytes("models/amberchat/README.md"), Counter(card_of_amberchat=1, all=1)),
    "equal bytes restored": (
        after(restore("models/ambersafe/model.safetensors"), restore("tokens/conversations/shard-00000.arrow")),
        Counter(),
    ),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_reruns_what_it_can_affect(finished, tmp_path, name):
    edit, expected = EDITS[name]
    project = finished.copy(tmp_path / "project")
    edit(project)
    assert project.planned() == expected


def test_the_row_on_runtime_settings_has_every_one_of_them(finished):
    published, demo = (yaml.safe_load((finished.root / file).read_text()) for file in ("config.yaml", DEMO))
    config = check_configuration(merged(published, demo), files=False)
    every = {path for path, _ in leaves(config.of(Kind.RUNTIME))}
    assert {path for path, _ in leaves(RUNTIME)} == every - ELSEWHERE


@pytest.mark.timeout(1800)
def test_what_was_repaired_is_in_order(finished, tmp_path):
    """The same bytes are made again: no training behind it is repeated, and then there is nothing to do."""
    project = finished.copy(tmp_path / "project")
    weights = project.root / MADE / "models/ambersafe/model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert "model.safetensors is missing" in project.snakemake("-n", "--configfile", DEMO, "--cores", "2")
    project.snakemake("--configfile", DEMO, "--cores", "2", "--quiet", "rules")
    assert weights.read_bytes() == content
    assert project.planned() == Counter()
    weights.write_bytes(content[:-1])
    assert project.planned() == EXPORT_OF_AMBERSAFE


@pytest.mark.timeout(1800)
def test_a_local_base_model_that_changes_is_noticed(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    mine = tmp_path / "mine"
    shutil.copytree(project.root / MADE / "models/base", mine)
    overlay({"results": "results/mine", "base_model": {"tiny": None, "path": str(mine)}})(project)
    base = "results/mine/models/base/manifest.json"
    project.snakemake("--configfile", DEMO, "--cores", "2", "--quiet", "rules", "--", base)
    assert project.planned("--", base) == Counter()
    linked = Path(project.root / "results/mine/models/base/model.safetensors")
    assert linked.resolve() == mine / "model.safetensors"

    content = (mine / "model.safetensors").read_bytes()
    (mine / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert project.planned("--", base) == Counter(acquire_base_model=1)
    (mine / "model.safetensors").write_bytes(content)
    assert project.planned("--", base) == Counter()
    shutil.copytree(mine, tmp_path / "other")
    overlay({"base_model": {"path": str(tmp_path / "other")}})(project)
    assert project.planned("--", base) == Counter(), "the same model elsewhere"
    (tmp_path / "other/model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert project.planned("--", base) == Counter(acquire_base_model=1)
    overlay({"base_model": {"path": str(mine)}})(project)
    (mine / "generation_config.json").unlink()
    assert project.planned("--", base) == Counter(acquire_base_model=1)


@pytest.mark.timeout(1800)
def test_results_copied_into_a_fresh_checkout_are_taken_over_with_one_command(finished, fresh, tmp_path):
    project = fresh.copy(tmp_path / "project")
    finished.copy(tmp_path / "finished")
    (tmp_path / "finished/results").rename(project.root / "results")
    project.touch_everything()
    project.snakemake("--configfile", DEMO, "--cores", "2", "--touch", "--forceall")
    assert project.planned() == Counter()
