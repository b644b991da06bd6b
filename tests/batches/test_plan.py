"""The batch plan: a pure function, and the published rules."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amberline.batches.plan import BatchPlan, PlanError, plan_batches, shuffle, target_weights, warmup_steps


def plan(targets: list[int], **changes: object) -> BatchPlan:
    chosen: dict = {
        "seed": 7,
        "epochs": 2,
        "global_batch": 4,
        "partial_batch": "keep",
        "loss_normalization": "token_mean",
        "micro_batch_examples": 2,
    }
    return plan_batches([count + 3 for count in targets], targets, **(chosen | changes))


def test_each_epoch_has_every_example_once_in_another_order() -> None:
    made = plan(list(range(1, 12)))
    epochs = [[int(each) for step in range(3 * e, 3 * e + 3) for each in made.step(step).examples] for e in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(11))] * 2
    assert epochs[0] != epochs[1]
    assert [len(made.examples(step)) for step in range(made.steps)] == [4, 4, 3, 4, 4, 3]


def test_dropped_partial_batches_are_dropped_in_every_epoch() -> None:
    made = plan(list(range(1, 12)), partial_batch="drop")
    assert [len(made.examples(step)) for step in range(made.steps)] == [4, 4, 4, 4]
    assert [made.examples_before(step) for step in range(5)] == [0, 4, 8, 12, 16]


def test_examples_before_counts_a_kept_partial_batch() -> None:
    made = plan(list(range(1, 12)))
    assert [made.examples_before(step) for step in range(7)] == [0, 4, 8, 11, 15, 19, 22]


def test_orders_can_be_given() -> None:
    made = plan([1, 2, 3, 4, 5], orders=[[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
    assert made.step(0).examples.tolist() == [4, 3, 2, 1]
    assert made.step(3).examples.tolist() == [4]


def test_the_order_never_changes() -> None:
    # Pinned: a change would make every interrupted run continue with other batches than it began with.
    assert shuffle(10, seed=42, epoch=0).tolist() == [7, 1, 6, 4, 3, 5, 9, 0, 2, 8]
    assert sorted(shuffle(1000, 1, 2).tolist()) == list(range(1000))


def test_shuffles_of_seeds_and_epochs_differ() -> None:
    orders = {tuple(shuffle(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_token_mean() -> None:
    assert target_weights(np.array([3, 5, 0, 2]), "token_mean", 1).tolist() == [0.1] * 4


def test_sum_per_sequence() -> None:
    assert target_weights(np.array([3, 5, 0, 2]), "sum_per_sequence", 1).tolist() == [0.25] * 4


def test_mean_of_micro_batch_means() -> None:
    weights = target_weights(np.array([3, 5, 4, 0, 2]), "mean_of_micro_batch_means", 2)
    assert weights == pytest.approx([1 / 24, 1 / 24, 1 / 12, 1 / 12, 1 / 6])


def test_a_group_without_targets_is_not_counted() -> None:
    weights = target_weights(np.array([3, 5, 0, 0, 2]), "mean_of_micro_batch_means", 2)
    assert weights[[0, 1, 4]] == pytest.approx([1 / 16, 1 / 16, 1 / 4])
    assert np.isfinite(weights).all()


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any), st.integers(1, 7))
def test_weights_of_a_mean_sum_to_one(targets: list[int], group: int) -> None:
    counts = np.array(targets)
    for normalization in ("token_mean", "mean_of_micro_batch_means"):
        assert math.isclose((target_weights(counts, normalization, group) * counts).sum(), 1)


def test_a_step_without_targets_is_refused_and_named() -> None:
    with pytest.raises(PlanError, match=r"step 2 has nothing to learn from.*rows 2, 3"):
        plan([1, 1, 0, 0], global_batch=2, epochs=1, orders=[[0, 1, 2, 3]])


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(PlanError, match="too few for one step of 4"):
        plan([1, 2, 3], partial_batch="drop")
    with pytest.raises(PlanError, match="there are 0 examples"):
        plan([])


def test_the_digest_tells_plans_apart() -> None:
    targets = list(range(1, 12))
    assert plan(targets).digest == plan(targets).digest
    others = [
        plan(targets, seed=8),
        plan(targets, epochs=3),
        plan(targets, global_batch=5),
        plan(targets, partial_batch="drop"),
        plan(targets, loss_normalization="sum_per_sequence"),
        plan(targets, micro_batch_examples=4),
        plan([2, *targets[1:]]),
        plan(targets[:-1]),
    ]
    assert len({each.digest for each in [plan(targets), *others]}) == len(others) + 1


def test_warmup_is_rounded_up() -> None:
    # 3 epochs of ceil(206,000 / 256) = 805 steps, a ratio of 0.04: 96.6.
    assert warmup_steps(2415, 0.04) == 97
    assert warmup_steps(100, 0.04) == 4
    assert warmup_steps(100, 0.0) == 0


def test_published_evaluation_cadence() -> None:
    """64 a batch: 20,000 is rounded down to 19,968 = 312 steps, as the reference trainer does."""
    made = plan([1] * 64 * 1000, global_batch=64, partial_batch="drop", loss_normalization="sum_per_sequence")
    due = [step for step in range(made.steps) if made.evaluation_due(step, 20_000)]
    assert due == list(range(0, 2000, 312))
    assert not any(made.evaluation_due(step, 0) for step in range(10))


def test_evaluation_with_partial_batches() -> None:
    made = plan([1] * 11, epochs=3)  # examples before each step: 0 4 8 11 15 19 22 26 30
    assert [step for step in range(made.steps) if made.evaluation_due(step, 8)] == [0, 2, 5, 7]
    assert [step for step in range(made.steps) if made.evaluation_due(step, 1)] == [0, 1, 2, 4, 5, 6, 7, 8]
