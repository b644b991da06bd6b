"""What runs again after a change: exactly the stages that it can affect."""

import ast
import os
import re
import shutil
from pathlib import Path

import pytest

from amberline.core.settings import Kind, leaves
from amberline.recipe.check import check_recipe
from amberline.recipe.files import put_on_top, read_recipe
from dag.conftest import DEMO, RECIPE

MODELS = ("base", "amberchat", "ambersafe-sft", "ambersafe")
PAGE = {"report", "all"}
CARDS = PAGE | {"write_card amberchat", "write_card ambersafe-sft", "write_card ambersafe"}
PERPLEXITIES = {f"evaluate heldout {model}" for model in MODELS}
REWARDS = {f"evaluate rewards {model}" for model in MODELS}
ANSWERS = {"evaluate answers amberchat", "evaluate answers ambersafe"}
CHAT = {"evaluate chat amberchat"}
EVALUATIONS = PERPLEXITIES | REWARDS | ANSWERS | CHAT
SCORES = {f"score_reference ambersafe-sft-on-safe-pairs-{part}-float32-tf32" for part in ("train", "test")}
PAIR_TOKENS = {f"tokenize safe-pairs-{rows}" for rows in ("train", "test", "train-chosen", "test-chosen")}
CONVERSATION_TOKENS = {"tokenize evol-mix-split", "tokenize evol-mix-split-heldout"}


def exported(model):
    """An exported model, its card, and its own evaluations."""
    evaluations = {name for name in EVALUATIONS if name.endswith(f" {model}")}
    return PAGE | {f"export {model}", f"write_card {model}"} | evaluations


FROM_DPO = exported("ambersafe") | {"train ambersafe"}
FROM_REFERENCE = FROM_DPO | SCORES | REWARDS
FROM_EXPORT_OF_SFT = FROM_REFERENCE | exported("ambersafe-sft")
FROM_SFT = FROM_EXPORT_OF_SFT | {"train ambersafe-sft"}
FROM_EXPORT_OF_AMBERCHAT = FROM_SFT | exported("amberchat")
FROM_AMBERCHAT = FROM_EXPORT_OF_AMBERCHAT | {"train amberchat"}
FROM_PREFERENCE_TOKENS = FROM_SFT | PAIR_TOKENS
FROM_PAIRS = FROM_PREFERENCE_TOKENS | ANSWERS | {"select_pairs safe-pairs train", "select_pairs safe-pairs test"}
FROM_CHUNKS = FROM_AMBERCHAT | CONVERSATION_TOKENS | PERPLEXITIES
FROM_SPLIT = FROM_CHUNKS | {"chunk evol-mix-split", "chunk evol-mix-split heldout"}
FROM_MIX = FROM_SPLIT | {"mix evol-mix"}
FROM_BASE = FROM_MIX | FROM_PREFERENCE_TOKENS | {"make_tiny_model base"}
EVERYTHING = (
    FROM_BASE | FROM_PAIRS | {f"acquire {name}" for name in ("sharegpt", "evol_instruct", "pku_train", "pku_test")}
)
# Of the test split only what is measured on it: a training that was watched on it is not touched.
FROM_TEST_ROWS = (
    PAGE
    | {
        "acquire pku_test",
        "select_pairs safe-pairs test",
        "tokenize safe-pairs-test",
        "tokenize safe-pairs-test-chosen",
    }
    | {
        "score_reference ambersafe-sft-on-safe-pairs-test-float32-tf32",
        "write_card ambersafe-sft",
        "write_card ambersafe",
    }
    | REWARDS
    | ANSWERS
)

MADE = "results/demo"
CHUNK_TOKENS = f"tokens/evol-mix-split-{'[0-9a-f]' * 8}"

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
    return lambda project: project.overlay(values)


def swap_decays(project):
    """Two values of one stage change places: the set of values stays the same."""
    project.edit("config.yaml", "      beta1: 0.9 ", "      beta1: 0.999 ")
    project.edit("config.yaml", "      beta2: 0.999 ", "      beta2: 0.9 ")


def swap_keys(project):
    keys = ("    max_length: 128\n", "    max_prompt_length: 64\n")
    project.edit(RECIPE, "".join(["  ambersafe:\n", *keys]), "".join(["  ambersafe:\n", *reversed(keys)]))


def change_raw(name, old, new, time=None):
    """Other content of a raw file, which the configuration then takes as it is; with `time`, as old as that."""

    def edit(project):
        (path,) = (project.root / "demo/raw").glob(f"{name}.json")
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        if time:
            os.utime(path, (time, time))
        project.overlay({"sources": {name: {"bytes": None, "sha256": None}}})

    return edit


def fewer_test_rows(project):
    import lzma

    path = project.root / "demo/raw/pku_test.jsonl.xz"
    rows = lzma.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(lzma.compress(b"".join(rows[:-5])))
    project.overlay({"sources": {"pku_test": {"bytes": None, "sha256": None, "rows": None}}})


def copy_of_raw(project):
    """The same bytes under another path."""
    shutil.copyfile(project.root / "demo/raw/sharegpt.json", project.root / "copy.json")
    project.overlay({"sources": {"sharegpt": {"path": "copy.json"}}})


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


def made(project, file):
    """The one file in the results that a pattern names."""
    (path,) = (project.root / MADE).glob(file)
    return path


def remove(file):
    return lambda project: made(project, file).unlink()


def cut_short(file):
    def edit(project):
        path = made(project, file)
        path.write_bytes(path.read_bytes()[:-10])

    return edit


def other_bytes(file):
    """Other content of the same size; its modification time is that of now."""

    def edit(project):
        path = made(project, file)
        path.write_bytes(path.read_bytes()[:-2] + b"?\n")

    return edit


def restore(file):
    """The same bytes again, in a new file."""

    def edit(project):
        path = made(project, file)
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

WATCHED = {
    "checkpoints": {"every_steps": 7, "keep": 4},
    "evaluation": {"every_examples": 80, "examples": 20},
    "monitors": {"action": "stop", "loss_spike": 9.0},
}
RUNTIME = {
    "stale": "ask",
    "models": {
        "amberchat": WATCHED,
        "ambersafe-sft": WATCHED,
        "ambersafe": put_on_top(WATCHED, {"monitors": {"reward_accuracy": 0.1, "reward_margin": -1.0}}),
    },
    "tracking": {"wandb_project": "mine", "wandb_mode": "online"},
}
# Where things are made, and under which lock: rows of their own, or other folders
ELSEWHERE = {"results", "environment"}

EDITS = {
    "nothing": (lambda project: None, set()),
    "every file touched": (lambda project: project.touch_everything(), set()),
    # What changes no result
    "every runtime setting": (overlay(RUNTIME), set()),
    "hardware of a stage": (replace(RECIPE, "micro_batch_tokens: 4096", "micro_batch_tokens: 2048"), set()),
    "processes of the data stages": (replace(RECIPE, "  processes: 2", "  processes: 1"), set()),
    "a folder on nodes for tokens": (replace("slurm/site.yaml", "scratch: null", "scratch: $TMPDIR"), set()),
    "a comment in config.yaml": (append("config.yaml", "# a comment\n"), set()),
    "the order of keys": (swap_keys, set()),
    "a number written another way": (replace(RECIPE, "5.0e-4", "5e-4"), set()),
    "comments and docstrings in each layer": (comments_and_docstrings, set()),
    "a comment in the lock": (append(LOCK, "# a comment\n"), set()),
    "tqdm in the lock": (append(LOCK, "tqdm==99.0\n"), set()),
    # What is only said of the data
    "a licence": (overlay({"sources": {"sharegpt": {"licence": "cc0-1.0"}}}), CARDS),
    "a licence of the test rows": (
        overlay({"sources": {"pku_test": {"licence": "mit"}}}),
        PAGE | {"write_card ambersafe-sft", "write_card ambersafe"},
    ),
    "an expectation less": (overlay({"sources": {"evol_instruct": {"rows": None, "sha256": None}}}), CARDS),
    "the same raw file elsewhere": (copy_of_raw, CARDS),
    "an expectation that no longer fits": (
        overlay({"sources": {"sharegpt": {"rows": 241}}}),
        FROM_BASE | {"acquire sharegpt"},
    ),
    # Settings
    "mix: seed": (overlay({"datasets": {"evol-mix": {"seed": 1}}}), FROM_MIX),
    "mix: rows withheld": (overlay({"datasets": {"evol-mix": {"heldout": 41}}}), FROM_MIX),
    "chunks: length": (overlay({"datasets": {"evol-mix-split": {"max_length": 200}}}), FROM_SPLIT),
    "conversation tokens: mode": (
        overlay({"models": {"amberchat": {"mode": "lossless"}}}),
        FROM_AMBERCHAT | CONVERSATION_TOKENS,
    ),
    "conversation tokens: mode of the dataset": (
        overlay({"datasets": {"evol-mix-split": {"mode": "lossless"}}}),
        FROM_SPLIT,
    ),
    "amberchat: learning rate": (overlay({"models": {"amberchat": {"learning_rate": 0.001}}}), FROM_AMBERCHAT),
    "amberchat: two values swapped": (swap_decays, FROM_AMBERCHAT),
    "amberchat: dtype of the export": (
        overlay({"models": {"amberchat": {"export_dtype": "bfloat16"}}}),
        FROM_EXPORT_OF_AMBERCHAT,
    ),
    "preference tokens: length": (
        overlay({"models": {"ambersafe-sft": {"max_length": 120}, "ambersafe": {"max_length": 120}}}),
        FROM_PREFERENCE_TOKENS,
    ),
    "sft: learning rate": (overlay({"models": {"ambersafe-sft": {"learning_rate": 6.0e-5}}}), FROM_SFT),
    "dpo: beta": (overlay({"models": {"ambersafe": {"beta": 0.2}}}), FROM_DPO),
    "dpo: learning rate": (overlay({"models": {"ambersafe": {"learning_rate": 2.0e-4}}}), FROM_DPO),
    "dpo: dtype of the export": (
        overlay({"models": {"ambersafe": {"export_dtype": "bfloat16"}}}),
        exported("ambersafe"),
    ),
    "a variant of dpo": (
        overlay({"variants": {"mild": {"models": {"ambersafe": {"beta": 0.5}}}}}),
        PAGE
        | {"train ambersafe@mild", "export ambersafe@mild", "write_card ambersafe@mild"}
        | {f"evaluate {name} ambersafe@mild" for name in ("heldout", "rewards", "answers")},
    ),
    "another model of dpo": (
        overlay({"models": {"mild": {"like": "ambersafe", "beta": 0.5}}}),
        PAGE
        | {"train mild", "export mild", "write_card mild"}
        | {f"evaluate {name} mild" for name in ("heldout", "rewards")},
    ),
    "evaluation: tokens of answers": (overlay({"evaluations": {"answers": {"tokens": 9}}}), PAGE | ANSWERS),
    "evaluation: beta of rewards": (overlay({"evaluations": {"rewards": {"beta": 0.2}}}), PAGE | REWARDS),
    "evaluation: mode of tokens": (
        overlay({"evaluations": {"heldout": {"mode": "lossless"}}}),
        PAGE | PERPLEXITIES | {"tokenize evol-mix-split-heldout"},
    ),
    # Code and packages
    "a program": (append("scripts/select_pairs.py", CODE), FROM_PAIRS),
    "a renamed local variable": (rename_a_local_variable, FROM_MIX),
    "a library file used by DPO alone": (append("scripts/amberline/objectives/dpo.py", CODE), FROM_DPO),
    "the objective of supervised finetuning": (append("scripts/amberline/objectives/sft.py", CODE), FROM_AMBERCHAT),
    "a library file used by every training": (append("scripts/amberline/training/loop.py", CODE), FROM_AMBERCHAT),
    "a library file used by everything": (append("scripts/amberline/core/files.py", CODE), EVERYTHING),
    "a library file used by cards alone": (
        append("scripts/amberline/report/cards.py", CODE),
        CARDS - {"report"},
    ),
    "the report's template": (append("scripts/amberline/report/report.html.jinja", "<!-- -->\n"), PAGE),
    # Reference scores and evaluations are computed with torch as well; data stages are not.
    "torch in the lock": (
        ANOTHER_TORCH,
        FROM_BASE - {"mix evol-mix"},
    ),
    "sentencepiece in the lock": (
        replace(LOCK, "sentencepiece==", "sentencepiece==9"),
        FROM_BASE - {"mix evol-mix"},
    ),
    "code of a training, kept": (
        after(append("scripts/amberline/training/loop.py", CODE), overlay({"stale": "keep"})),
        CARDS,
    ),
    "torch in the lock, kept": (
        after(ANOTHER_TORCH, overlay({"stale": "keep"})),
        FROM_BASE - {"mix evol-mix"},
    ),
    # Raw files
    "a raw file": (change_raw("evol_instruct", "a museum", "a castle"), FROM_BASE | {"acquire evol_instruct"}),
    "a raw file, by an older one": (
        change_raw("sharegpt", "a rainy walk", "a sunny walk", time=1_000_000_000),
        FROM_BASE | {"acquire sharegpt"},
    ),
    "five test rows less": (fewer_test_rows, FROM_TEST_ROWS),
    # Files that change behind the pipeline's back
    "weights deleted": (remove("models/amberchat/model.safetensors"), FROM_EXPORT_OF_AMBERCHAT),
    "weights changed": (other_bytes("models/ambersafe/model.safetensors"), exported("ambersafe")),
    "a token file cut short": (
        cut_short(f"{CHUNK_TOKENS}/shard-00000.arrow"),
        FROM_AMBERCHAT | {"tokenize evol-mix-split"},
    ),
    "a raw copy cut short": (cut_short("raw/evol_instruct.json"), FROM_BASE | {"acquire evol_instruct"}),
    "a funnel changed": (other_bytes("funnels/mix/evol-mix.json"), FROM_MIX),
    "a curve changed": (other_bytes("training/ambersafe/metrics.jsonl"), FROM_DPO),
    "reference scores deleted": (
        remove("scores/*-train-*/shard-00000.arrow"),
        FROM_DPO | {"score_reference ambersafe-sft-on-safe-pairs-train-float32-tf32"},
    ),
    "an evaluation changed": (other_bytes("evaluations/heldout/base.json"), PAGE | {"evaluate heldout base"}),
    "the report changed": (other_bytes("report/index.html"), PAGE),
    "a card changed": (other_bytes("models/amberchat/README.md"), {"write_card amberchat", "all"}),
    "equal bytes restored": (
        after(restore("models/ambersafe/model.safetensors"), restore(f"{CHUNK_TOKENS}/shard-00000.arrow")),
        set(),
    ),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_reruns_what_it_can_affect(finished, tmp_path, name):
    edit, expected = EDITS[name]
    project = finished.copy(tmp_path / "project")
    edit(project)
    assert project.planned() == expected


def test_a_changed_setting_and_changed_code_are_told_in_a_short_plan(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.overlay({"models": {"ambersafe": {"beta": 0.3}}})
    planned = project.look("-n", *DEMO)
    assert "    reason: changed: beta: 0.1 -> 0.3\n" in planned
    assert len(planned.splitlines()) < 120
    project.edit("scripts/mix.py", "def main(", "print(1)\n\n\ndef main(")
    assert "    reason: changed: code\n" in project.look("-n", *DEMO)


def test_the_row_on_runtime_settings_has_every_one_of_them(finished):
    recipe = check_recipe(read_recipe([finished.root / RECIPE]), files=False)
    every = {path for path, _ in leaves(recipe.nodes.of(Kind.RUNTIME))}
    assert {path for path, _ in leaves(RUNTIME)} == every - ELSEWHERE


@pytest.mark.timeout(1800)
def test_what_was_repaired_is_in_order(finished, tmp_path):
    """The same bytes are made again: no training behind it is repeated, and then there is nothing to do."""
    project = finished.copy(tmp_path / "project")
    weights = project.root / MADE / "models/ambersafe/model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert "model.safetensors is missing" in project.look("-n", *DEMO)
    project.snakemake(*DEMO, "--quiet", "rules")
    assert weights.read_bytes() == content
    assert project.planned() == set()
    weights.write_bytes(content[:-1])
    assert project.planned() == exported("ambersafe")


@pytest.mark.timeout(1800)
def test_a_local_base_model_that_changes_is_noticed(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    mine = tmp_path / "mine"
    shutil.copytree(project.root / MADE / "models/base", mine)
    project.overlay({"results": "results/mine", "models": {"base": {"pretrained": str(mine), "revision": None}}})
    base = "results/mine/models/base/manifest.json"
    project.snakemake(*DEMO, "--quiet", "rules", "--", base)
    assert project.planned("--", base) == set()
    linked = Path(project.root / "results/mine/models/base/model.safetensors")
    assert linked.resolve() == mine / "model.safetensors"

    content = (mine / "model.safetensors").read_bytes()
    (mine / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert project.planned("--", base) == {"acquire_model base"}
    (mine / "model.safetensors").write_bytes(content)
    assert project.planned("--", base) == set()
    shutil.copytree(mine, tmp_path / "other")
    project.overlay({"models": {"base": {"pretrained": str(tmp_path / "other")}}})
    assert project.planned("--", base) == set(), "the same model elsewhere"
    (tmp_path / "other/model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert project.planned("--", base) == {"acquire_model base"}
    project.overlay({"models": {"base": {"pretrained": str(mine)}}})
    (mine / "generation_config.json").unlink()
    assert project.planned("--", base) == {"acquire_model base"}


@pytest.mark.timeout(1800)
def test_results_copied_into_a_fresh_checkout_are_taken_over_with_one_command(finished, fresh, tmp_path):
    project = fresh.copy(tmp_path / "project")
    finished.copy(tmp_path / "finished")
    (tmp_path / "finished/results").rename(project.root / "results")
    project.touch_everything()
    project.snakemake(*DEMO, "--touch", "--forceall")
    assert project.planned() == set()
