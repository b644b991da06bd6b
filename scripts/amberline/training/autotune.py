"""What `auto` in the hardware settings comes to on this machine, and why."""

from dataclasses import dataclass

import psutil
import torch
from transformers import LlamaConfig

from amberline.model import estimates
from amberline.model.attention import Kind, choose_attention
from amberline.model.checkpointing import Level
from amberline.objectives.settings import AdamW, Training
from amberline.recipe.hardware import Hardware
from amberline.training.ranks import Ranks

CPU_TOKENS = 4096
# Beyond this, a GPU's matrix products grow no faster; below the other, they are slow.
MOST_TOKENS, FEWEST_TOKENS = 16384, 4096
# Part of a GPU's memory that is planned with; the rest is for fragments and what libraries take.
USABLE = 0.9
# Bytes that lie idle in a CPU's heap, fitted to measured peaks: for each byte that one layer makes in forward and
# backward pass, and for each byte of activations. glibc seldom puts a tensor into the hole that another one left;
# CUDA's memory is torch's to place.
IDLE = {"cpu": (3.0, 0.25), "cuda": (0.0, 0.0)}


@dataclass(frozen=True)
class Choices:
    """How a training is laid out on its hardware."""

    attention: Kind
    micro_batch_tokens: int
    activation_checkpointing: Level
    reshard_after_forward: bool
    notes: tuple[str, ...]  # each choice in a sentence


def choose(hardware: Hardware, settings: Training, config: LlamaConfig, ranks: Ranks) -> Choices:
    """Settle every `auto`."""
    attention, why = choose_attention(hardware.attention, ranks.device, getattr(torch, settings.precision), config)
    notes = [f"attention: {attention}, because {why}"]
    level, reshard, tokens, reason = _fit(hardware, settings, config, ranks)
    for name, asked, chosen in (
        ("activation_checkpointing", hardware.activation_checkpointing, level),
        ("reshard_after_forward", hardware.reshard_after_forward, reshard),
        ("micro_batch_tokens", hardware.micro_batch_tokens, tokens),
    ):
        notes.append(f"{name}: {chosen}, because {reason if asked == 'auto' else 'the hardware settings say so'}")
    return Choices(attention, tokens, level, reshard, tuple(notes))


def _fit(hardware: Hardware, settings: Training, config: LlamaConfig, ranks: Ranks) -> tuple[Level, bool, int, str]:
    """The fastest of the layouts that fit: activations kept before recomputed, parameters kept before gathered anew."""
    asked, kept = hardware.activation_checkpointing, hardware.reshard_after_forward
    levels: list[Level] = ["none", "selective", "full"] if asked == "auto" else [asked]
    reshards = [False, True] if kept == "auto" else [kept]
    fixed = None if hardware.micro_batch_tokens == "auto" else hardware.micro_batch_tokens
    if ranks.device.type == "cpu":
        return levels[0], reshards[0], fixed or CPU_TOKENS, "main memory is plentiful on the CPU"
    memory = torch.cuda.get_device_properties(ranks.device).total_memory * USABLE
    for level in levels:
        for reshard in reshards:
            left = memory - state_bytes(settings, config, ranks.world, reshard)
            room = _most_tokens(left, level, config, compute_bytes(settings))
            if room >= (fixed or FEWEST_TOKENS):
                break
        else:
            continue
        break
    tokens = fixed or max(256, min(MOST_TOKENS, room))
    reason = f"about {max(0, left) / 2**30:.0f} GiB a GPU are left for activations and the output head"
    return level, reshard, tokens, reason


def _most_tokens(memory: float, level: Level, config: LlamaConfig, compute_bytes: int) -> int:
    """Tokens of a micro-batch that fits a GPU's memory, in 256s: `estimates.working_bytes` the other way round."""
    kept = estimates.activation_bytes(config, level, compute_bytes)
    at_the_head = (memory - estimates.head_bytes(config, "cuda", softmaxes=0)) / kept
    in_a_layer = memory / (kept + estimates.backward_bytes(config, level, compute_bytes))
    return int(min(at_the_head, in_a_layer)) // 256 * 256


def expected_peak(
    choices: Choices, settings: Training, config: LlamaConfig, ranks: Ranks, *, tokens: int, softmaxes: int
) -> float:
    """Bytes of memory that a process will take at its peak: of the GPU, or resident in main memory, where this counts
    what the process holds already, before the model is loaded.

    For the arguments see `allocated_peak`.
    """
    level, width, device = choices.activation_checkpointing, compute_bytes(settings), ranks.device.type
    for_layer, for_activations = IDLE[device]
    idle = for_layer * estimates.layer_bytes(config, width)
    idle += for_activations * estimates.activation_bytes(config, level, width)
    before = psutil.Process().memory_info().rss if device == "cpu" else 0
    allocated = allocated_peak(choices, settings, config, ranks, tokens=tokens, softmaxes=softmaxes)
    return before + allocated + idle * tokens


def allocated_peak(
    choices: Choices, settings: Training, config: LlamaConfig, ranks: Ranks, *, tokens: int, softmaxes: int
) -> float:
    """Bytes of all tensors of a process at its peak, in the backward pass of a step's last micro-batch.

    `tokens` are those of the largest micro-batch; `softmaxes`, how many of its targets are predicted with the softmax
    kept, none where the objective needs no log-probabilities.
    """
    level, width = choices.activation_checkpointing, compute_bytes(settings)
    # A single process that computes in float32 is not sharded: its parameters are what it computes with.
    copies = ranks.world > 1 or settings.precision == "bfloat16"
    state = state_bytes(settings, config, ranks.world, choices.reshard_after_forward or not copies)
    return state + estimates.working_bytes(config, level, width, ranks.device.type, tokens=tokens, softmaxes=softmaxes)


def state_bytes(settings: Training, config: LlamaConfig, world: int, reshard: bool) -> float:
    """Memory of one process apart from activations."""
    return estimates.state_bytes(
        config, moments=moments(settings), compute_bytes=compute_bytes(settings), ranks=world, reshard=reshard
    )


def moments(settings: Training) -> int:
    """Numbers that the optimizer keeps of each parameter."""
    return 2 if isinstance(settings.optimizer, AdamW) else 1


def compute_bytes(settings: Training) -> int:
    """Width of the compute dtype."""
    return 2 if settings.precision == "bfloat16" else 4
