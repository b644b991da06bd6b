"""The small Llama that all golden numbers were made with: anyone can rebuild it from integer arithmetic."""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def golden_model() -> LlamaForCausalLM:
    """The model in float32, eager attention."""
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation="eager"))
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            parameter.copy_(torch.ones_like(parameter) if parameter.ndim == 1 else _values(number, parameter.shape))
    return model


def save_golden_model(folder: Path, **options: object) -> Path:
    """The model as a Hugging Face folder; `options` are those of `save_pretrained`."""
    golden_model().save_pretrained(folder, **options)
    return folder


def _values(number: int, shape: torch.Size) -> torch.Tensor:
    """0.12 (2u - 1), u the hash of each element's index, scaled to 0..1; unsigned 32-bit arithmetic wraps around."""
    x = np.arange(shape.numel(), dtype=np.uint32) * np.uint32(2654435761)
    x += np.uint32(number * 40503)
    x += np.uint32(0x9E3779B9)
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x21F0AAAD)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x735A2D97)
    u = (x ^ x >> np.uint32(15)).astype(np.float64) / 2**32
    return torch.from_numpy(0.12 * (2 * u - 1)).to(torch.float32).reshape(shape)
