"""Other architectures through the product's own programs: trained on two processes as on one, exported, and loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranks_in_tests import launch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from worlds import CHAT, World, changed, finished

from amberline.model.architecture import logit_scale, outline, output_matrix
from amberline.model.export import write_model_folder
from amberline.model.files import read_config
from amberline.model.forward import hidden_states
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.model.weights import CheckpointWeights
from architectures import all_architectures, save_model

# Twenty steps at ten times the published rate, resumed by nobody.
STEPS_20 = changed(CHAT, epochs=4, max_grad_norm=0.5, learning_rate=1e-4)


def trained(ranks: int, world: World, folder: Path, micro_batch_tokens: int) -> CheckpointWeights:
    arguments = world.arguments("chat", folder, STEPS_20, micro_batch_tokens=micro_batch_tokens)
    started = launch(ranks, arguments, folder / "log")
    assert started.wait(timeout=300) == [0] * ranks, started.text()
    summary = json.loads((folder / "run.json").read_text())
    assert summary["steps"] == 20
    return CheckpointWeights(folder / summary["final_weights"])


@all_architectures
def test_two_processes_are_one_and_the_export_loads(architecture: str, world: World, tmp_path: Path) -> None:
    base = finished(save_model(architecture, tmp_path / "base"), "model")
    there = replace(world, model=base)
    one, two = (trained(ranks, there, tmp_path / str(ranks), 8192 // ranks) for ranks in (1, 2))
    weights, others = one.read(one.shapes()), two.read(two.shapes())
    assert weights.keys() == others.keys() == outline(read_config(base)).names.keys()
    apart = max(float((weights[name] - others[name]).abs().max()) for name in weights)
    before = load_model(base, device="cpu").state_dict()
    moved = max(float((weights[name] - before[name]).abs().max()) for name in weights)

    (tmp_path / "model").mkdir()
    write_model_folder(one, base, tmp_path / "model", torch.float32, None, None)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = torch.arange(3, 40)
    ours = load_model(tmp_path / "model", device="cpu")
    with torch.no_grad():
        mine = hidden_states(ours, pack([(ids, ids, 1.0)], whole=True)) @ output_matrix(ours).T
        mine = mine * logit_scale(ours.config)
        exported = float((mine - theirs(input_ids=ids[None]).logits[0]).abs().max() / mine.abs().max())
    print(f"{architecture}: moved {moved:.1e}, two processes {apart:.1e}, exported logits {exported:.1e}")
    assert apart < 2e-6
    assert moved > 1e-4
    assert exported < 2e-6


def test_an_exported_tied_matrix_is_stored_once(tmp_path: Path) -> None:
    base = save_model("qwen3", tmp_path / "base")
    state = {
        name: each for name, each in load_model(base, device="cpu").state_dict().items() if name != "lm_head.weight"
    }
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path / "final", no_dist=True)
    (tmp_path / "model").mkdir()
    write_model_folder(CheckpointWeights(tmp_path / "final"), base, tmp_path / "model", torch.float32, None, None)
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys() and "model.embed_tokens.weight" in file.keys()  # noqa: SIM118
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]


def test_a_model_that_mixes_documents_is_not_trained(world: World, tmp_path: Path) -> None:
    """The probe comes before the first step, on the machine that trains."""
    from transformers import BloomConfig, BloomForCausalLM

    BloomForCausalLM(BloomConfig(vocab_size=512, hidden_size=32, n_layer=2, n_head=2)).save_pretrained(
        tmp_path / "base"
    )
    there = replace(world, model=finished(tmp_path / "base", "model"))
    started = launch(1, there.arguments("chat", tmp_path, STEPS_20), tmp_path / "log")
    assert started.wait() == [1]
    assert "a 'bloom' model computes something else on packed documents" in started.text()
    assert "the hidden states after layer 0 differ" in started.text()
    assert "Traceback" not in started.text()
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_log_says_that_dropout_is_left_out(dtype: str, world: World, tmp_path: Path) -> None:
    save_model("mistral", tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.1}))
    there = replace(world, model=finished(tmp_path / "base", "model"))
    settings = changed(STEPS_20, precision=dtype, epochs=1)
    started = launch(1, there.arguments("chat", tmp_path, settings), tmp_path / "log")
    assert started.wait() == [0], started.text()
    assert "attention_dropout: 0, and not 0.1 as in config.json" in started.text()
