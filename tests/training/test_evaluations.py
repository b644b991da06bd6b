"""Evaluations: metrics against their formulas, what is refused, and one more that is added with one file."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from transformers import AutoTokenizer
from worlds import HARDWARE, World, finished, logp, write_pairs, write_reference

import evaluate
from amberline.core.manifests import ManifestError, read_manifest, save_manifest, verify, write_manifest
from amberline.data.conversations import Turn
from amberline.data.tokens import open_tokens
from amberline.evaluations.registry import evaluation_file, evaluation_names, load_evaluation
from amberline.evaluations.samples import answer, prompts_in
from amberline.text.chats import Chat
from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece
from amberline.text.tokenizers import load_tokenizer
from golden_model import golden_model
from programs import programs_with

ARITHMETIC = {"precision": "float32", "tf32": False}
REWARDS = {"pairs": 0, "beta": 0.5, **ARITHMETIC}
SIDES = ("chosen", "rejected")
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A model folder that is not the reference's: its output matrix is larger. And the network itself."""
    folder = tmp_path_factory.mktemp("moved") / "somewhat-else"
    network = golden_model()
    with torch.no_grad():
        network.lm_head.weight *= 1.5
    network.save_pretrained(folder)
    text = ["A question about trees, and why they grow.", "Trees grow because of light; roots hold them."] * 20
    save_llama_tokenizer(train_sentencepiece(text, 300), folder, 128)
    (folder / "chat_template.jinja").write_text(Chat(load_tokenizer(folder), "vicuna").jinja())
    return finished(folder, "model", settings={"template": "vicuna"}), network


def measured(output: Path, evaluation: str, model: Path, data: Path, **more: Any) -> dict[str, Any]:
    settings = {"perplexity": ARITHMETIC, "rewards": REWARDS, "samples": {"prompts": 2, "tokens": 5}}[evaluation]
    evaluate.main(
        evaluation=evaluation,
        model=model,
        data=data,
        reference=more.pop("reference", None),
        settings=json.dumps(settings | more),
        hardware=json.dumps(HARDWARE),
        output=output,
    )
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_perplexity_is_its_formula(world: World, moved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    model, network = moved
    found = measured(tmp_path / "some.json", "perplexity", model, world.conversations)
    rows = list(open_tokens(world.conversations))
    tokens = sum(label != -100 for row in rows for label in row["labels"][1:])
    total = sum(logp(network, row["input_ids"], row["labels"]) for row in rows)
    assert list(found) == ["evaluation", "model", "perplexity", "perplexity_tokens"]
    assert (found["evaluation"], found["model"]) == ("perplexity", "somewhat-else")
    assert found["perplexity_tokens"] == tokens
    assert found["perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-6)
    manifest = verify(tmp_path / "some.json")
    assert (manifest["kind"], manifest["settings"], set(manifest["inputs"])) == (
        "evaluation",
        ARITHMETIC,
        {"model", "data"},
    )


def test_rewards_are_their_formula(world: World, moved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    model, network = moved
    found = measured(tmp_path / "some.json", "rewards", model, world.pairs, reference=world.reference, pairs=7)
    chosen, rejected = (
        [logp(network, row[f"{side}_input_ids"], row[f"{side}_labels"]) for row in open_tokens(world.pairs)][:7]
        for side in SIDES
    )
    kept = open_tokens(world.reference)
    chosen_rewards = 0.5 * np.subtract(chosen, kept["chosen_logp"][:7])
    rejected_rewards = 0.5 * np.subtract(rejected, kept["rejected_logp"][:7])
    assert found["pairs"] == 7
    assert found["rewards/margins"] == pytest.approx(np.mean(chosen_rewards - rejected_rewards), rel=1e-5)
    assert found["rewards/accuracies"] == np.mean(chosen_rewards > rejected_rewards)
    assert found["logps/accuracies"] == np.mean(np.greater(chosen, rejected))
    assert found["logps/chosen"] == pytest.approx(np.mean(chosen), rel=1e-6)
    assert set(verify(tmp_path / "some.json")["inputs"]) == {"model", "data", "reference"}
    assert set(load_evaluation("rewards").columns) <= found.keys()


@pytest.mark.parametrize("template", ["vicuna", "none"])
def test_answers_are_the_likeliest_tokens(template: str, moved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(moved[0], folder)
    finished(folder, "model", settings={"template": template})
    prompts = tmp_path / "pairs.json"
    prompts.write_text(json.dumps({"Why do roots hold?": {}, "Trees grow.": {}, "And light?": {}}))
    write_manifest(prompts, kind="pairs", files=[prompts], inputs={}, settings={}, facts={})
    found = measured(tmp_path / "some.json", "samples", folder, prompts)
    assert list(found) == ["evaluation", "model", "tokens", "template", "answers"]
    assert (found["tokens"], found["template"]) == (5, template)
    assert [each["prompt"] for each in found["answers"]] == ["Why do roots hold?", "Trees grow."]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for each in found["answers"]:
        asked = {"vicuna": f"<s>{SYSTEM} USER: {each['prompt']} ASSISTANT:", "none": each["prompt"]}[template]
        ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
        answer: list[int] = []
        while len(answer) < 5 and (not answer or answer[-1] != 2):
            with torch.no_grad():
                answer.append(int(moved[1](input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax()))
        assert each["answer"] == tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_an_answer_ends_at_the_end_of_a_turn(moved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    """Whatever token ends an answer of the template that the model was trained on: generation_config.json names it."""
    prompts = [(Turn("system", "Be brief."), Turn("human", "Why do roots hold?"))]
    tokenizer = AutoTokenizer.from_pretrained(moved[0])
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompts[0][1].text}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = asked["input_ids"]
    while len(written := ids[0, asked["input_ids"].shape[1] :].tolist()) < 12 or written[-1] in written[:-1]:
        with torch.no_grad():
            ids = torch.cat([ids, moved[1](input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert tokenizer.decode(written).strip(), "something is written"
    folder = shutil.copytree(moved[0], tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [written[-1], 2], "pad_token_id": 0}))
    whole, ended = (answer(each, prompts, "vicuna", len(written) + 4, "cpu")[0] for each in (moved[0], folder))
    assert ended == tokenizer.decode(written).strip()
    assert whole != ended


def test_of_conversations_the_first_questions_are_asked() -> None:
    talks = [[("human", "Why?"), ("gpt", "So.")], [("gpt", "Well."), ("human", "Not first")], [("human", "Why?")]]
    rows = [{"conversations": [{"from": who, "value": text} for who, text in talk]} for talk in talks]
    assert prompts_in(rows) == [(Turn("human", "Why?"),)]
    assert prompts_in({"A prompt": {}, "Another": {}}) == [(Turn("human", "A prompt"),), (Turn("human", "Another"),)]
    several = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Why?"}]
    assert prompts_in({"key": {"turns": several}}) == [(Turn("system", "Be brief."), Turn("human", "Why?"))]
    chat = [*several, {"from": "gpt", "value": "Because."}]
    assert prompts_in([{"conversations": chat}]) == [(Turn("system", "Be brief."), Turn("human", "Why?"))]


@pytest.mark.parametrize("evaluation", ["perplexity", "rewards"])
def test_two_processes_measure_what_one_does(
    evaluation: str, world: World, moved: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    data = {"data": world.conversations} if evaluation == "perplexity" else {"data": world.pairs}
    reference = {"reference": world.reference} if evaluation == "rewards" else {}
    alone = measured(tmp_path / "alone.json", evaluation, moved[0], **data, **reference)
    options = {
        "evaluation": evaluation,
        "model": moved[0],
        **data,
        **reference,
        "settings": json.dumps(REWARDS if reference else ARITHMETIC),
        "hardware": json.dumps(HARDWARE | {"ranks_per_node": 2}),
        "output": tmp_path / "both.json",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--"]
    done = subprocess.run([*torchrun, evaluate.__file__, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    both = json.loads((tmp_path / "both.json").read_text())
    assert both.keys() == alone.keys()
    for name, value in alone.items():
        assert both[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6)), name
    if evaluation == "perplexity":
        samples = [*words, "--evaluation", "samples", "--settings", '{"prompts": 1, "tokens": 1}']
        done = subprocess.run([*torchrun, evaluate.__file__, *samples], capture_output=True, text=True)
        assert "evaluate: samples is for one process: start it without torchrun" in done.stderr


def test_what_cannot_be_measured_is_refused(
    world: World, moved: tuple[Path, torch.nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = moved[0], tmp_path / "some.json"
    with pytest.raises(typer.BadParameter, match="perplexity has no use for it"):
        measured(output, "perplexity", model, world.conversations, reference=world.reference)
    with pytest.raises(typer.BadParameter, match="rewards needs it"):
        measured(output, "rewards", model, world.pairs)
    with pytest.raises(typer.Exit):
        measured(output, "rewards", model, world.pairs, reference=world.reference, precision="bfloat16")
    assert "was computed with another precision than this evaluation's: it is not used" in capsys.readouterr().err
    others = write_pairs(tmp_path / "pairs", [dict(row) for row in _rows(world)[:5]])
    with pytest.raises(typer.Exit):
        measured(output, "rewards", model, others, reference=world.reference)
    assert "was computed with other pairs than this evaluation's" in capsys.readouterr().err
    short = write_reference(tmp_path / "reference", world.model, world.pairs, [(-1.0, -2.0)] * 5)
    with pytest.raises(typer.Exit):
        measured(output, "rewards", model, world.pairs, reference=short)
    assert "holds scores of other pairs than" in capsys.readouterr().err
    manifest = json.loads((short / "manifest.json").read_text())
    manifest["settings"]["tf32"] = True
    save_manifest(short / "manifest.json", manifest)
    with pytest.raises(typer.Exit):
        measured(output, "rewards", model, world.pairs, reference=short)
    assert "was computed with another tf32" in capsys.readouterr().err
    (short / "shard-00000.arrow").write_bytes(b"")
    with pytest.raises(typer.Exit):
        measured(output, "rewards", model, world.pairs, reference=short)
    assert "is not the file that" in capsys.readouterr().err
    assert not output.exists()
    with pytest.raises(ManifestError):
        read_manifest(output)


def _rows(world: World) -> list[dict[str, Any]]:
    columns = [f"{side}_{column}" for side in SIDES for column in ("input_ids", "labels")]
    return [{name: row[name] for name in columns} for row in open_tokens(world.pairs)]


def test_evaluations_are_found_by_their_names() -> None:
    assert evaluation_names() == ["perplexity", "rewards", "samples"]
    assert evaluation_file("rewards").name == "rewards.py"
    with pytest.raises(KeyError, match="there are: perplexity, rewards, samples"):
        load_evaluation("base")
    for name in evaluation_names():
        kind = load_evaluation(name)
        assert kind.headline is None or kind.headline in kind.columns


def test_one_file_among_the_others_is_enough(world: World, tmp_path: Path) -> None:
    scripts = programs_with(Path(__file__).with_name("top_one.py"), "evaluations", tmp_path)
    arguments = {
        "evaluation": "top_one",
        "model": world.model,
        "data": world.conversations,
        "settings": json.dumps({"conversations": 20}),
        "hardware": json.dumps(HARDWARE),
        "output": tmp_path / "some.json",
    }
    options = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, scripts / "evaluate.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "some.json").read_text())
    assert found == {"evaluation": "top_one", "model": "model", "top_one": pytest.approx(_top_one(world), abs=1e-9)}
    verify(tmp_path / "some.json")
    refused = [sys.executable, scripts / "evaluate.py", *options, "--reference", world.reference]
    assert "top_one has no use for it" in subprocess.run(refused, capture_output=True, text=True).stderr


def _top_one(world: World) -> float:
    network, hits = golden_model(), []
    for row in open_tokens(world.conversations).select(range(20)):
        with torch.no_grad():
            likeliest = network(input_ids=torch.tensor(row["input_ids"])[None]).logits[0, :-1].argmax(-1).tolist()
        pairs = zip(likeliest, row["labels"][1:], strict=True)
        hits += [guess == label for guess, label in pairs if label != -100]
    return float(np.mean(hits))
