"""CPU stand-ins for CUDA's attention kernels, so that the path of a GPU can be walked, and compiled, without one.

They take and give what the kernels do, and refuse what those refuse.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

Tensor = torch.Tensor


def documents(borders: Tensor, *packed: Tensor) -> Iterator[list[Tensor]]:
    """Each document's part of tensors [T, heads, width], as [heads, length, width], in float32 at least."""
    for parts in zip(*(each.split(borders.diff().tolist()) for each in packed), strict=True):
        yield [part.transpose(0, 1).to(torch.promote_types(part.dtype, torch.float32)) for part in parts]


def weights(query: Tensor, key: Tensor, scale: float, window: int | None) -> Tensor:
    """How much each token of a document attends to each one up to itself, of the last `window`."""
    length = query.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - (window or length))
    return (scale * query @ key.transpose(1, 2)).masked_fill(~seen, -math.inf).softmax(-1)


def attend(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention inside each document."""
    outputs = [(weights(q, k, scale, window) @ v).transpose(0, 1) for q, k, v in documents(borders, query, key, value)]
    return torch.cat(outputs).to(query.dtype)


def attend_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scale: float, window: int | None
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value: autograd does not look into a kernel."""
    found = []
    for g, q, k, v in documents(borders, grad, query, key, value):
        seen = weights(q, k, scale, window)
        of_seen = g @ v.transpose(1, 2)
        of_scores = scale * seen * (of_seen - (of_seen * seen).sum(-1, keepdim=True))
        each = (of_scores @ k, of_scores.transpose(1, 2) @ q, seen.transpose(1, 2) @ g)
        found.append([gradient.transpose(0, 1) for gradient in each])
    return tuple(torch.cat(each).to(query.dtype) for each in zip(*found, strict=True))


@cache
def register() -> object:
    """Have all of them for as long as this process runs. Returns what must be kept for that, as the cache does."""
    from torch.nn.attention import varlen

    varlen._varlen_attn.register_kernel("cpu")(_varlen)
    varlen._varlen_attn_backward.register_kernel("cpu")(_varlen_backward)
    efficient = efficient_attention_on_cpu()
    efficient.__enter__()
    return efficient


def _varlen(query, key, value, borders, _borders, longest, _longest, is_causal=False, scale=None, window_size=None, *_):
    if query.dtype not in {torch.float16, torch.bfloat16}:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    window = _window(is_causal, window_size)
    assert borders.dtype == torch.int32 and longest == int(borders.diff().max())
    normalisers = torch.zeros(query.shape[1], query.shape[0])
    return attend(query, key, value, borders, scale, window), normalisers, torch.zeros(2, dtype=torch.uint64)


def _varlen_backward(
    grad, query, key, value, _out, _lse, borders, _borders, _longest, _longest2, is_causal, _random, scale=None,
    window_size=None, *_,
):  # fmt: skip
    return attend_backward(grad, query, key, value, borders, scale, _window(is_causal, window_size))


def _window(is_causal: bool, window_size: list[int]) -> int | None:
    """How many tokens each one sees; None: all before it. torch calls causal what has no window to the left."""
    left, right = window_size
    assert right == 0 and is_causal == (left == -1), (is_causal, window_size)
    return None if left == -1 else left + 1


@contextmanager
def efficient_attention_on_cpu() -> Iterator[dict[str, int]]:
    """torch's memory-efficient attention with borders on the CPU. Asserts what CUDA's kernel asks for; counts calls."""
    calls = {"forward": 0, "backward": 0}

    def forward(
        query,
        key,
        value,
        bias,
        cu_q,
        cu_k,
        max_q,
        max_k,
        dropout,
        mask,
        log_sums=False,
        *,
        scale,
        window_size=None,
        **_,
    ):
        calls["forward"] += 1
        _check(query, key, value, cu_q, cu_k)
        assert bias is None and dropout == 0.0 and log_sums and mask == 1, "causal from the first token of a document"
        assert max_q == max_k == int(cu_q.diff().max())
        sums = query.new_zeros(cu_q.numel() - 1, query.shape[2], -(-max_q // 32) * 32)
        nothing = torch.zeros((), dtype=torch.long)
        output = attend(query[0], key[0], value[0], cu_q, scale, window_size)[None]
        return output, sums, nothing, nothing, max_q, max_k

    def backward(
        slope, query, key, value, _bias, _out, cu_q, cu_k, _max_q, _max_k, _sums, _dropout, _seed, _offset, mask,
        of_bias, *, scale, window_size=None, **_,
    ):  # fmt: skip
        calls["backward"] += 1
        _check(query, key, value, cu_q, cu_k)
        assert slope.stride(-1) == 1 and mask == 1 and not of_bias
        found = attend_backward(slope[0], query[0], key[0], value[0], cu_q, scale, window_size)
        return *(each[None] for each in found), torch.empty(0)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_efficient_attention_forward", forward, "CPU")
    library.impl("_efficient_attention_backward", backward, "CPU")
    try:
        yield calls
    finally:
        library._destroy()


def _check(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor) -> None:
    assert query.shape == key.shape == value.shape, "every query head has its own keys"
    assert query.ndim == 4 and len(query) == 1
    for each in (query, key, value):
        assert each.stride(-1) == 1
        assert all(each.stride(place) * each.itemsize % 16 == 0 for place in (1, 2))
    for borders in (cu_q, cu_k):
        assert borders.dtype == torch.int32 and borders.is_contiguous()
