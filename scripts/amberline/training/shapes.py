"""Whether all micro-batches of a training get one shape, so that what is compiled for it fits all of them.

With one shape, compiled kernels are static, and each micro-batch takes the memory of the last one again. The price is
padding: micro-batches come in multiples of the number of processes, so they are seldom full.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amberline.batches.layout import lay_out

# Padding beyond this part of all tokens costs more than one shape gains: some 3%, of which segments that can grow
# (PYTORCH_ALLOC_CONF, see launch.py) have brought a part already.
MOST_PADDING = 0.02


@dataclass(frozen=True)
class Shape:
    """That of every micro-batch of a training."""

    tokens: int
    longest: int  # tokens of the longest document


def settle_shape(
    steps: Iterable[Sequence[int]], heldout: Sequence[int], budget: int, ranks: int
) -> tuple[Shape | None, str]:
    """The shape to pad all micro-batches to, or None where that costs too much; and why, for the log.

    `steps` are the tokens of the examples of each step, and `heldout` those of the examples that are evaluated on,
    whose micro-batches have the same shape. An example counts as one document.
    """
    sizes, longest = [], 0
    for lengths in steps:
        sizes += _sizes(lengths, budget, ranks)
        longest = max(longest, *lengths)
    largest = max(sizes + (_sizes(heldout, budget, ranks) if heldout else []))
    padding = largest * len(sizes) / sum(sizes) - 1
    told = f"padding every micro-batch to {largest:,} tokens adds {padding:.1%}"
    if padding > MOST_PADDING:
        return None, f"compiled for micro-batches of any size, because {told}, and up to {MOST_PADDING:.0%} would pay"
    return Shape(largest, max(longest, *heldout, 0)), f"compiled for micro-batches of one size, because {told}"


def _sizes(lengths: Sequence[int], budget: int, ranks: int) -> list[int]:
    """Tokens of all micro-batches of a step."""
    return [sum(lengths[each] for each in part) for of_rank in lay_out(lengths, budget, ranks) for part in of_rank]
