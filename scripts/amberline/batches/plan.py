"""The batch plan: which examples make up optimizer step s, and how much each of their target tokens weighs.

A pure function of the data's sizes and the settings. It knows nothing of processes, micro-batches or memory, so none
of them can change what a step computes: the loss of a step is the sum over its target tokens of weight × -log p.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Normalization = Literal["token_mean", "mean_of_micro_batch_means", "sum_per_sequence"]


class PlanError(Exception):
    """No sound plan can be made from these examples and settings."""


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    examples: Integers  # [E] rows of the token folder, in the order of the epoch
    weights: Floats  # [E] weight of each target token of that example
    targets: int  # target tokens of the step

    @property
    def share(self) -> float:
        """Weight of one example in a mean over the step's examples."""
        return 1 / len(self.examples)


@dataclass(frozen=True)
class BatchPlan:
    """All steps of a run. Steps are counted from 0."""

    lengths: Integers  # [N] tokens of each example
    targets: Integers  # [N] target tokens of each example
    orders: Integers  # [epochs, N] the examples in the order of each epoch
    global_batch: int
    partial_batch: Literal["keep", "drop"]
    loss_normalization: Normalization
    micro_batch_examples: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        examples = len(self.lengths)
        return examples // self.global_batch if self.partial_batch == "drop" else -(-examples // self.global_batch)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps_per_epoch * len(self.orders)

    def examples(self, step: int) -> Integers:
        """The examples of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.global_batch
        return self.orders[epoch, start : start + self.global_batch]

    def step(self, step: int) -> Step:
        """The examples of a step and the weight of their targets."""
        examples = self.examples(step)
        targets = self.targets[examples]
        weights = target_weights(targets, self.loss_normalization, self.micro_batch_examples)
        return Step(examples, weights, int(targets.sum()))

    def examples_before(self, step: int) -> int:
        """Training examples that have passed when a step begins."""
        epoch, position = divmod(step, self.steps_per_epoch)
        in_epoch = min(self.steps_per_epoch * self.global_batch, len(self.lengths))
        return epoch * in_epoch + position * self.global_batch

    def evaluation_due(self, step: int, every_examples: int) -> bool:
        """Whether held-out data is evaluated before this step.

        The reference DPO trainer's cadence: before the first step, then each time `every_examples` have passed, a
        number that is first rounded down to a multiple of the global batch. 0: never.
        """
        if every_examples == 0:
            return False
        every = max(self.global_batch, every_examples - every_examples % self.global_batch)
        return step == 0 or self.examples_before(step) // every > self.examples_before(step - 1) // every

    @cached_property
    def digest(self) -> str:
        """sha256 of all that the plan says: sizes, orders, and how weights follow from them."""
        rules = (self.global_batch, self.partial_batch, self.loss_normalization, self.micro_batch_examples)
        digest = hashlib.sha256(repr(rules).encode())
        for array in (self.lengths, self.targets, self.orders):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return digest.hexdigest()


def plan_batches(
    lengths: Sequence[int] | npt.NDArray[Any],
    targets: Sequence[int] | npt.NDArray[Any],
    *,
    seed: int,
    epochs: int,
    global_batch: int,
    partial_batch: Literal["keep", "drop"],
    loss_normalization: Normalization,
    micro_batch_examples: int,
    orders: Sequence[Sequence[int]] | None = None,
) -> BatchPlan:
    """Plan a run over N examples with `lengths` tokens and `targets` target tokens each.

    `orders`, one for each epoch, replaces the seeded shuffles. Raises PlanError when there is nothing to train on:
    no examples, fewer than a batch where partial batches are dropped, or a step without a single target token.
    """
    sizes, counts = np.asarray(lengths, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    shuffles = [shuffle(len(sizes), seed, epoch) for epoch in range(epochs)] if orders is None else orders
    plan = BatchPlan(
        sizes,
        counts,
        np.asarray(shuffles, dtype=np.int64).reshape(epochs, -1),
        global_batch,
        partial_batch,
        loss_normalization,
        micro_batch_examples,
    )
    if plan.steps == 0:
        raise PlanError(
            f"there are {len(sizes)} examples, too few for one step of {global_batch}: lower global_batch, "
            "or set partial_batch to keep"
        )
    for step in range(plan.steps):
        if not counts[plan.examples(step)].any():
            raise PlanError(
                f"step {step + 1} has nothing to learn from: none of its {len(plan.examples(step))} examples (rows "
                f"{', '.join(map(str, plan.examples(step)[:8]))}) has a token with loss; look at the rejects and "
                "counts of the token stage, or raise global_batch"
            )
    return plan


def shuffle(examples: int, seed: int, epoch: int) -> Integers:
    """The order of an epoch: a permutation of 0 … examples - 1.

    Sorted by keys from Philox, whose raw stream numpy promises never to change; there is no such promise for
    `Generator.permutation`.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(examples)
    return np.argsort(keys, kind="stable").astype(np.int64)


def target_weights(targets: Integers, normalization: Normalization, micro_batch_examples: int) -> Floats:
    """Weight of each example's target tokens in the loss of a step whose examples have so many targets.

    token_mean: one mean over all target tokens of the step. mean_of_micro_batch_means: the mean, over consecutive
    groups of `micro_batch_examples`, of each group's token mean, as the Hugging Face Trainer accumulated before
    version 4.46; a group without targets, whose mean would be 0/0, is left out and not counted. sum_per_sequence:
    the sum over each example's tokens, averaged over examples, those without targets included.
    """
    examples = len(targets)
    match normalization:
        case "token_mean":
            return np.full(examples, 1 / targets.sum())
        case "sum_per_sequence":
            return np.full(examples, 1 / examples)
        case "mean_of_micro_batch_means":
            group = np.arange(examples) // micro_batch_examples
            in_group = np.bincount(group, weights=targets)
            weight_of_group = 1 / (np.count_nonzero(in_group) * np.maximum(in_group, 1))
            weights: Floats = weight_of_group[group]
            return weights


def warmup_steps(steps: int, warmup_ratio: float) -> int:
    """Steps that warm up, rounded as the Hugging Face Trainer does."""
    return math.ceil(steps * warmup_ratio)
