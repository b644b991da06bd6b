"""Nodes that a user's own file adds, renames or replaces: what runs for them, and what they share with the others."""

import json
import re
import shutil
from pathlib import Path

import pytest

from dag.conftest import DEMO, RECIPE
from dag.test_reruns import FROM_MIX, MODELS, PAGE, PAIR_TOKENS, SCORES, exported

pytestmark = pytest.mark.timeout(1800)

MADE = "results/demo"


def own_files(folder: Path) -> dict:
    """Raw files of a user, and a recipe with them: one more source of preferences, and a third one of conversations."""
    answers = {"response_0": "Ask a grown-up first.", "response_1": "Just try it.", "better_response_id": 0}
    safe = {"is_response_0_safe": True, "is_response_1_safe": False, "safer_response_id": 0}
    rows = [{"prompt": f"May I open box {number}?", **answers, **safe} for number in range(20)]
    (folder / "boxes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    turns = [{"from": "human", "value": "What is in the box?"}, {"from": "gpt", "value": "A map of the museum."}]
    chats = [{"id": f"box{number}_0", "conversations": turns} for number in range(20)]
    (folder / "chats.json").write_text(json.dumps(chats), encoding="utf-8")
    unknown = {"bytes": None, "sha256": None, "rows": None}
    return {
        "sources": {
            "boxes": {"like": "pku_train", "path": str(folder / "boxes.jsonl"), "licence": "mit", **unknown},
            "chats": {"like": "sharegpt", "path": str(folder / "chats.json"), "licence": "mit", **unknown},
        },
        "datasets": {
            "evol-mix": {"mix": ["sharegpt", "evol_instruct", "chats"]},
            "safe-pairs": {"pairs": {"train": ["pku_train", "boxes"]}},
        },
    }


def test_more_sources_need_a_file_of_the_user_alone(finished, tmp_path):
    on_top = own_files(tmp_path)
    # Test pairs are held against the prompts that are trained on.
    names = [f"safe-pairs-{part}" for part in ("train", "test")]
    of_pairs = {f"select_pairs safe-pairs {part}" for part in ("train", "test")}
    of_pairs |= {f"tokenize {name}{which}" for name in names for which in ("", "-chosen")}
    assert finished.planned(on_top=on_top) == FROM_MIX | of_pairs | {"acquire boxes", "acquire chats"}

    project = finished.copy(tmp_path / "project")
    file = tmp_path / "mine.yaml"
    # Short trainings will do.
    models = {name: {"epochs": 1} for name in MODELS[1:]}
    file.write_text(json.dumps({**on_top, "models": models}), encoding="utf-8")
    command = ["--configfile", RECIPE, str(file), "--cores", "2", "--", "ambersafe"]
    project.snakemake(*command)
    assert "Nothing to be done" in project.look("-n", *command)
    made = project.root / MADE / "data"
    assert "May I open box 7?" in json.loads((made / "safe-pairs-train.json").read_text())
    parts = [json.loads((made / f"evol-mix{part}.json").read_text()) for part in ("", "-heldout")]
    assert {f"box{number}_0" for number in range(20)} <= {row["id"] for part in parts for row in part}
    card = (project.root / MADE / "models/ambersafe/README.md").read_text()
    assert re.findall(r"^\| (\w+) \| – .* mit \|$", card, re.MULTILINE) == ["boxes", "chats"]


def test_renaming_a_model_trains_nothing(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    for file in ("config.yaml", RECIPE):
        path = project.root / file
        path.write_text(re.sub(r"\bamberchat\b", "talker", path.read_text()), encoding="utf-8")
    trainings = {"train talker", "train ambersafe-sft", "train ambersafe"}
    assert {job for job in project.planned() if job.startswith("train")} == trainings

    runs, weights = run_directories(project), content(project, "ambersafe")
    printed = project.snakemake(*DEMO, "--", "ambersafe")
    assert printed.count("already finished: the final weights are there") == len(trainings)
    assert run_directories(project) == runs
    assert content(project, "ambersafe") == weights
    assert content(project, "talker") == content(finished, "amberchat")


def run_directories(project) -> set[str]:
    return {folder.name for folder in (project.root / MADE / "checkpoints").glob("*-*/")}


def content(project, model: str) -> bytes:
    return (project.root / MADE / "models" / model / "model.safetensors").read_bytes()


def test_a_released_amberchat_takes_the_place_of_the_one_trained_here(finished, fresh, tmp_path):
    shutil.copytree(finished.root / MADE / "models/amberchat", tmp_path / "released")
    on_top = {"models": {"amberchat": {"pretrained": f"{tmp_path}/released", "revision": None}}}
    models = ("amberchat", "ambersafe-sft", "ambersafe")
    # Its tokenizer is its own: it measures pairs, and conversations are still measured with that of base.
    evaluations = {f"evaluate rewards {model}" for model in models} | {
        "evaluate answers amberchat",
        "evaluate chat amberchat",
    }
    preferences = {"train ambersafe-sft", "train ambersafe"} | PAIR_TOKENS | SCORES
    there = {job for model in models[1:] for job in exported(model) if "heldout" not in job}
    planned = finished.planned(on_top=on_top)
    assert planned == PAGE | {"acquire_model amberchat"} | preferences | evaluations | there

    needed = fresh.planned("--", "ambersafe", on_top=on_top)
    assert {"acquire_model amberchat", *preferences} < needed
    assert not {job for job in needed if job.split()[0] in {"mix", "chunk", "make_tiny_model"}}
    assert "acquire sharegpt" not in needed


def another(**changes) -> dict:
    """One more model like AmberSafe."""
    return {"models": {"mine": {"like": "ambersafe", **changes}}}


EXPORT = PAGE | {"export mine", "write_card mine", "evaluate heldout mine", "evaluate rewards mine"}
SCORED = "score_reference ambersafe-sft-on-safe-pairs"


@pytest.mark.parametrize(
    ("on_top", "expected"),
    [
        pytest.param(another(export_dtype="bfloat16"), EXPORT, id="another export"),
        pytest.param(another(beta=0.5), EXPORT | {"train mine"}, id="another beta"),
        pytest.param(
            another(precision="bfloat16"),
            EXPORT | {"train mine", f"{SCORED}-train-bfloat16-tf32", f"{SCORED}-test-bfloat16-tf32"},
            id="another precision",
        ),
        pytest.param(
            another(max_length=120),
            EXPORT | {"train mine", *SCORES, "tokenize safe-pairs-train", "tokenize safe-pairs-test"},
            id="another length",
        ),
    ],
)
def test_a_model_shares_what_its_settings_do_not_concern(finished, on_top, expected):
    assert finished.planned(on_top=on_top) == expected


def test_an_evaluation_with_a_list_of_models_measures_those_alone(finished):
    on_top = {"evaluations": {"more": {"like": "answers", "tokens": 5, "models": list(MODELS[:2])}}}
    assert finished.planned(on_top=on_top) == PAGE | {"evaluate more base", "evaluate more amberchat"}
