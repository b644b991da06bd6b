"""The layout: nothing lost, nothing over the budget, nobody idle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amberline.batches.layout import largest_share, lay_out


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 2000), st.integers(1, 9))
def test_invariants(lengths: list[int], budget: int, ranks: int) -> None:
    laid = lay_out(lengths, budget, ranks)
    assert len(laid) == ranks
    assert len({len(micro_batches) for micro_batches in laid}) == 1
    everything = [batch for micro_batches in laid for batch in micro_batches]
    assert sorted(position for batch in everything for position in batch) == list(range(len(lengths)))
    for batch in everything:
        assert len(batch) <= 1 or sum(lengths[position] for position in batch) <= budget
    assert laid == lay_out(lengths, budget, ranks)
    if ranks == 1:
        assert all(everything)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=4, max_size=60), st.integers(100, 2000))
def test_equal_numbers_of_micro_batches_are_equal_micro_batches(lengths: list[int], budget: int) -> None:
    alone, two = lay_out(lengths, budget, 1), lay_out(lengths, budget, 2)
    if len(alone[0]) == 2 * len(two[0]):
        assert sorted(alone[0]) == sorted(two[0] + two[1])


def test_a_long_example_stands_alone() -> None:
    assert lay_out([5, 900, 5, 5], 100, 1) == [[[1], [0, 2, 3]]]


def test_more_ranks_than_examples() -> None:
    laid = lay_out([7, 3], 100, 4)
    assert sorted(laid) == [[[]], [[]], [[0]], [[1]]]


@pytest.mark.parametrize(
    ("examples", "ranks", "budget", "low", "high"),
    [(256, 8, 16_384, 20, 2048), (256, 16, 8_192, 20, 2048), (64, 8, 8_192, 20, 512), (32, 2, 4_096, 60, 300)],
)
def test_ranks_compute_equally_long(examples: int, ranks: int, budget: int, low: int, high: int) -> None:
    """What all wait for is the longest micro-batch of each round: over published batches, less than 3% is lost."""
    rng = np.random.default_rng(0)
    spent = used = 0
    for _ in range(50):
        lengths = np.exp(rng.uniform(np.log(low), np.log(high), examples)).astype(int).tolist()
        sums = np.array(
            [[sum(lengths[p] for p in batch) for batch in rank] for rank in lay_out(lengths, budget, ranks)]
        )
        spent += sums.max(axis=0).sum() * ranks
        used += sums.sum()
    assert spent / used < 1.03


def test_micro_batches_are_as_few_as_can_be() -> None:
    """Tokens fill at least nine tenths of the micro-batches that a step has to have."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(20, 2048, 256).tolist()
    batches = sum(len(rank) for rank in lay_out(lengths, 16_384, 1))
    assert sum(lengths) / (batches * 16_384) > 0.9


def test_with_the_largest_share_as_budget_every_step_is_one_micro_batch() -> None:
    rng = np.random.default_rng(5)
    steps = [rng.integers(1, 500, 32).tolist() for _ in range(50)]
    share = largest_share(steps, 8)
    laid = [lay_out(lengths, share, 8) for lengths in steps]
    assert all(len(micro_batches) == 1 for step in laid for micro_batches in step)
    assert any(len(lay_out(lengths, share - 1, 8)[0]) > 1 for lengths in steps)
