"""The layout: how the examples of one step are laid over processes and micro-batches.

It decides how fast a step is and how much memory it takes, never what it computes.
"""

import heapq
from collections.abc import Iterable, Sequence


def lay_out(lengths: Sequence[int], budget: int, ranks: int) -> list[list[list[int]]]:
    """Distribute a step's examples over `ranks` processes, in micro-batches of at most `budget` tokens.

    `lengths` are the tokens of the step's examples. Returns, for each rank, its micro-batches; each is a list of
    positions in `lengths`, ascending. All ranks get the same number of micro-batches, because each of them is a round
    of collective operations; where there are more ranks than examples, some micro-batches are empty. An example
    longer than the budget is a micro-batch of its own.

    The partition depends on the number of micro-batches alone, not on how many ranks share them. So where that number
    is equal, the micro-batches are, too.
    """
    examples = len(lengths)
    fitting = [length for length in lengths if length <= budget]
    least = examples - len(fitting) - (-sum(fitting) // budget)
    batches = _round_up(max(1, least), ranks)
    while True:
        bins = _balance(lengths, batches)
        fits = all(len(each) <= 1 or sum(lengths[position] for position in each) <= budget for each in bins)
        if fits or batches >= examples:
            break
        batches += ranks
    # Longest first, dealt in rounds: the micro-batches that ranks compute at the same time are nearly equal. Every
    # other round is dealt backwards, so that no rank always gets the longest.
    bins.sort(key=lambda each: (-sum(lengths[position] for position in each), each))
    rounds = [bins[start : start + ranks] for start in range(0, batches, ranks)]
    return [
        [sorted(each[rank] if number % 2 == 0 else each[-1 - rank]) for number, each in enumerate(rounds)]
        for rank in range(ranks)
    ]


def largest_share(steps: Iterable[Sequence[int]], ranks: int) -> int:
    """Tokens of the largest part of a step that falls to one process, over steps of these examples' tokens.

    With a budget of so many, every step is one micro-batch on each process.
    """
    return max(max(sum(lengths[each] for each in part) for part in _balance(lengths, ranks)) for lengths in steps)


def _balance(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Longest first, each into the bin that holds the fewest tokens: within 4/3 of the best possible (Graham 1969)."""
    heap = [(0, number) for number in range(bins)]
    contents: list[list[int]] = [[] for _ in range(bins)]
    for position in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        tokens, number = heapq.heappop(heap)
        contents[number].append(position)
        heapq.heappush(heap, (tokens + lengths[position], number))
    return contents


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
