"""What a Llama needs before it is run: parameters, bytes of memory, operations and time.

Activations are counted from the tensors that one decoder layer keeps for its backward pass, in multiples of
width d, keys' width k and MLP width f:

    none       the layer's input, both norms' inputs and results, query, key, value, attention's result twice (each
               document's and all together), the first residual sum, and four of the MLP: 9d + 2k + 4f
    selective  the layer's input, attention's result, every second matrix product (query, value, gate, down): 4d + k + f
    full       the layer's input: d

The backward pass of a layer needs, for a moment, the gradients of its MLP beside: 3f + 3d; where the layer is
recomputed, also what is computed again. Before it, the output head needs a chunk of logits and its matrix's gradient.

Time is that of matrix products and, after it, that of what all other operations read and write, each at the rate that
the device reaches. What it costs to start an operation is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import LlamaConfig

from amberline.model.attention import head_width
from amberline.model.checkpointing import Level
from amberline.model.logps import CHUNK_BYTES, KEPT_BYTES

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


def state_bytes(config: LlamaConfig, *, moments: int, compute_bytes: int, ranks: int, reshard: bool) -> float:
    """Memory of one process apart from activations: weights, gradients and `moments` of the optimizer, in float32.

    `compute_bytes` is the width of the compute dtype: gathered parameters are in it.
    """
    count = parameters(config)[0]
    sharded = 4 * count * (2 + moments) / ranks
    gathered = 0 if reshard else compute_bytes * count
    accumulated = 4 * count * (1 - 1 / ranks)  # gradients of a step's micro-batches, until they are reduced
    return sharded + gathered + accumulated


def activation_bytes(config: LlamaConfig, level: Level, compute_bytes: int) -> float:
    """Memory of one token's activations in all layers."""
    return float(_kept(config, level) * config.num_hidden_layers * compute_bytes)


def working_bytes(
    config: LlamaConfig, level: Level, compute_bytes: int, device: str, *, tokens: int, softmaxes: int
) -> float:
    """Memory of one micro-batch at the peak of its passes: all activations, with the head's or one layer's on top.

    `softmaxes`: see `head_bytes`.
    """
    head = head_bytes(config, device, softmaxes=softmaxes)
    backward = backward_bytes(config, level, compute_bytes) * tokens
    return activation_bytes(config, level, compute_bytes) * tokens + max(head, backward)


def layer_bytes(config: LlamaConfig, compute_bytes: int) -> float:
    """Memory of one token in forward and backward pass of one layer, everything that either makes."""
    gradients = 3 * config.intermediate_size + 3 * config.hidden_size
    return float((_kept(config, "none") + gradients) * compute_bytes)


def backward_bytes(config: LlamaConfig, level: Level, compute_bytes: int) -> float:
    """Memory of one token for the backward pass of one layer, beside all activations; freed before the next one."""
    return layer_bytes(config, compute_bytes) - _kept(config, level) * compute_bytes


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
    between = of_layers * config.num_hidden_layers * layer_bytes(config, compute_bytes) * tokens
    in_layers = _PASSES[level] * (forward / rates.flops + between / 3 / rates.traffic)
    in_head = 6 * head * targets / rates.flops + of_logits * 4 * config.vocab_size * targets / rates.traffic
    return in_layers + in_head


def optimizer_seconds(config: LlamaConfig, *, moments: int, ranks: int, rates: Rates) -> float:
    """Seconds of one process to clip a step's gradients and to update its weights with `moments` each, in float32."""
    # The norm reads gradients, clipping reads and writes them, the update reads them; and reads and writes the rest.
    accesses = 4 + 2 * (1 + moments)
    return 4 * parameters(config)[0] * accesses / ranks / rates.traffic


def _kept(config: LlamaConfig, level: Level) -> int:
    """Elements that one layer keeps of one token."""
    width, keys, inner = config.hidden_size, _keys(config), config.intermediate_size
    elements: dict[Level, int] = {
        "none": 9 * width + 2 * keys + 4 * inner,
        "selective": 4 * width + keys + inner,
        "full": width,
    }
    return elements[level]


def _query(config: LlamaConfig) -> int:
    return head_width(config) * config.num_attention_heads


def _keys(config: LlamaConfig) -> int:
    return head_width(config) * (config.num_key_value_heads or config.num_attention_heads)
