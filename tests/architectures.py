"""Small random models of many architectures, each with what makes its family another than a Llama."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GRANITE = {"logits_scaling": 6.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}
# Windows are shorter than some of the documents that tests use.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama3": {"model_type": "llama", "rope_parameters": LLAMA3},
    "mistral": {"model_type": "mistral", "sliding_window": 9, "head_dim": 16},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 9},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "olmo": {"model_type": "olmo", "clip_qkv": 2.0},
    "olmo2": {"model_type": "olmo2"},
    "olmo3": {"model_type": "olmo3", "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"model_type": "phi3", "partial_rotary_factor": 0.5},
    "gemma": {"model_type": "gemma", "head_dim": 16},
    "gemma3_text": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0]},
    "granite": {"model_type": "granite", **GRANITE},
    "starcoder2": {"model_type": "starcoder2", "sliding_window": 9},
    "gpt_neox": {"model_type": "gpt_neox", "attention_bias": True},
    "exaone4": {
        "model_type": "exaone4",
        "sliding_window": 9,
        "sliding_window_pattern": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "glm4": {"model_type": "glm4", "head_dim": 16},
    "apertus": {"model_type": "apertus"},
    "ernie4_5": {"model_type": "ernie4_5"},
    "cohere": {"model_type": "cohere", "logit_scale": 0.3},
}
# Their norms are of their own kind, and in float32 where all else is float64.
NORMS_IN_FLOAT32 = {"olmo", "gemma", "gemma3_text", "cohere"}
IN_CI = ("mistral", "qwen3")

all_architectures = pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in IN_CI else pytest.mark.sweep) for name in ARCHITECTURES],
)


def configuration(architecture: str) -> PreTrainedConfig:
    """The configuration of a small model."""
    values = SIZES | ARCHITECTURES[architecture]
    return CONFIG_MAPPING[values.pop("model_type")](**values)


def save_model(architecture: str, folder: Path) -> Path:
    """A small model with random weights, norms and biases among them, as a Hugging Face folder."""
    torch.manual_seed(0)
    config = configuration(architecture)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return folder
