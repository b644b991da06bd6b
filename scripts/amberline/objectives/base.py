"""What an objective is: how rows become micro-batches, and what a micro-batch adds to the loss of its step.

To add an objective, write a file like `sft.py` in this folder: its settings, a subclass of `Objective`, and the line
`OBJECTIVE = …` that names it. The loop, the plan and the checkpoints need not know about it. Files of this folder are
read with the recipe, at every `snakemake -n`, so torch is imported where it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from amberline.objectives.settings import Training

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset
    from torch import nn

    from amberline.batches.plan import Step
    from amberline.model.packed import PackedBatch


class ObjectiveError(Exception):
    """The data cannot be trained on with this objective."""


@dataclass(frozen=True)
class MicroBatch:
    """What a process computes at once: some examples of a step, packed."""

    examples: tuple[int, ...]  # rows of the token folder; empty on ranks without data in this micro-batch
    documents: PackedBatch
    columns: Mapping[str, torch.Tensor] = field(default_factory=dict)  # what else the objective needs, [E] each

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on another device."""
        columns = {name: column.to(device, non_blocking=True) for name, column in self.columns.items()}
        return MicroBatch(self.examples, self.documents.to(device), columns)

    def padded(self, tokens: int, longest: int) -> MicroBatch:
        """The same micro-batch of so many tokens: see `PackedBatch.padded`."""
        return replace(self, documents=self.documents.padded(tokens, longest))

    def pinned(self) -> MicroBatch:
        """The same micro-batch in memory that a GPU reads by itself: the host need not wait for the copy."""
        columns = {name: column.pin_memory() for name, column in self.columns.items()}
        return MicroBatch(self.examples, self.documents.pinned(), columns)


@dataclass(frozen=True)
class Contribution:
    """What a micro-batch adds. Summed over all micro-batches of all processes, these are the metrics of the step."""

    loss: torch.Tensor  # scalar with a graph behind it
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)  # scalars, by the names they are logged under


class Objective(ABC):
    """A loss over a token folder."""

    Settings: ClassVar[type[Training]]  # the settings of a training with this objective
    rows_are: ClassVar[Literal["sequences", "pairs"]]  # what rows of the token folder hold
    needs_reference: ClassVar[bool] = False  # whether it needs the log-probabilities of a reference model

    metrics: tuple[str, ...] = ()  # names of what is logged besides `loss`
    log_probabilities = True  # whether the loss is made of log-probabilities, which keep their softmax
    preferences = False  # whether metrics include rewards/accuracies and rewards/margins, which monitors may watch

    def __init__(self, settings: Training, tokens: Dataset, reference: Dataset | None = None) -> None:
        """`reference` has the log-probabilities of the rows of `tokens`, for objectives that need them."""
        self.settings = settings
        self.tokens = tokens
        self.reference = reference
        self.rows = tokens.with_format("numpy")

    def ids(self, examples: Iterable[int]) -> list[str]:
        """Ids of examples, for messages."""
        return [self.tokens[int(example)]["id"] for example in examples]

    def sizes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens [N] and target tokens [N] of every example."""
        return column_values(self.tokens, "length").astype(np.int64), count_targets(self.tokens, "labels")

    @abstractmethod
    def micro_batch(self, examples: Sequence[int], weights: Sequence[float], step: Step) -> MicroBatch:
        """Pack examples of a step, given the weight of their target tokens. No examples: the cheapest micro-batch."""

    @abstractmethod
    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        """Run the model. An empty micro-batch adds zeros, but runs the model all the same: sharded processes must."""

    @abstractmethod
    def example_losses(self, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """Loss of each example by itself, [E], to find the one that is not finite. Called without gradients."""

    def distance_from_reference(self, model: nn.Module, micro_batch: MicroBatch) -> float | None:  # noqa: ARG002
        """How far model and reference are apart, relative to their log-probabilities; None without a reference."""
        return None


def count_targets(dataset: Dataset, column: str) -> npt.NDArray[np.int64]:
    """Target tokens of every row, [N]: labels that are not ignored, the first position (never predicted) aside."""
    from amberline.data.tokens import IGNORED

    counts = []
    for chunk in _chunks(dataset, column):
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        scored = chunk.flatten().to_numpy(zero_copy_only=False) != IGNORED
        ends = np.cumsum(lengths)
        starts = ends - lengths
        scored[starts[lengths > 0]] = False
        running = np.concatenate([[0], np.cumsum(scored)])
        counts.append(running[ends] - running[starts])
    return np.concatenate(counts).astype(np.int64) if counts else np.empty(0, dtype=np.int64)


def column_values(dataset: Dataset, column: str) -> npt.NDArray[Any]:
    """A column of plain numbers as one array, [N]."""
    return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in _chunks(dataset, column)])


def _chunks(dataset: Dataset, column: str) -> list[pa.Array]:
    chunks: list[pa.Array] = dataset.with_format("arrow").data.column(column).chunks
    return chunks
