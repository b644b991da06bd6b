"""Attention inside documents with torch's memory-efficient kernel for CUDA, which takes float32 as well.

The kernel is the one beneath `scaled_dot_product_attention`, which itself takes no borders. It is an operator of its
own here because torch 2.13's shape function of the kernel's backward pass lacks an argument, so that no layer that
calls the kernel directly can be compiled.
"""

from typing import Any

import torch

_CAUSAL = 1


@torch.library.custom_op("amberline::efficient_attention", mutates_args=())
def efficient_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
    scaling: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention inside each document, and the logarithms of the softmaxes' sums, for the backward pass.

    `query`, `key` and `value` are [1, T, heads, width], as is the result. `window` is how many tokens each one sees,
    itself included; None: all before it.
    """
    borders = (cu_seqlens, cu_seqlens, max_length, max_length)
    output, sums, *_ = torch.ops.aten._efficient_attention_forward(
        query, key, value, None, *borders, 0.0, _CAUSAL, True, scale=scaling, window_size=window
    )
    return output, sums


@efficient_attention.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,  # noqa: ARG001
    value: torch.Tensor,  # noqa: ARG001
    cu_seqlens: torch.Tensor,
    max_length: int,
    scaling: float,  # noqa: ARG001
    window: int | None,  # noqa: ARG001
) -> tuple[torch.Tensor, torch.Tensor]:
    # The sums are by document and head; the kernel rounds their number up.
    shape = (cu_seqlens.numel() - 1, query.shape[2], (max_length + 31) // 32 * 32)
    return query.new_empty(query.shape), query.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("amberline::efficient_attention_backward", mutates_args=())
def _backward(
    slope: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    sums: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
    scaling: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    unused = torch.zeros((), dtype=torch.int64, device=query.device)  # the random state of dropout
    borders = (cu_seqlens, cu_seqlens, max_length, max_length)
    options = {"scale": scaling, "window_size": window}
    of_query, of_key, of_value, _ = torch.ops.aten._efficient_attention_backward(
        slope, query, key, value, None, output, *borders, sums, 0.0, unused, unused, _CAUSAL, False, **options
    )
    return of_query, of_key, of_value


@_backward.register_fake
def _(
    slope: torch.Tensor,  # noqa: ARG001
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, cu_seqlens, ctx.max_length, ctx.scaling, ctx.window = inputs
    ctx.save_for_backward(query, key, value, *output, cu_seqlens)


def _gradients(ctx: Any, slope: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    found = _backward(slope.contiguous(), *ctx.saved_tensors, ctx.max_length, ctx.scaling, ctx.window)
    return *found, None, None, None, None


efficient_attention.register_autograd(_gradients, setup_context=_remember)
