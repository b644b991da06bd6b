"""What `auto` in the hardware settings comes to on this machine, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import psutil
import torch

from amberline.hub.model_names import ModelError
from amberline.model import estimates
from amberline.model.attention import Kind, choose_attention
from amberline.model.checkpointing import Level
from amberline.model.estimates import Accumulated
from amberline.model.sizes import ModelSizes
from amberline.objectives.settings import AdamW, Training
from amberline.recipe.hardware import Hardware
from amberline.training.ranks import Ranks

CPU_TOKENS = 4096
# Beyond this, a GPU's matrix products grow no faster; below the other, they are slow.
MOST_TOKENS, FEWEST_TOKENS = 16384, 4096
# More than anyone would be told to use.
MOST_GPUS = 1024
GIB = 2**30
# Part of a GPU's memory that is planned with; the rest is for fragments and what libraries take.
USABLE = 0.9
# Bytes of a CPU's heap that are free and cannot be used again, for it is fragmented; fitted to measured peaks: for each
# byte of one layer's forward and backward pass, and for each byte of activations. On CUDA torch's allocator avoids it.
IDLE = {"cpu": (3.0, 0.25), "cuda": (0.0, 0.0)}


@dataclass(frozen=True)
class Choices:
    """How a training is laid out on its hardware."""

    attention: Kind
    micro_batch_tokens: int
    activation_checkpointing: Level
    reshard_after_forward: bool
    shards: int  # processes that parameters are sharded over; others hold replicas
    accumulated: Accumulated  # gradients of a step that wait for its last micro-batch
    compile: bool
    notes: tuple[str, ...]  # each choice in a sentence


@dataclass(frozen=True)
class Load:
    """What the steps of a training ask of a process."""

    share: int  # tokens of the largest part of a step that falls to one process
    longest: int  # tokens of the longest example: some micro-batch is at least as large


@dataclass(frozen=True)
class _Layout:
    level: Level
    shards: int
    reshard: bool
    reduce_each: bool  # gradients of each micro-batch, instead of once a step

    def accumulated(self, tokens: int, load: Load) -> Accumulated:
        """What waits for the last of a step's micro-batches of so many tokens."""
        if tokens >= load.share:
            return "nothing"
        return "shards" if self.reduce_each else "whole"


def choose(hardware: Hardware, settings: Training, sizes: ModelSizes, ranks: Ranks, load: Load) -> Choices:
    """Settle every `auto`. Raises ModelError where the model cannot run here, or not in the memory that there is."""
    dtype = getattr(torch, settings.precision)
    attention, why = choose_attention(hardware.attention, ranks.device, dtype, sizes.head_width)
    notes = [f"attention: {attention}, because {why}"]
    if ranks.device.type == "cpu":
        layout = next(_layouts(hardware, ranks.shardings))
        reason = "that is what a CPU takes at once, whose memory is not planned"
        tokens = _asked(hardware) or CPU_TOKENS
    else:
        memory = torch.cuda.get_device_properties(ranks.device).total_memory * USABLE
        layout, tokens = _fit(hardware, settings, sizes, ranks, load, memory)
        reason = f"a step gives a GPU up to {load.share:,} tokens, and {memory / GIB:.0f} GiB of its memory can be used"
    accumulated = layout.accumulated(tokens, load)
    for name, asked, chosen in (
        ("activation_checkpointing", hardware.activation_checkpointing, layout.level),
        ("reshard_after_forward", hardware.reshard_after_forward, layout.reshard),
        ("micro_batch_tokens", hardware.micro_batch_tokens, tokens),
    ):
        notes.append(f"{name}: {chosen}, because {reason if asked == 'auto' else 'the hardware settings say so'}")
    notes += _sharding(layout.shards, ranks)
    if accumulated == "shards":
        notes.append("gradients are reduced after each micro-batch, because whole ones do not fit until the last")
    # A loop over documents breaks the graph, and what is recomputed is compiled whole or not at all.
    lost = hardware.compile and attention == "sdpa" and layout.level != "none"
    if lost:
        notes.append(
            f"compile: off, because layers with attention sdpa and checkpointing {layout.level} do not compile"
        )
    compiled = hardware.compile and not lost
    return Choices(attention, tokens, layout.level, layout.reshard, layout.shards, accumulated, compiled, tuple(notes))


def _asked(hardware: Hardware) -> int | None:
    return None if hardware.micro_batch_tokens == "auto" else hardware.micro_batch_tokens


def _sharding(shards: int, ranks: Ranks) -> list[str]:
    """How parameters are laid over several nodes, and why."""
    if ranks.nodes == 1:
        return []
    if shards < ranks.world:
        return [
            f"parameters: sharded over the {shards} processes of a node and replicated on {ranks.nodes} nodes, because "
            "they fit, and only gradients then go from node to node"
        ]
    why = "a node has one" if ranks.world == ranks.nodes else "sharded over a node they leave too little room"
    return [f"parameters: sharded over all {shards} processes, because {why}"]


def _layouts(hardware: Hardware, shardings: Sequence[int]) -> Iterator[_Layout]:
    """The fastest first: activations kept before recomputed, and then the least traffic, between nodes before others.

    Sharded over one node, gradients are reduced in it, and a node's share of them between nodes, once a step. Of k
    micro-batches, reducing each one's gradients costs k - 1 reductions more, in float32; gathering parameters anew for
    each backward pass costs 2k - 1 gatherings more, in the compute dtype.
    """
    asked, kept = hardware.activation_checkpointing, hardware.reshard_after_forward
    levels: list[Level] = ["none", "selective", "full"] if asked == "auto" else [asked]
    for level in levels:
        for shards, reshard in product(shardings, [False, True] if kept == "auto" else [kept]):
            for reduce_each in [False, True] if shards > 1 else [False]:
                yield _Layout(level, shards, reshard, reduce_each)


def _fit(
    hardware: Hardware, settings: Training, sizes: ModelSizes, ranks: Ranks, load: Load, memory: float
) -> tuple[_Layout, int]:
    """The first layout with room for the tokens that are wanted, or the one with the most room; and its tokens."""
    # A step's share is a micro-batch at most: room beyond it would be of no use.
    most = min(MOST_TOKENS, -(-load.share // 256) * 256)
    asked = _asked(hardware)
    budgets = [asked] if asked else list(range(most, 0, -256))
    wanted = asked or min(most, FEWEST_TOKENS)
    found: tuple[_Layout, int] | None = None
    for layout in _layouts(hardware, ranks.shardings):
        room = next((size for size in budgets if _need(layout, size, settings, sizes, load) <= memory), 0)
        if room > (found[1] if found else 0):
            found = layout, room
        if room >= wanted:
            return layout, room
    if found is None:
        raise ModelError(_refusal(hardware, settings, sizes, ranks.world, load, memory))
    return found


def _need(layout: _Layout, tokens: int, settings: Training, sizes: ModelSizes, load: Load) -> float:
    """Memory of a GPU at the peak, with micro-batches of so many tokens."""
    return estimates.peak_bytes(
        sizes,
        layout.level,
        moments=moments(settings),
        compute_bytes=compute_bytes(settings),
        shards=layout.shards,
        reshard=layout.reshard,
        accumulated=layout.accumulated(tokens, load),
        device="cuda",
        tokens=min(max(tokens, load.longest), load.share),
        softmaxes=0,
    )


def _refusal(hardware: Hardware, settings: Training, sizes: ModelSizes, world: int, load: Load, memory: float) -> str:
    """Why nothing fits, and the nearest change that does."""
    size = _asked(hardware) or 256
    least = min(_need(layout, size, settings, sizes, load) for layout in _layouts(hardware, [world]))
    said = (
        f"the training needs at least {least / GIB:.0f} GiB of memory on each GPU (there are {world}), and "
        f"{memory / GIB:.0f} GiB can be used"
    )
    free = {"micro_batch_tokens": "auto", "activation_checkpointing": "auto", "reshard_after_forward": "auto"}
    automatic = hardware.model_copy(update=free)
    if any(_need(each, 256, settings, sizes, load) <= memory for each in _layouts(automatic, [world])):
        return f"{said}. Fix: set {', '.join(free)} under hardware to auto"
    for more in range(world + 1, MOST_GPUS + 1):
        part = Load(max(load.longest, -(-load.share * world // more)), load.longest)
        if any(_need(each, 256, settings, sizes, part) <= memory for each in _layouts(automatic, [more])):
            return f"{said}. Fix: train on {more} of them or more (nodes and ranks_per_node under hardware)"
    return f"{said}. Fix: train on GPUs with more memory, or a smaller model"


def expected_peak(
    choices: Choices, settings: Training, sizes: ModelSizes, ranks: Ranks, *, tokens: int, softmaxes: int
) -> float:
    """Expected peak in bytes: of the GPU's memory, or resident on a CPU. That includes what the process holds already,
    so call it before the model is loaded.

    For the arguments see `allocated_peak`.
    """
    level, width, device = choices.activation_checkpointing, compute_bytes(settings), ranks.device.type
    for_layer, for_activations = IDLE[device]
    idle = for_layer * estimates.layer_bytes(sizes, width, device)
    idle += for_activations * estimates.activation_bytes(sizes, level, width, device)
    before = psutil.Process().memory_info().rss if device == "cpu" else 0
    allocated = allocated_peak(choices, settings, sizes, ranks, tokens=tokens, softmaxes=softmaxes)
    return before + allocated + idle * tokens


def allocated_peak(
    choices: Choices, settings: Training, sizes: ModelSizes, ranks: Ranks, *, tokens: int, softmaxes: int
) -> float:
    """Bytes of all tensors of a process at its peak.

    `tokens` are those of the largest micro-batch; `softmaxes`, how many of its targets are predicted with the softmax
    kept, none where the objective needs no log-probabilities.
    """
    return estimates.peak_bytes(
        sizes,
        choices.activation_checkpointing,
        moments=moments(settings),
        compute_bytes=compute_bytes(settings),
        shards=choices.shards,
        reshard=choices.reshard_after_forward,
        accumulated=choices.accumulated,
        device=ranks.device.type,
        tokens=tokens,
        softmaxes=softmaxes,
    )


def moments(settings: Training) -> int:
    """Numbers that the optimizer keeps of each parameter."""
    return 2 if isinstance(settings.optimizer, AdamW) else 1


def compute_bytes(settings: Training) -> int:
    """Width of the compute dtype."""
    return 2 if settings.precision == "bfloat16" else 4
