"""The whole line on the demo's data: what it makes, and that it learns."""

import html
import json
import os
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from markupsafe import escape

from amberline.cluster.accounts import RECORD, note_job
from amberline.core.manifests import manifest_path
from amberline.data.conversations import Turn
from amberline.evaluations.samples import answer
from amberline.report.text import number
from dag.conftest import DEMO
from slurm.stand_ins import SACCT, printing, program

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="session")
def results(finished):
    return finished.root / "results/demo"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_amberchat_learns_to_talk(results):
    base, amberchat = (read(results / f"evaluations/heldout/{name}.json") for name in ("base", "amberchat"))
    assert amberchat["perplexity_tokens"] > 1000
    assert amberchat["perplexity"] < base["perplexity"] / 20


def test_amberchat_answers_the_questions_that_it_was_trained_on(results):
    """Of those that the data answer in one way, nearly all; of packing for a trip they say something else each time."""
    answers = defaultdict(set)
    for row in read(results / "data/evol-mix-split.json"):
        for question, made in pairwise(row["conversations"]):
            if question["from"] == "human" and "Also:" not in made["value"]:
                answers[question["value"]].add(made["value"])
    wanted = {question: found.pop() for question, found in answers.items() if len(found) == 1}
    assert len(wanted) > 30
    asked = list(wanted)
    given = answer(results / "models/amberchat", [(Turn("human", text),) for text in asked], "vicuna", 72, "cpu")
    right = [question for question, each in zip(asked, given, strict=True) if each == wanted[question]]
    assert len(right) > 0.8 * len(asked), dict(zip(asked, given, strict=True))


def test_ambersafe_prefers_the_safe_answer(results):
    start, ambersafe = (read(results / f"evaluations/rewards/{name}.json") for name in ("ambersafe-sft", "ambersafe"))
    assert start["rewards/accuracies"] == 0.5
    assert start["rewards/margins"] == 0
    assert ambersafe["rewards/accuracies"] > 0.8
    assert ambersafe["rewards/margins"] > 0


def test_every_log_says_what_was_done_in_lines(results):
    logs = {str(file.relative_to(results)): file.read_bytes() for file in results.glob("logs/**/*.log")}
    assert len(logs) == 39
    assert [name for name, text in logs.items() if b"\r" in text] == []
    assert max(text.count(b"\n") for text in logs.values()) < 100, "a line every few seconds, not for every step"
    assert [name for name, text in logs.items() if not re.search(rb"\d", text.strip().rpartition(b"\n")[2])] == []


@pytest.mark.parametrize("model", ["amberchat", "ambersafe-sft", "ambersafe"])
def test_models_load_and_generate(results, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(results / "models" / model)
    loaded = AutoModelForCausalLM.from_pretrained(results / "models" / model)
    inputs = tokenizer("What does the owl eat?", return_tensors="pt")
    made = loaded.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert made.shape[1] > inputs["input_ids"].shape[1]


def test_the_policy_is_that_of_the_exported_model(results):
    from safetensors.torch import load_file

    policy = torch.load(results / "models/ambersafe/policy.pt", weights_only=True)
    assert set(policy) == {"step_idx", "state", "metrics"}
    weights = load_file(results / "models/ambersafe/model.safetensors")
    assert policy["state"].keys() == weights.keys()
    assert all(torch.equal(policy["state"][name], weights[name]) for name in weights)


def test_every_funnel_closes(results):
    funnels = [path for path in sorted((results / "funnels").glob("*/*.json")) if path.parent.name != "both_modes"]
    assert len(funnels) == 11
    for path in funnels:
        for count in read(path)["counts"]:
            assert count["in"] == count["out"] + sum(count["rejected"].values()), path.name


def test_what_a_stage_puts_out_the_next_takes_in(results):
    def facts(made: Path) -> dict:
        manifest = read(manifest_path(made))
        return {**manifest["facts"]["notes"], **{each["unit"]: each for each in manifest["facts"]["counts"]}}

    mixed = facts(results / "data/evol-mix.json")
    chunked = {part: facts(results / f"data/evol-mix-split{part}.json") for part in ("", "-heldout")}
    for given, taken in (("rows", "conversations"), ("turns", "turns")):
        assert mixed[given]["out"] == sum(each[taken]["in"] for each in chunked.values()), given
    files = [file for file in (results / "data").glob("*.json") if manifest_path(file).exists()]
    rows = {read(manifest_path(file))["digest"]: facts(file) for file in files}
    for folder in (results / "tokens").iterdir():
        given, taken = rows[read(folder / "manifest.json")["inputs"]["rows"]["digest"]], facts(folder)
        ways = {"chunks": given.get("chunks"), "targets": given.get("prompts")}
        ways |= {unit: given[unit]["out"] for unit in ("rounds", "rows") if unit in given}
        ways["pairs"] = ways.get("rows")
        shared = {unit for unit in taken if isinstance(taken[unit], dict) and unit in ways}
        assert shared in ({"chunks", "rounds"}, {"pairs"}, {"targets"}), "tokens are of texts, or with their template"
        for unit in shared:
            assert taken[unit]["in"] == ways[unit], (folder.name, unit)


def test_no_test_prompt_is_trained_on(results):
    train, test = (read(results / f"data/safe-pairs-{part}.json") for part in ("train", "test"))
    assert not set(train) & set(test)


def test_no_held_out_conversation_is_trained_on(results):
    mix, heldout = (read(results / f"data/evol-mix{part}.json") for part in ("", "-heldout"))
    # Those that are asked for, and copies of theirs under other ids.
    assert len({row["id"] for row in heldout}) >= 40
    contents = [{str(row["conversations"]) for row in rows} for rows in (mix, heldout)]
    assert not contents[0] & contents[1]
    assert not {row["id"] for row in mix} & {row["id"] for row in heldout}


def test_the_report_stands_alone_and_tells_the_figures(results):
    page = (results / "report/index.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 20
    assert "src=" not in page
    perplexity = read(results / "evaluations/heldout/amberchat.json")["perplexity"]
    assert f"<b>{number(perplexity)}</b>" in page
    text = html.unescape(re.sub(r"<(svg|style)\b.*?</\1>|<[^>]+>", "\n", page, flags=re.DOTALL))
    for title in (
        "evol-mix: mix of sharegpt and evol_instruct",
        "safe-pairs-train: pairs of pku_train",
        "heldout: perplexity on held-out conversations of evol-mix",
        "rewards: rewards on test pairs of safe-pairs",
    ):
        assert f"\n{title}\n" in text
    assert not re.search(r"\b(None|nan)\b", text)


def test_the_report_has_the_answers_of_each_model(results):
    page = (results / "report/index.html").read_text(encoding="utf-8")
    for model in ("amberchat", "ambersafe"):
        answers = read(results / f"evaluations/answers/{model}.json")["answers"]
        assert len(answers) == 4
        for each in answers:
            assert page.count(f"<b>{escape(each['prompt'])}</b>") == 1
            assert f"<dd>{escape(each['answer']) or '(nothing)'}</dd>" in page


@pytest.mark.parametrize(
    ("model", "title", "objective"),
    [
        ("amberchat", "AmberChat", "sft"),
        ("ambersafe-sft", "AmberSafe, SFT only", "sft"),
        ("ambersafe", "AmberSafe", "dpo"),
    ],
)
def test_a_card_says_what_the_model_is_and_what_went_into_it(results, model, title, objective):
    card = (results / f"models/{model}/README.md").read_text(encoding="utf-8")
    assert f"# {title}\n" in card
    assert f"the model `{model}` of the recipe, trained with the objective `{objective}`" in card
    safe = ["pku_test", "pku_train"] if model != "amberchat" else []
    sources = re.findall(r"^\| (\w+) \| – \| \S+ \| [0-9a-f]{16}… \| apache-2.0 \|$", card, re.MULTILINE)
    assert sources == ["evol_instruct", *safe, "sharegpt"]


def test_the_report_tells_of_slurm_jobs_where_there_were_any(finished, results, tmp_path, monkeypatch):
    assert read(results / "report/jobs.json") == {"missing": None, "jobs": []}
    assert "Jobs on the cluster" not in (results / "report/index.html").read_text(encoding="utf-8")

    project = finished.copy(tmp_path / "project")
    note_job(project.root / "results/demo" / RECORD, job="1", name="amberline_a", stage="train ambersafe")
    assert not project.planned()
    program(tmp_path / "bin", "sacct", printing(SACCT))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    project.snakemake(*DEMO, "--quiet", "all", "--forcerun", "report")
    page = (project.root / "results/demo/report/index.html").read_text(encoding="utf-8")
    row = re.search(r"<tr><td[^>]*>train ambersafe</td>.*</tr>", page)[0]
    cells = re.sub(r"<[^>]+>", " ", row).split()
    assert cells == ["train", "ambersafe", "1", "completed", "0:00:09", "16%", "0.313", "1", "2", "8"]


def test_nothing_made_names_this_machine(results, finished):
    """Manifests travel: no absolute path, no time."""
    for path in results.rglob("*manifest.json"):
        assert str(finished.root) not in path.read_text(encoding="utf-8"), path
