"""A kernel on the CPU for an operator that torch has for CUDA alone, so that calls of it can be tried without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def efficient_attention_on_cpu() -> Iterator[dict[str, int]]:
    """Attention with borders and its gradients, written out; asserts what CUDA's kernel asks for. Counts calls."""
    calls = {"forward": 0, "backward": 0}

    def forward(query, key, value, bias, cu_q, cu_k, max_q, max_k, dropout, mask, log_sums=False, *, scale, **unused):
        calls["forward"] += 1
        _check(query, key, value, cu_q, cu_k)
        assert bias is None and dropout == 0.0 and log_sums and mask == 1, "causal from the first token of a document"
        assert max_q == max_k == int(cu_q.diff().max())
        pieces = [_weights(q, k, scale) @ v for q, k, v in _documents(cu_q, query, key, value)]
        sums = query.new_zeros(cu_q.numel() - 1, query.shape[2], -(-max_q // 32) * 32)
        nothing = torch.zeros((), dtype=torch.long)
        return _packed(pieces), sums, nothing, nothing, max_q, max_k

    def backward(
        slope, query, key, value, bias, out, cu_q, cu_k, max_q, max_k, sums, dropout, seed, offset, mask, of_bias,
        *, scale, **unused,
    ):  # fmt: skip
        calls["backward"] += 1
        _check(query, key, value, cu_q, cu_k)
        assert slope.stride(-1) == 1 and mask == 1 and not of_bias
        found = []
        for g, q, k, v in _documents(cu_q, slope, query, key, value):
            weights = _weights(q, k, scale)
            of_weights = g @ v.mT
            of_products = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
            found.append((of_products @ k, of_products.mT @ q, weights.mT @ g))
        return *(_packed(each) for each in zip(*found, strict=True)), torch.empty(0)

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


def _documents(borders: Tensor, *states: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Per document, [heads, tokens, width] of each."""
    lengths = borders.diff().tolist()
    return zip(*([piece.transpose(0, 1) for piece in each[0].split(lengths)] for each in states), strict=True)


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    products = query @ key.mT * scale
    return products.masked_fill(~torch.ones_like(products, dtype=torch.bool).tril(), float("-inf")).softmax(-1)


def _packed(pieces) -> Tensor:
    return torch.cat([piece.transpose(0, 1) for piece in pieces])[None].contiguous()
