"""What a Llama needs before it is run: parameters, bytes of memory, operations and time.

Activations are counted from the tensors that one decoder layer keeps for its backward pass, in multiples of
width d, keys' width k and MLP width f:

    none       the layer's input, both norms' results, query, key, value, attention's result, the first residual sum,
               and four of the MLP: 6d + 2k + 4f; on the CPU, where norms are several operations and attention's result
               is laid together from each document's, 9d + 2k + 4f
    selective  the layer's input, attention's result, every second matrix product (query, value, gate, down): 4d + k + f
    full       the layer's input: d

The backward pass of a layer needs, for a moment, the gradients of its MLP beside: 3f + 3d; where the layer is
recomputed, also what is computed again. Before it, the output head needs a chunk of logits and its matrix's gradient.

A process is at its peak where one of three things happens: the last backward pass of a step begins, with all
activations; it ends, with all gradients of this process; or the optimizer updates.

Time is that of matrix products and, after it, that of what all other operations read and write, each at the rate that
the device reaches. What it costs to start an operation is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import LlamaConfig

from amberline.model.attention import head_width
from amberline.model.checkpointing import Level
from amberline.model.logps import CHUNK_BYTES, KEPT_BYTES

# What a process holds of a step's gradients before its last backward pass: nothing where there is no micro-batch
# before it; else all of them until they are reduced, or its shards of what is reduced already.
Accumulated = Literal["nothing", "whole", "shards"]

# Operations of forward and backward pass together, for each of the forward pass: three without recomputation.
_PASSES: dict[Level, float] = {"none": 3, "selective": 3.5, "full": 4}
# Attention's kernels reach about half the rate of large products.
_ATTENTION = 2
# How often what is between the products is read or written: each element that a layer makes, and each logit. Counted
# for GPUs; fitted to measured times on CPUs, where exponentials, small products and fresh memory take time of their
# own.
_ACCESSES = {"cuda": (3, 8), "cpu": (16, 20)}


@dataclass(frozen=True)
class Rates:
    """What a device reaches."""

    flops: float  # a second, in matrix products
    traffic: float  # bytes a second, read and written by operations on each element


def parameters(config: LlamaConfig) -> tuple[int, int]:
    """Parameters of the model, and how many of them are in matrix products (all but input embeddings and norms)."""
    width, layers = config.hidden_size, config.num_hidden_layers
    matrices = layers * (2 * width * (_query(config) + _keys(config)) + 3 * width * config.intermediate_size)
    matrices += width * config.vocab_size
    return matrices + width * config.vocab_size + (2 * layers + 1) * width, matrices


def state_bytes(
    config: LlamaConfig,
    *,
    moments: int,
    compute_bytes: int,
    shards: int,
    reshard: bool,
    accumulated: Accumulated = "whole",
) -> float:
    """Memory of one process when the last backward pass of a step begins, apart from activations: weights, `moments`
    of the optimizer, and the gradients of the step's micro-batches before, in float32.

    `compute_bytes` is the width of the compute dtype: gathered parameters are in it. `shards`, here and below, is over
    how many processes parameters are sharded: all of them, or those of a node.
    """
    count = parameters(config)[0]
    gradients = {"nothing": 0.0, "shards": 4 * count / shards, "whole": 4 * count}[accumulated]
    return 4 * count * (1 + moments) / shards + _gathered(config, compute_bytes, shards, reshard) + gradients


def peak_bytes(
    config: LlamaConfig,
    level: Level,
    *,
    moments: int,
    compute_bytes: int,
    shards: int,
    reshard: bool,
    accumulated: Accumulated,
    device: str,
    tokens: int,
    softmaxes: int,
) -> float:
    """Memory of one process at the peak of a step whose largest micro-batch has so many tokens.

    `softmaxes`: see `head_bytes`.
    """
    begin = state_bytes(
        config,
        moments=moments,
        compute_bytes=compute_bytes,
        shards=shards,
        reshard=reshard,
        accumulated=accumulated,
    ) + working_bytes(config, level, compute_bytes, device, tokens=tokens, softmaxes=softmaxes)
    updated = 4 * parameters(config)[0] * (2 + moments) / shards
    end = updated + _reduced(config, compute_bytes, shards) + layer_bytes(config, compute_bytes, device) * tokens
    # RMSprop, with one moment, takes the roots of all of them at once; AdamW is one kernel.
    update = updated + (4 * parameters(config)[0] / shards if moments == 1 else 0)
    return max(begin, end, update)


def frozen_bytes(
    config: LlamaConfig, *, compute_bytes: int, shards: int, reshard: bool, device: str, tokens: int
) -> float:
    """Memory of one process that asks a model for log-probabilities of so many tokens at once, and never trains it."""
    weights = 4 * parameters(config)[0] / shards + _gathered(config, compute_bytes, shards, reshard)
    in_a_layer = _kept(config, "none", device) * compute_bytes * tokens
    return weights + CHUNK_BYTES[device] + in_a_layer


def _gathered(config: LlamaConfig, compute_bytes: int, shards: int, reshard: bool) -> float:
    """Parameters in the compute dtype: all of them, or those of two layers and of what belongs to none."""
    if shards == 1 and compute_bytes == 4:
        return 0  # nothing is sharded: it computes with the weights themselves
    count = 2 * _layer(config) + _outside(config) if reshard else parameters(config)[0]
    return float(compute_bytes * count)


def _reduced(config: LlamaConfig, compute_bytes: int, shards: int) -> float:
    """What the end of a backward pass holds beside shards: of parameters outside of layers themselves, their gradients,
    and these in float32 to be reduced; and of the first layer the last."""
    if shards == 1 and compute_bytes == 4:
        return 0
    return float((2 * compute_bytes + 4) * _outside(config) + 4 * _layer(config))


def activation_bytes(config: LlamaConfig, level: Level, compute_bytes: int, device: str) -> float:
    """Memory of one token's activations in all layers."""
    return float(_kept(config, level, device) * config.num_hidden_layers * compute_bytes)


def working_bytes(
    config: LlamaConfig, level: Level, compute_bytes: int, device: str, *, tokens: int, softmaxes: int
) -> float:
    """Memory of one micro-batch at the peak of its passes: all activations, with the head's or one layer's on top.

    `softmaxes`: see `head_bytes`.
    """
    head = head_bytes(config, device, softmaxes=softmaxes)
    backward = backward_bytes(config, level, compute_bytes, device) * tokens
    return activation_bytes(config, level, compute_bytes, device) * tokens + max(head, backward)


def layer_bytes(config: LlamaConfig, compute_bytes: int, device: str) -> float:
    """Memory of one token in forward and backward pass of one layer, everything that either makes."""
    gradients = 3 * config.intermediate_size + 3 * config.hidden_size
    return float((_kept(config, "none", device) + gradients) * compute_bytes)


def backward_bytes(config: LlamaConfig, level: Level, compute_bytes: int, device: str) -> float:
    """Memory of one token for the backward pass of one layer, beside all activations; freed before the next one."""
    return layer_bytes(config, compute_bytes, device) - _kept(config, level, device) * compute_bytes


def head_bytes(config: LlamaConfig, device: str, *, softmaxes: int) -> float:
    """Memory of the output head at its peak: a chunk's logits, the output matrix's gradient in float32, and softmaxes.

    `softmaxes` is the number of targets whose objective is on log-probabilities: as many softmaxes as there is room
    for are kept for the backward pass.
    """
    kept = min(KEPT_BYTES[device], 4 * config.vocab_size * softmaxes)
    return float(CHUNK_BYTES[device] + 4 * config.hidden_size * config.vocab_size + kept)


def training_flops(config: LlamaConfig, lengths: Sequence[int]) -> float:
    """Floating point operations of forward and backward pass over documents of these lengths, none recomputed.

    6 · (parameters in matrix products, without input embeddings) a token, and causal attention:
    6 · layers · heads' width · n² a document of n tokens, half of what full attention would take.
    """
    attention = 6 * config.num_hidden_layers * _query(config)
    return 6.0 * parameters(config)[1] * sum(lengths) + attention * float(sum(n * n for n in lengths))


def passes_seconds(
    config: LlamaConfig,
    level: Level,
    compute_bytes: int,
    device: str,
    rates: Rates,
    *,
    lengths: Sequence[int],
    targets: int,
) -> float:
    """Seconds of forward and backward pass of one process over documents of these lengths, `targets` of their tokens
    predicted."""
    width, tokens = config.hidden_size, sum(lengths)
    head = width * config.vocab_size
    attention = config.num_hidden_layers * _query(config) * float(sum(n * n for n in lengths))
    forward = 2 * (parameters(config)[1] - head) * tokens + 2 * _ATTENTION * attention
    of_layers, of_logits = _ACCESSES[device]
    between = of_layers * config.num_hidden_layers * layer_bytes(config, compute_bytes, device) * tokens
    in_layers = _PASSES[level] * (forward / rates.flops + between / 3 / rates.traffic)
    in_head = 6 * head * targets / rates.flops + of_logits * 4 * config.vocab_size * targets / rates.traffic
    return in_layers + in_head


def optimizer_seconds(config: LlamaConfig, *, moments: int, shards: int, rates: Rates) -> float:
    """Seconds of one process to clip a step's gradients and to update its weights with `moments` each, in float32."""
    # The norm reads gradients, clipping reads and writes them. AdamW, one kernel, reads them, and reads and writes
    # weights and both moments; RMSprop, with one moment, is five operations on each element, of two or three tensors.
    accesses = 3 + (13 if moments == 1 else 1 + 2 * (1 + moments))
    return 4 * parameters(config)[0] * accesses / shards / rates.traffic


def _kept(config: LlamaConfig, level: Level, device: str) -> int:
    """Elements that one layer keeps of one token."""
    width, keys, inner = config.hidden_size, _keys(config), config.intermediate_size
    elements: dict[Level, int] = {
        "none": (9 if device == "cpu" else 6) * width + 2 * keys + 4 * inner,
        "selective": 4 * width + keys + inner,
        "full": width,
    }
    return elements[level]


def _layer(config: LlamaConfig) -> int:
    """Parameters of one layer."""
    return (parameters(config)[0] - _outside(config)) // config.num_hidden_layers


def _outside(config: LlamaConfig) -> int:
    """Parameters outside of layers: embeddings, output matrix and the last norm."""
    return (2 * config.vocab_size + 1) * config.hidden_size


def _query(config: LlamaConfig) -> int:
    return head_width(config) * config.num_attention_heads


def _keys(config: LlamaConfig) -> int:
    return head_width(config) * (config.num_key_value_heads or config.num_attention_heads)
