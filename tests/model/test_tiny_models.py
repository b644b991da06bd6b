"""Small stand-ins of each architecture: what makes a family another than a Llama is there, and can be trained."""

import json

import pytest
import torch
from pydantic import ValidationError

from amberline.model.files import read_config
from amberline.model.load import load_model
from amberline.model.probe import probe
from amberline.recipe.data import TinyModel
from amberline.recipe.tiny_models import ARCHITECTURES
from make_tiny_model import save_model

SIZES = {"vocabulary": 400, "hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 4, "context": 128}
PARTICULAR = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4, "tie_word_embeddings": False},
    "llama3": {"model_type": "llama", "num_key_value_heads": 2},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 256},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "olmo2": {"model_type": "olmo2"},
}

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def sizes(architecture):
    return TinyModel(**SIZES, seed=1, architecture=architecture, tokenizer=None)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_makes_it_another_is_there(architecture, tmp_path):
    parameters = save_model(sizes(architecture), SPECIAL, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config | PARTICULAR[architecture] == config
    assert ("rope_type" in str(config) and "llama3" in str(config)) == (architecture == "llama3")
    probe(read_config(tmp_path), device="cpu", dtype=torch.float32, attention="sdpa")
    model = load_model(tmp_path, device="cpu")
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert any("q_norm" in name for name, _ in model.named_parameters()) == (architecture in {"qwen3", "olmo2"})


def test_an_unknown_one_is_refused_with_those_that_are_known():
    with pytest.raises(ValidationError, match="use one of llama, llama3, mistral, qwen3, olmo2"):
        sizes("mistrel")


def test_the_llama_is_what_it_was(tmp_path):
    """Its weights and config.json are those of transformers' class, made from the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    save_model(sizes("llama"), SPECIAL, tmp_path / "ours")
    torch.manual_seed(1)
    shape = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-6}
    LlamaForCausalLM(LlamaConfig(**shape, **SPECIAL)).save_pretrained(tmp_path / "theirs")
    for file in (tmp_path / "theirs").iterdir():
        assert file.read_bytes() == (tmp_path / "ours" / file.name).read_bytes(), file.name
