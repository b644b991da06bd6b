"""CPU stand-ins for CUDA's attention kernels, so that the path of a GPU can be walked, and compiled, without one.

They take and give what the kernels do, and refuse what those refuse. Importing this registers them with torch.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.attention import varlen

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from kernels_on_cpu import efficient_attention_on_cpu

Tensor = torch.Tensor


def documents(borders: Tensor, *packed: Tensor) -> Iterator[list[Tensor]]:
    """Each document's part of tensors [T, heads, width], as [heads, length, width], in float32 at least."""
    for parts in zip(*(each.split(borders.diff().tolist()) for each in packed), strict=True):
        yield [part.transpose(0, 1).to(torch.promote_types(part.dtype, torch.float32)) for part in parts]


def weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """How much each token of a document attends to each one up to itself."""
    future = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).triu(1)
    return (scale * query @ key.transpose(1, 2)).masked_fill(future, -math.inf).softmax(-1)


def attend(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scale: float) -> Tensor:
    """Causal attention inside each document."""
    outputs = [(weights(q, k, scale) @ v).transpose(0, 1) for q, k, v in documents(borders, query, key, value)]
    return torch.cat(outputs).to(query.dtype)


def attend_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scale: float
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value: autograd does not look into a kernel."""
    found = []
    for g, q, k, v in documents(borders, grad, query, key, value):
        seen = weights(q, k, scale)
        of_seen = g @ v.transpose(1, 2)
        of_scores = scale * seen * (of_seen - (of_seen * seen).sum(-1, keepdim=True))
        each = (of_scores @ k, of_scores.transpose(1, 2) @ q, seen.transpose(1, 2) @ g)
        found.append([gradient.transpose(0, 1) for gradient in each])
    return tuple(torch.cat(each).to(query.dtype) for each in zip(*found, strict=True))


@varlen._varlen_attn.register_kernel("cpu")
def _varlen(query, key, value, borders, _borders, longest, _longest, is_causal=False, scale=None, window_size=None, *_):
    if query.dtype not in {torch.float16, torch.bfloat16}:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    assert is_causal and list(window_size) == [-1, 0], (is_causal, window_size)
    assert borders.dtype == torch.int32 and longest == int(borders.diff().max())
    normalisers = torch.zeros(query.shape[1], query.shape[0])
    return attend(query, key, value, borders, scale), normalisers, torch.zeros(2, dtype=torch.uint64)


@varlen._varlen_attn_backward.register_kernel("cpu")
def _varlen_backward(
    grad, query, key, value, _out, _lse, borders, _borders, _longest, _longest2, is_causal, _random, scale=None, *_
):
    assert is_causal
    return attend_backward(grad, query, key, value, borders, scale)


# Kept for as long as this process runs.
_efficient = efficient_attention_on_cpu()
_efficient.__enter__()
