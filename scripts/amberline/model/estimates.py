"""What a model needs before it is run: bytes of memory, operations and time, from its sizes.

Activations are counted from the tensors that one decoder layer keeps for its backward pass, in multiples of
width d, queries' width q, keys' width k and the width m of what the MLP's first products make, of which there are two
in a Llama (gate and up, so that m is twice the MLP's width):

    none       the layer's input, both norms' results, query, key, value, attention's result, the first residual sum,
               and as much of the MLP as its products make, twice: 4d + 2q + 2k + 2m; on the CPU, where norms are
               several operations and attention's result is laid together from each document's, 7d + 2q + 2k + 2m
    selective  the layer's input, attention's result, every second matrix product (query, value, gate, down):
               2d + 2q + k + m/2
    full       the layer's input: d

Other architectures keep a little more (norms of queries and keys) or less (no gate): the formula is that of a Llama.

The backward pass of a layer needs, for a moment, the gradients of its MLP beside: 3m/2 + 3d; where the layer is
recomputed, also what is computed again. Before it, the output head needs a chunk of logits and its matrix's gradient.

A process is at its peak where one of two things happens: the last backward pass of a step begins, with all
activations; or it ends, with all gradients of this process. The update, after it, needs nothing more.

Time is that of matrix products and, after it, that of what all other operations read and write, each at the rate that
the device reaches. What it costs to start an operation is not in it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from amberline.model.checkpointing import Level
from amberline.model.logps import CHUNK_BYTES, KEPT_BYTES
from amberline.model.sizes import ModelSizes

# What a process holds of a step's gradients before its last backward pass: nothing where there is no micro-batch
# before it; else all of them until they are reduced, or its shards of what is reduced already.
Accumulated = Literal["nothing", "whole", "shards"]

# Operations of forward and backward pass together, for each of the forward pass: three without recomputation.
_PASSES: dict[Level, float] = {"none": 3, "selective": 3.5, "full": 4}
# Attention's kernels reach about half the rate of large products.
_SLOWER = 2
# How often what is between the products is read or written: each element that a layer makes, and each logit. Counted
# for GPUs; fitted to measured times on CPUs, where exponentials, small products and fresh memory take time of their
# own.
_ACCESSES = {"cuda": (3, 8), "cpu": (16, 20)}


@dataclass(frozen=True)
class Rates:
    """What a device reaches."""

    flops: float  # a second, in matrix products
    traffic: float  # bytes a second, read and written by operations on each element


def state_bytes(
    sizes: ModelSizes,
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
    count = sizes.parameters
    gradients = {"nothing": 0.0, "shards": 4 * count / shards, "whole": 4 * count}[accumulated]
    return 4 * count * (1 + moments) / shards + _gathered(sizes, compute_bytes, shards, reshard) + gradients


def peak_bytes(
    sizes: ModelSizes,
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
        sizes,
        moments=moments,
        compute_bytes=compute_bytes,
        shards=shards,
        reshard=reshard,
        accumulated=accumulated,
    ) + working_bytes(sizes, level, compute_bytes, device, tokens=tokens, softmaxes=softmaxes)
    updated = 4 * sizes.parameters * (2 + moments) / shards
    end = updated + _reduced(sizes, compute_bytes, shards) + layer_bytes(sizes, compute_bytes, device) * tokens
    return max(begin, end)


def frozen_bytes(
    sizes: ModelSizes, *, compute_bytes: int, shards: int, reshard: bool, device: str, tokens: int
) -> float:
    """Memory of one process that asks a model for log-probabilities of so many tokens at once, and never trains it."""
    weights = 4 * sizes.parameters / shards + _gathered(sizes, compute_bytes, shards, reshard)
    in_a_layer = _kept(sizes, "none", device) * compute_bytes * tokens
    return weights + CHUNK_BYTES[device] + in_a_layer


def _gathered(sizes: ModelSizes, compute_bytes: int, shards: int, reshard: bool) -> float:
    """Parameters in the compute dtype: all of them, or those of two layers and of what belongs to none."""
    if shards == 1 and compute_bytes == 4:
        return 0  # nothing is sharded: it computes with the weights themselves
    count = 2 * sizes.layer_parameters + sizes.outside if reshard else sizes.parameters
    return float(compute_bytes * count)


def _reduced(sizes: ModelSizes, compute_bytes: int, shards: int) -> float:
    """What the end of a backward pass holds beside shards: of parameters outside of layers themselves, their gradients,
    and these in float32 to be reduced; and of the first layer the last."""
    if shards == 1 and compute_bytes == 4:
        return 0
    return float((2 * compute_bytes + 4) * sizes.outside + 4 * sizes.layer_parameters)


def activation_bytes(sizes: ModelSizes, level: Level, compute_bytes: int, device: str) -> float:
    """Memory of one token's activations in all layers."""
    return float(_kept(sizes, level, device) * sizes.layers * compute_bytes)


def working_bytes(
    sizes: ModelSizes, level: Level, compute_bytes: int, device: str, *, tokens: int, softmaxes: int
) -> float:
    """Memory of one micro-batch at the peak of its passes: all activations, with the head's or one layer's on top.

    `softmaxes`: see `head_bytes`.
    """
    head = head_bytes(sizes, device, softmaxes=softmaxes)
    backward = backward_bytes(sizes, level, compute_bytes, device) * tokens
    return activation_bytes(sizes, level, compute_bytes, device) * tokens + max(head, backward)


def layer_bytes(sizes: ModelSizes, compute_bytes: int, device: str) -> float:
    """Memory of one token in forward and backward pass of one layer, everything that either makes."""
    gradients = 3 * sizes.inner_products // 2 + 3 * sizes.width
    return float((_kept(sizes, "none", device) + gradients) * compute_bytes)


def backward_bytes(sizes: ModelSizes, level: Level, compute_bytes: int, device: str) -> float:
    """Memory of one token for the backward pass of one layer, beside all activations; freed before the next one."""
    return layer_bytes(sizes, compute_bytes, device) - _kept(sizes, level, device) * compute_bytes


def head_bytes(sizes: ModelSizes, device: str, *, softmaxes: int) -> float:
    """Memory of the output head at its peak: a chunk's logits, the output matrix's gradient in float32, and softmaxes.

    `softmaxes` is the number of targets whose objective is on log-probabilities: as many softmaxes as there is room
    for are kept for the backward pass.
    """
    kept = min(KEPT_BYTES[device], 4 * sizes.vocabulary * softmaxes)
    return float(CHUNK_BYTES[device] + 4 * sizes.width * sizes.vocabulary + kept)


def training_flops(sizes: ModelSizes, lengths: Sequence[int]) -> float:
    """Floating point operations of forward and backward pass over documents of these lengths, none recomputed.

    6 · (parameters in matrix products, without input embeddings) a token, and three times what causal attention takes
    in the forward pass.
    """
    return 6.0 * sizes.in_products * sum(lengths) + 3 * _attention(sizes, lengths)


def passes_seconds(
    sizes: ModelSizes,
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
    width, tokens = sizes.width, sum(lengths)
    head = width * sizes.vocabulary
    forward = 2 * (sizes.in_products - head) * tokens + _SLOWER * _attention(sizes, lengths)
    of_layers, of_logits = _ACCESSES[device]
    between = of_layers * sizes.layers * layer_bytes(sizes, compute_bytes, device) * tokens
    in_layers = _PASSES[level] * (forward / rates.flops + between / 3 / rates.traffic)
    in_head = 6 * head * targets / rates.flops + of_logits * 4 * sizes.vocabulary * targets / rates.traffic
    return in_layers + in_head


def optimizer_seconds(sizes: ModelSizes, *, moments: int, shards: int, rates: Rates) -> float:
    """Seconds of one process to clip a step's gradients and to update its weights with `moments` each, in float32."""
    # The norm reads gradients, clipping reads and writes them. The update, one kernel, reads them, and reads and writes
    # weights and moments; that of RMSprop, with one moment, writes gradients back.
    accesses = 3 + 1 + 2 * (1 + moments) + (1 if moments == 1 else 0)
    return 4 * sizes.parameters * accesses / shards / rates.traffic


def _kept(sizes: ModelSizes, level: Level, device: str) -> int:
    """Elements that one layer keeps of one token."""
    width, query, keys, made = sizes.width, sizes.query, sizes.keys, sizes.inner_products
    elements: dict[Level, int] = {
        "none": (7 if device == "cpu" else 4) * width + 2 * query + 2 * keys + 2 * made,
        "selective": 2 * width + 2 * query + keys + made // 2,
        "full": width,
    }
    return elements[level]


def _attention(sizes: ModelSizes, lengths: Sequence[int]) -> float:
    """Operations of causal attention's two products in the forward pass of all layers, over documents of these lengths.

    2 · queries' width · n² of a document of n tokens, half of what full attention would take; of a layer with a window
    of w tokens, as many as there are pairs of tokens that see each other: n² - (n - w)².
    """
    counts = Counter(lengths)
    pairs = 0.0
    for window, layers in sizes.windows.items():
        unseen = {n: max(0, n - window) if window else 0 for n in counts}
        pairs += layers * float(sum(count * (n * n - unseen[n] ** 2) for n, count in counts.items()))
    return 2 * sizes.query * pairs
