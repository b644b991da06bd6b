"""Weights keep their values through every form, and files in other people's layouts are understood."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from amberline.hub.model_names import ModelError
from amberline.model.export import write_model_folder
from amberline.model.forward import hidden_states
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.model.weights import CheckpointWeights, PolicyWeights, write_policy, write_safetensors


@pytest.fixture
def policy(grouped_folder, tmp_path):
    """A file in the published layout, written by plain torch code, as a finetuned model of other values."""
    model = LlamaForCausalLM.from_pretrained(grouped_folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    path = tmp_path / "policy.pt"
    torch.save({"step_idx": 448, "state": model.state_dict(), "metrics": {"loss/eval": [1.5, 2.5]}}, path)
    return path


def test_shards_and_index_are_what_transformers_reads(policy, grouped_folder, tmp_path):
    weights = PolicyWeights(policy)
    largest = max(shape.numel() * 4 for shape in weights.shapes().values())
    files = write_safetensors(weights, tmp_path, torch.float32, shard_bytes=largest)
    assert len(files) > 3
    assert all(file.stat().st_size <= largest + 4096 for file in files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    state = torch.load(policy)["state"]
    assert index["weight_map"].keys() == state.keys()
    assert index["metadata"]["total_size"] == sum(each.numel() * 4 for each in state.values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, framework="pt") as tensors:
            assert tensors.metadata() == {"format": "pt"}
            assert torch.equal(tensors.get_tensor(name), state[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policy_becomes_a_folder_that_transformers_loads(policy, grouped_folder, tmp_path, dtype):
    folder = tmp_path / "model"
    folder.mkdir()
    write_model_folder(PolicyWeights(policy), grouped_folder, folder, dtype, None, None)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    state = torch.load(policy)["state"]
    assert loaded.dtype == dtype
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name].to(dtype)) for name, tensor in loaded.state_dict().items())
    ids = torch.arange(50)
    ours = load_model(folder, device="cpu")
    with torch.no_grad():
        logits = hidden_states(ours, pack([(ids, ids, 1.0)], whole=True)) @ ours.lm_head.weight.T
        assert (loaded.float()(input_ids=ids[None]).logits[0] - logits).abs().max() < 1e-6


@pytest.mark.parametrize(("ends", "written"), [([7, 2], [7, 2]), ([2], 2), (None, [5, 6])])
def test_an_exported_model_stops_where_its_training_ended_answers(policy, grouped_folder, tmp_path, ends, written):
    base, folder = shutil.copytree(grouped_folder, tmp_path / "base"), tmp_path / "model"
    (base / "generation_config.json").write_text('{"eos_token_id": [5, 6], "temperature": 0.5}')
    (base / "tokenizer_config.json").write_text('{"chat_template": "of the base", "eos_token": "</s>"}')
    folder.mkdir()
    write_model_folder(PolicyWeights(policy), base, folder, torch.float32, "of the training", ends)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"eos_token_id": written, "temperature": 0.5}
    assert (folder / "chat_template.jinja").read_text() == "of the training"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config == {"chat_template": "of the training", "eos_token": "</s>"}


def test_policy_round_trip(policy, tmp_path):
    again = tmp_path / "again.pt"
    write_policy(PolicyWeights(policy), again, 448, {"loss": 2.0})
    first, second = (torch.load(path, weights_only=True) for path in (policy, again))
    assert (second["step_idx"], second["metrics"]) == (448, {"loss": 2.0})
    assert first["state"].keys() == second["state"].keys()
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in first["state"])


class Malicious:
    def __reduce__(self):
        return print, ("this code must not run",)


@pytest.mark.parametrize("content", [{"step_idx": 1}, [1, 2], {"state": {"a": 1}}, {"state": Malicious()}])
def test_what_is_no_policy_is_refused(content, tmp_path, capsys):
    torch.save(content, tmp_path / "policy.pt")
    with pytest.raises(ModelError, match=r"is no policy.pt"):
        PolicyWeights(tmp_path / "policy.pt")
    assert "must not run" not in capsys.readouterr().out


def test_missing_and_damaged_forms_are_named(tmp_path, policy):
    with pytest.raises(ModelError, match=r"is missing"):
        PolicyWeights(tmp_path / "none.pt")
    policy.write_bytes(policy.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"is no policy.pt"):
        PolicyWeights(policy)
    with pytest.raises(ModelError, match=r"holds no weights"):
        CheckpointWeights(tmp_path)


def test_weights_of_another_architecture_are_refused(golden_folder, policy, tmp_path):
    state = torch.load(policy)["state"]
    del state["model.norm.weight"]
    torch.save({"step_idx": 0, "state": state, "metrics": {}}, policy)
    with pytest.raises(ModelError, match=r"differ in \['model.norm.weight'\]"):
        write_model_folder(PolicyWeights(policy), golden_folder, tmp_path, torch.float32, None, None)
