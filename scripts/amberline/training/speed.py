"""How fast a step was, and how much of what the GPU can do."""

import torch
from transformers import LlamaConfig

from amberline.training.choices import parameters

# Dense peak of the matrix units in FLOP/s, by a part of the device's name. Makers' data sheets.
PEAKS = {
    "bfloat16": {"H200": 989e12, "H100": 989e12, "A100": 312e12},
    "tf32": {"H200": 494e12, "H100": 494e12, "A100": 156e12},
    "float32": {"H200": 67e12, "H100": 67e12, "A100": 19.5e12},
}


def training_flops(config: LlamaConfig, lengths: list[int]) -> float:
    """Floating point operations of forward and backward pass over documents of these lengths, none recomputed.

    6 · (parameters in matrix products, without input embeddings) a token, and causal attention:
    6 · layers · heads' width · n² a document of n tokens, half of what full attention would take.
    """
    head = config.head_dim or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head
    return 6.0 * parameters(config)[1] * sum(lengths) + attention * float(sum(n * n for n in lengths))


def peak_flops(device: torch.device, precision: str, tf32: bool) -> float | None:
    """The device's peak in FLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    kind = "tf32" if precision == "float32" and tf32 else precision
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS[kind].items() if part in name), None)
