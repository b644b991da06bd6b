"""Activation checkpointing: what the backward pass computes again instead of remembering it."""

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import amberline.model.efficient  # noqa: F401  registers its operators

Level = Literal["full", "selective", "none"]


def checkpoint_activations(layers: nn.ModuleList, level: Level) -> None:
    """Make each layer recompute its activations in the backward pass.

    full: only a layer's input is remembered. selective: the results of attention and of every second matrix product
    are remembered too, and everything cheap is recomputed (torchtitan's per-operation policy). none: all is remembered.
    """
    if level == "none":
        return
    context: dict[str, Any] = {} if level == "full" else {"context_fn": _selective_contexts}
    for layer in layers:
        # The method is replaced, not the module wrapped, so that no parameter changes its name, and so that FSDP's
        # hooks stay outside of what is recomputed.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, **context)


@cache
def _kept_operations() -> set[Any]:
    """The expensive operations besides matrix products: attention, and the reduction of gradients."""
    ops = torch.ops
    kept = {
        ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        ops.aten._scaled_dot_product_flash_attention.default,
        ops.aten._scaled_dot_product_efficient_attention.default,
        ops.aten._scaled_dot_product_cudnn_attention.default,
        ops.aten._flash_attention_forward.default,
        ops.amberline.efficient_attention.default,
    }
    # Registered when their modules are imported; without that, the very first layer would recompute its attention.
    for module, namespace, name in (
        ("torch.nn.attention.varlen", "torch_attn", "_varlen_attn"),
        ("flash_attn", "flash_attn", "_flash_attn_varlen_forward"),
    ):
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)
            if hasattr(getattr(ops, namespace), name):
                kept.add(getattr(getattr(ops, namespace), name).default)
    return kept


def _selective_contexts() -> tuple[Any, Any]:
    contexts: tuple[Any, Any] = create_selective_checkpoint_contexts(_policy())
    return contexts


def _policy() -> Callable[..., CheckpointPolicy]:
    kept = _kept_operations()
    products = {False: 0, True: 0}  # seen so far, in the forward pass and in the recomputation

    def decide(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if operation is torch.ops.aten.mm.default:
            products[context.is_recompute] += 1
            keep = products[context.is_recompute] % 2 == 1
        else:
            keep = operation in kept
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return decide
