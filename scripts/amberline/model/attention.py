"""Causal attention inside each document of a packed batch, and never across documents.

One function is registered with transformers; document borders reach it as keyword arguments of the layers. No mask
function is registered beside it, which tells transformers to build no mask: the borders say everything.
"""

import importlib.util
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from amberline.hub.model_names import ModelError

NAME = "amberline"
KINDS = ("varlen", "flash", "sdpa")
Kind = Literal["varlen", "flash", "sdpa"]


def choose_attention(kind: str, device: torch.device | str) -> tuple[Kind, str]:
    """The attention to use, and why, for the log. `kind` is "auto" or one of KINDS.

    Raises ModelError when the kind is unknown, or cannot run on this device.
    """
    device = torch.device(device)
    available = {
        "varlen": device.type == "cuda" and importlib.util.find_spec("torch.nn.attention.varlen") is not None,
        "flash": device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None,
        "sdpa": True,
    }
    if kind == "auto":
        if available["varlen"]:
            return "varlen", "torch has variable-length flash attention for CUDA"
        if available["flash"]:
            return "flash", "this torch has no varlen_attn, and flash-attn is installed"
        if device.type == "cuda":
            return "sdpa", "neither torch's varlen_attn nor flash-attn is here; one call a document, which is slow"
        return "sdpa", "on the CPU, one call a document"
    if kind == "varlen" and not available["varlen"]:
        raise ModelError(
            f"attention varlen needs CUDA and torch 2.11 or newer; this is {device.type}: use auto or sdpa"
        )
    if kind == "flash" and not available["flash"]:
        raise ModelError(
            f"attention flash needs CUDA and the package flash-attn; this is {device.type}: use auto or sdpa"
        )
    match kind:
        case "varlen" | "flash" | "sdpa":
            return kind, "asked for"
    raise ModelError(f"attention {kind!r} is unknown: use auto, {', '.join(KINDS)}")


def document_attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cu_seqlens: torch.Tensor,
    max_length: int,
    kind: Kind,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for a packed batch in transformers' calling convention.

    `query` is [1, heads, T, width], `key` and `value` [1, key heads, T, width], `cu_seqlens` [D + 1] int32.
    Returns [1, T, heads, width], and None for the attention weights that nobody computes.
    """
    assert attention_mask is None, "documents are told apart by their borders, not by a mask"
    if kind == "sdpa":
        return _sdpa(query, key, value, cu_seqlens, scaling), None
    # Both kernels take [T, heads, width].
    query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    if kind == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        # torch 2.11 knows no grouped queries: give every query head its own copy of its keys and values.
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) if groups > 1 else each for each in (key, value))
        # A window of everything to the left and nothing to the right is causal attention.
        output: Any = varlen_attn(
            query, key, value, cu_seqlens, cu_seqlens, max_length, max_length, scale=scaling, window_size=(-1, 0)
        )
    else:
        from flash_attn import flash_attn_varlen_func

        output = flash_attn_varlen_func(
            query, key, value, cu_seqlens, cu_seqlens, max_length, max_length, softmax_scale=scaling, causal=True
        )
    return output.unsqueeze(0), None


# A loop over documents: compiling it would make a new graph for every batch.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor, scaling: float
) -> torch.Tensor:
    lengths = cu_seqlens.diff().tolist()
    grouped = query.shape[1] != key.shape[1]
    pieces = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2)


AttentionInterface.register(NAME, document_attention)
