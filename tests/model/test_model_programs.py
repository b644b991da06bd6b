"""export, import_policy and score_reference, from a finished training to folders that others load."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import typer
from fastchat.conversation import get_conv_template
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

import export as export_program
import import_policy
import score_reference
import write_card
from amberline.core import files
from amberline.core.manifests import ManifestError, model_content, read_manifest, verify, write_manifest
from amberline.core.tensors import digest_of_safetensors, tensor_digest, weights_digest
from amberline.data.tokens import PAIRS, open_tokens, write_tokens
from amberline.hub.model_names import KEPT
from amberline.model import weights
from amberline.model.load import load_model
from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece

TEXT = ["A question about trees, and why they grow.", "Trees grow because of light; roots hold them."] * 20
TEXT_OF_CARD = {
    "name": "AmberSafe",
    "sources": [
        {"name": "pku", "repository": "PKU/Safe", "revision": "abc", "file": "a.xz", "licence": "cc-by-nc-4.0"},
        {"name": "base_model", "repository": "X/Amber", "revision": "main", "file": None, "licence": "apache-2.0"},
    ],
    "variant": None,
    "deviations": {"ambersafe.dpo.beta": {"published": 0.1, "here": 0.5}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, grouped_folder) -> Path:
    """The random model with a tokenizer and a manifest."""
    folder = tmp_path_factory.mktemp("base")
    for file in grouped_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_llama_tokenizer(train_sentencepiece(TEXT, 300), folder, 128)
    write_manifest(
        folder,
        kind="model",
        files=list(folder.iterdir()),
        inputs={},
        settings={},
        facts={"commit": "d" * 40},
        digest=model_content(folder),
    )
    return folder


MADE_WITH = {"code": "c" * 64, "packages": {"torch": "2.13.0"}, "inputs": {"model": "m", "tokens": "t"}}


@pytest.fixture
def run(base, tmp_path) -> Path:
    return finished_run(base, tmp_path)


def finished_run(base, tmp_path, **more) -> Path:
    """What a training leaves: final weights in its run directory, run.json and its manifest."""
    place = tmp_path / "checkpoints" / "dpo-0123"
    state = {name: tensor * 1.01 for name, tensor in load_model(base, device="cpu").state_dict().items()}
    dcp.save(state, checkpoint_id=place / "final", no_dist=True)
    torch.save(state, tmp_path / "expected.pt")
    run = tmp_path / "training" / "run.json"
    run.parent.mkdir()
    facts = {
        "stage": "dpo",
        "final_weights": os.path.relpath(place / "final", run.parent),
        "weights_sha256": weights_digest(digests_of(state)),
        "steps": 3,
        "examples": 96,
        "loss_tokens": 1234,
        "final_metrics": {"loss": 0.5, "rewards/margins": 0.25},
    }
    run.write_text(json.dumps(facts))
    write_manifest(
        run,
        kind="training",
        files=[run],
        inputs={"model": base},
        settings={"beta": 0.5, "optimizer": {"name": "rmsprop"}},
        facts={**facts, "made_with": MADE_WITH, "earlier": [], **more},
        digest=facts["weights_sha256"],
    )
    return run


def digests_of(state):
    return {
        name: tensor_digest("F32", tensor.shape, tensor.contiguous().numpy().tobytes())
        for name, tensor in state.items()
    }


def export(run, base, output, **changes):
    training = {"beta": 0.5, "optimizer": {"name": "rmsprop"}}
    asked = {
        "dtype": "float32",
        "template": "vicuna",
        "policy": True,
        "export": "last",
        "evaluation": None,
        "training": training,
    }
    export_program.main(run=run, base=base, settings=json.dumps(asked | changes), output=output)
    return output


def card(run, base, model, **changes):
    raw = model.parent / "pku.jsonl"
    raw.write_text("{}")
    write_manifest(raw, kind="raw", files=[raw], inputs={}, settings={"name": "pku"}, facts={"sha256": "0" * 64})
    output = model / "README.md"
    text = json.dumps(TEXT_OF_CARD | changes)
    write_card.main(model=model, run=run, raw=[raw], base=base, settings=text, output=output)
    return output.read_text()


def test_exported_folder_is_whole_and_loads(run, base, tmp_path):
    folder = export(run, base, tmp_path / "model")
    expected = torch.load(tmp_path / "expected.pt")
    manifest = verify(folder)
    assert digest_of_safetensors(folder.glob("*.safetensors")) == read_manifest(run)["digest"]
    assert manifest["facts"]["parameters"] == sum(each.numel() for each in expected.values())

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.float32
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    policy = torch.load(folder / "policy.pt", weights_only=True)
    assert (policy["step_idx"], policy["metrics"]) == (96, {"loss": 0.5, "rewards/margins": 0.25})
    assert all(torch.equal(tensor, expected[name]) for name, tensor in policy["state"].items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = model.generate(**tokenizer("Trees", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert made.shape[1] > 3


def test_bfloat16_without_policy(run, base, tmp_path):
    folder = export(run, base, tmp_path / "model", dtype="bfloat16", policy=False)
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    assert not (folder / "policy.pt").exists()


def test_every_file_of_the_tokenizer_goes_with_the_model(run, base, tmp_path):
    mine = shutil.copytree(base, tmp_path / "mine")
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        (mine / name).write_text("{}")
    folder = export(run, mine, tmp_path / "model")
    beside = KEPT - {"config.json", "chat_template.jinja", "generation_config.json"}
    assert beside & {file.name for file in folder.iterdir()} == beside


@pytest.mark.parametrize("turns", [["Hi"], ["Why do trees grow?", "Light.", "And roots?"]])
def test_chat_template_is_that_of_fastchat(run, base, tmp_path, turns):
    tokenizer = AutoTokenizer.from_pretrained(export(run, base, tmp_path / "model"))
    conversation = get_conv_template("vicuna_v1.1")
    messages = []
    for number, text in enumerate(turns):
        conversation.append_message(conversation.roles[number % 2], text)
        messages.append({"role": ("user", "assistant")[number % 2], "content": text})
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "Yes."}], tokenize=False)
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    conversation.append_message(conversation.roles[1], None)
    assert prompt == "<s>" + conversation.get_prompt()
    conversation.messages[-1][1] = "Yes."
    assert whole == "<s>" + conversation.get_prompt()


def test_card_says_what_it_is_made_of(run, base, tmp_path):
    text = card(run, base, export(run, base, tmp_path / "model", template="none"))
    assert "license: other" in text.split("---")[1]  # two sources, two licences
    assert "- PKU/Safe" in text.split("---")[1]
    assert "X/Amber" not in text.split("---")[1]
    for part in ("cc-by-nc-4.0", "apache-2.0", "bare prompts", "`ambersafe.dpo.beta`: published `0.1`, here `0.5`"):
        assert part in text
    assert f"| code of the training | `{'c' * 64}` |" in text
    assert "| input: model | `m` |" in text
    assert f"| X/Amber | {'d' * 40} |" in text, "the commit that the branch was at"
    assert '| `optimizer.name` | "rmsprop" |' in text
    assert "Trained with torch 2.13.0." in text
    assert "{{" not in text
    assert "What they mean for this model is for you to decide." in text
    assert "binds" not in text
    assert "None." in card(run, base, export(run, base, tmp_path / "other"), deviations={})


def test_card_says_which_code_made_which_steps(base, tmp_path):
    other = {"code": "e" * 64, "packages": {"torch": "2.12.0"}}
    inputs = {"model": "m", "tokens": "others"}
    run = finished_run(base, tmp_path, earlier=[{**other, "until_step": 40}], kept_for={**other, "inputs": inputs})
    text = card(run, base, export(run, base, tmp_path / "model"))
    assert f"Until step 40 the training ran with other code or packages: code `{'e' * 64}`, torch 2.12.0." in text
    changed = "code, torch 2.13.0 → 2.12.0, content of tokens"
    assert f"(`stale: keep`) although this has changed since they were trained: {changed}." in text


def test_a_card_is_no_content_of_the_model(run, base, tmp_path):
    folder = export(run, base, tmp_path / "model")
    before = read_manifest(folder)["digest"]
    card(run, base, folder)
    assert model_content(folder) == before
    (folder / "policy.pt").unlink()
    assert model_content(folder) == before
    (folder / "tokenizer_config.json").write_text("{}")
    assert model_content(folder) != before


def test_damaged_weights_are_refused_and_nothing_is_left(run, base, tmp_path, capsys):
    shard = next((tmp_path / "checkpoints").glob("*/final/*.distcp"))
    content = shard.read_bytes()
    place = content.index(next(iter(torch.load(tmp_path / "expected.pt").values())).numpy().tobytes()[:64])
    shard.write_bytes(content[:place] + b"0123" + content[place + 4 :])
    with pytest.raises(SystemExit) as stopped:
        export(run, base, tmp_path / "model")
    assert f"{shard.parent} holds other weights than {run} describes" in str(stopped.value)
    assert not (tmp_path / "model").exists()


def full_disk():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("kind", [SafetensorError, OSError])
def test_a_disk_that_fills_during_an_export_is_one_message(kind, run, base, tmp_path, monkeypatch):
    def full(*_, **__):
        raise full_disk() if kind is OSError else kind("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", full)
    before = set(tmp_path.iterdir())
    with pytest.raises(
        SystemExit, match=rf"export: {tmp_path}/.*: No space left on device \(.* bytes are free\)\. Fix: "
    ):
        export(run, base, tmp_path / "model")
    assert set(tmp_path.iterdir()) == before


def test_an_export_without_room_is_not_begun(run, base, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda _: 1000)
    with pytest.raises(
        SystemExit, match=r"model: No space left on device for about [\d,]+ bytes \(.*Fix: free some space"
    ):
        export(run, base, tmp_path / "model")


def test_a_policy_that_finds_the_disk_full_says_where():
    class One:
        def shapes(self):
            return {"a": torch.Size([4])}

        def read(self, names):
            return dict.fromkeys(names, torch.zeros(4))

    with pytest.raises(OSError, match="No space left") as full:
        weights.write_policy(One(), Path("/dev/full"), 1, {})
    assert full.value.errno == errno.ENOSPC


def test_scores_that_find_the_disk_full_are_one_message(base, tmp_path, monkeypatch, capsys):
    def full(file, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file), None, str(target))

    tokens = pairs(tmp_path / "pairs", [(5, 7, 3)])
    monkeypatch.setattr(files.Path, "replace", full)
    with pytest.raises(typer.Exit):
        score(base, tokens, tmp_path / "reference")
    assert f"score_reference: {tmp_path / 'reference'}: No space left on device (" in capsys.readouterr().err
    assert not (tmp_path / "reference").exists()


def test_a_training_with_other_settings_is_refused(run, base, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        export(run, base, tmp_path / "model", training={"beta": 0.1, "optimizer": {"name": "rmsprop"}})
    assert "beta was 0.5, and is 0.1 in the recipe. Nothing was exported." in str(stopped.value)
    assert not (tmp_path / "model").exists()


def test_policy_is_imported(run, base, tmp_path):
    policy = export(run, base, tmp_path / "model") / "policy.pt"
    import_policy.main(policy=policy, base=base, output=tmp_path / "imported")
    verify(tmp_path / "imported")
    expected = torch.load(tmp_path / "expected.pt")
    imported = AutoModelForCausalLM.from_pretrained(tmp_path / "imported")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in imported.state_dict().items())


HARDWARE = {
    "device": "cpu",
    "nodes": 1,
    "ranks_per_node": 1,
    "cpus_per_rank": 1,
    "memory_gb": 4,
    "hours": 1,
    "micro_batch_tokens": 64,
    "attention": "auto",
    "activation_checkpointing": "auto",
    "reshard_after_forward": "auto",
    "compile": False,
    "deterministic": False,
}


def pairs(folder, lengths):
    generator = torch.Generator().manual_seed(0)
    with write_tokens(folder, PAIRS) as writer:
        for number, (prompt, chosen, rejected) in enumerate(lengths):
            row = {"id": f"pair-{number}", "prompt_length": prompt, "length": 2 * prompt + chosen + rejected}
            for side, response in (("chosen", chosen), ("rejected", rejected)):
                ids = torch.randint(3, 300, (prompt + response,), generator=generator).tolist()
                row |= {f"{side}_input_ids": ids, f"{side}_labels": [-100] * prompt + ids[prompt:]}
            writer.write(row)
    write_manifest(folder, kind="pair-tokens", files=list(folder.glob("*.arrow")), inputs={}, settings={}, facts={})
    return folder


def score(model, tokens, output):
    score_reference.main(
        model=model, tokens=tokens, precision="float32", hardware=json.dumps(HARDWARE), reference=output
    )
    return output


def test_reference_scores_are_those_of_transformers(base, tmp_path):
    tokens = pairs(tmp_path / "pairs", [(5, 7, 3), (1, 1, 20), (9, 2, 2), (3, 40, 1)])
    folder = score(base, tokens, tmp_path / "reference")
    scores = open_tokens(folder)
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").double()
    for row, found in zip(open_tokens(tokens), scores, strict=True):
        assert row["id"] == found["id"]
        for side in ("chosen", "rejected"):
            ids = torch.tensor(row[f"{side}_input_ids"])
            with torch.no_grad():
                logps = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            expected = logps[:-1].gather(1, ids[1:, None])[row["prompt_length"] - 1 :].sum().item()
            assert found[f"{side}_logp"] == pytest.approx(expected, rel=1e-6)
    manifest = verify(folder)
    assert manifest["inputs"]["model"]["digest"] == read_manifest(base)["digest"]
    assert manifest["inputs"]["tokens"]["digest"] == read_manifest(tokens)["digest"]
    assert manifest["settings"]["precision"] == "float32"


def test_a_spoilt_input_is_refused(base, tmp_path, capsys):
    tokens = pairs(tmp_path / "pairs", [(5, 7, 3)])
    shard = tokens / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(typer.Exit):
        score(base, tokens, tmp_path / "reference")
    assert "is not the file that" in capsys.readouterr().err
    assert not (tmp_path / "reference").exists()
    with pytest.raises(ManifestError):
        verify(tokens)
