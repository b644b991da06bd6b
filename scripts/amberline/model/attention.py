"""Causal attention inside each document of a packed batch, and never across documents.

One function is registered with transformers; document borders reach it as keyword arguments of the layers. No mask
function is registered beside it, which tells transformers to build no mask: the borders say everything.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedConfig

from amberline.hub.model_names import ModelError
from amberline.model.efficient import efficient_attention

NAME = "amberline"
KINDS = ("varlen", "flash", "efficient", "sdpa")
Kind = Literal["varlen", "flash", "efficient", "sdpa"]

_HALF = frozenset({torch.bfloat16, torch.float16})
# Head widths are read in pieces of this many bytes.
_ALIGNED = 16


@dataclass(frozen=True)
class _Kernel:
    """A kernel for CUDA that takes all documents in one call, and what it asks for.

    Those that ask for as many keys as queries get copies of the keys: see `document_attention`. All take windows.
    """

    kind: Kind
    module: str
    needs: str  # to have the module
    dtypes: frozenset[torch.dtype]
    widest: int  # head
    capability: tuple[int, int]  # of the GPU
    why: str


# The fastest first. A flash kernel refuses float32 only when it runs: the operators' shape functions take it.
_KERNELS = (
    _Kernel(
        "varlen",
        "torch.nn.attention.varlen",
        "torch 2.11 or newer",
        _HALF,
        256,
        (8, 0),
        "torch has variable-length flash attention for CUDA",
    ),
    _Kernel("flash", "flash_attn", "the package flash-attn", _HALF, 256, (8, 0), "flash-attn is installed"),
    _Kernel(
        "efficient",
        "torch",
        "torch",
        _HALF | {torch.float32},
        2**16,
        (5, 0),
        "torch's memory-efficient attention takes all documents in one call",
    ),
)


def choose_attention(kind: str, device: torch.device | str, dtype: torch.dtype, width: int) -> tuple[Kind, str]:
    """The attention for a model with heads of this width that computes in `dtype`, and why, for the log.

    `kind` is "auto" or one of KINDS.

    Raises ModelError when the kind is unknown, or cannot run that model on this device.
    """
    device = torch.device(device)
    if kind not in ("auto", *KINDS):
        raise ModelError(f"attention {kind!r} is unknown: use auto, {', '.join(KINDS)}")
    if kind == "sdpa":
        return "sdpa", "asked for"
    if kind == "auto" and device.type != "cuda":
        return "sdpa", "on the CPU, one call a document"
    lacking: list[str] = []
    for kernel in _KERNELS:
        if kind in ("auto", kernel.kind):
            lack = next(_lacks(kernel, device, dtype, width), None)
            if lack is None:
                return kernel.kind, "; ".join([*lacking, kernel.why]) if kind == "auto" else "asked for"
            lacking.append(f"{kernel.kind} {lack}")
    if kind == "auto":
        return "sdpa", "; ".join([*lacking, "one call a document, which is slow"])
    raise ModelError(f"attention {lacking[0]}. Fix: set attention under hardware to auto or sdpa")


def head_width(config: PreTrainedConfig) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _lacks(kernel: _Kernel, device: torch.device, dtype: torch.dtype, width: int) -> Iterator[str]:
    """What keeps a kernel from running."""
    if device.type != "cuda":
        yield f"needs CUDA, and this is {device.type}"
    if importlib.util.find_spec(kernel.module) is None:
        yield f"needs {kernel.needs}"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < kernel.capability:
        yield f"needs a GPU of compute capability {'.'.join(map(str, kernel.capability))} or higher"
    if dtype not in kernel.dtypes:
        yield f"has no kernel for {str(dtype).removeprefix('torch.')}"
    if width > kernel.widest:
        yield f"takes heads up to {kernel.widest} wide, and this model's are {width}"
    if width * dtype.itemsize % _ALIGNED:
        yield f"takes head widths that are multiples of {_ALIGNED // dtype.itemsize}, and this model's is {width}"


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
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for a packed batch in transformers' calling convention.

    `query` is [1, heads, T, width], `key` and `value` [1, key heads, T, width], `cu_seqlens` [D + 1] int32.
    `sliding_window` is how many tokens each one sees, itself included; None: all before it.
    Returns [1, T, heads, width], and None for the attention weights that nobody computes.
    """
    assert attention_mask is None, "documents are told apart by their borders, not by a mask"
    if kind == "sdpa":
        return _sdpa(query, key, value, cu_seqlens, scaling, sliding_window), None
    # All kernels take [T, heads, width], one of them in a batch of one.
    query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    borders = (cu_seqlens, cu_seqlens, max_length, max_length)
    # Tokens seen to the left, all or some, and to the right, none: causal attention.
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    output: Any
    if kind == "flash":
        from flash_attn import flash_attn_varlen_func

        output = flash_attn_varlen_func(
            query, key, value, *borders, softmax_scale=scaling, causal=True, window_size=window
        )
        return output.unsqueeze(0), None
    # The other two know no grouped queries (varlen since torch 2.12): every query head gets its own keys and values.
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) if groups > 1 else each for each in (key, value))
    if kind == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        output = varlen_attn(query, key, value, *borders, scale=scaling, window_size=window)
        return output.unsqueeze(0), None
    output, _sums = efficient_attention(
        query[None], key[None], value[None], cu_seqlens, max_length, scaling, sliding_window
    )
    return output, None


# A loop over documents: compiling it would make a new graph for every batch.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    lengths = cu_seqlens.diff().tolist()
    grouped = query.shape[1] != key.shape[1]
    pieces = []
    for q, k, v in zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True):
        length = q.shape[2]
        mask = _windowed(length, window, q.device) if window is not None and length > window else None
        pieces.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2)


def _windowed(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which tokens of a document each one sees, [length, length]: itself and the window - 1 before it."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen.tril().triu(1 - window)


AttentionInterface.register(NAME, document_attention)
