import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from amberline.hub.model_names import ModelError
from amberline.model.files import WeightFiles
from amberline.model.load import load_model


@pytest.fixture
def folder(grouped_folder, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(grouped_folder, tmp_path / "model")


def respoil(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_parameters_are_float32_whatever_the_file_holds(folder):
    respoil(folder, lambda tensors: tensors.update({name: each.bfloat16() for name, each in tensors.items()}))
    model = load_model(folder, device="cpu")
    stored = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, stored[name].float())


def test_names_are_those_of_transformers(golden_folder):
    model = load_model(golden_folder, device="cpu")
    assert set(model.state_dict()) == WeightFiles(golden_folder).names()


def test_rotary_frequencies_of_old_checkpoints_are_passed_over(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    respoil(folder, lambda tensors: tensors.update({name: torch.full((8,), torch.nan)}))
    model = load_model(folder, device="cpu")
    assert model.model.rotary_emb.inv_freq.isfinite().all()


def test_rows_are_read_from_any_file(golden_folder):
    files = WeightFiles(golden_folder)
    whole = files.read("model.embed_tokens.weight")
    assert whole.shape == (512, 64)
    assert torch.equal(files.read("model.embed_tokens.weight", slice(100, 300)), whole[100:300])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("lm_head.weight"), r"missing weights \['lm_head.weight'\].* Fix: "),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), r"unexpected weights \['extra'\]"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}), r"model.norm.weight has shape \[3\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, message):
    respoil(folder, change)
    with pytest.raises(ModelError, match=message):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "no such"}, r"config.json describes a 'no such' model, which transformers .* does not know"),
        ({"model_type": "mixtral"}, r"config.json describes a mixture of experts \(num_local_experts 8\)"),
        ({"model_type": "gpt2"}, r"missing weights \['transformer.h.0"),
        ({"rms_norm_eps": "small"}, r"config.json is refused by transformers"),
    ],
)
def test_models_that_do_not_fit_are_refused(folder, values, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(ModelError, match=message):
        load_model(folder, device="cpu")


def test_missing_and_damaged_files_are_named(folder, tmp_path):
    with pytest.raises(ModelError, match=r"config.json is missing"):
        load_model(tmp_path / "nowhere", device="cpu")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match=r"model.safetensors is damaged"):
        load_model(folder, device="cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights.* Fix: "):
        load_model(folder, device="cpu")


def test_a_missing_shard_is_named(golden_folder, tmp_path):
    folder = shutil.copytree(golden_folder, tmp_path / "model")
    gone = sorted(folder.glob("model-*.safetensors"))[2]
    gone.unlink()
    with pytest.raises(ModelError, match=f"lacks {gone.name}"):
        load_model(folder, device="cpu")
