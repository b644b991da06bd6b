"""AmberChat: cross entropy on the assistant's answers."""

from collections.abc import Sequence

import torch
from torch import nn

from amberline.batches.plan import Step
from amberline.model.forward import document_logps, token_logps, weighted_loss
from amberline.model.packed import PADDING_DOCUMENT, pack
from amberline.training.objectives.base import Contribution, MicroBatch, Objective


class Chat(Objective):
    """−Σ weight · log p over the target tokens of conversations; the weights say which mean it is."""

    log_probabilities = False

    def micro_batch(self, examples: Sequence[int], weights: Sequence[float], step: Step) -> MicroBatch:  # noqa: ARG002
        """Conversations end to end; each is a document."""
        rows = [self.rows[int(example)] for example in examples]
        documents = [(row["input_ids"], row["labels"], weight) for row, weight in zip(rows, weights, strict=True)]
        return MicroBatch(tuple(examples), pack(documents or [PADDING_DOCUMENT]))

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        """The weighted loss."""
        return Contribution(weighted_loss(model, micro_batch.documents))

    def example_losses(self, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """−log p of each conversation's targets, [E]."""
        return -document_logps(token_logps(model, micro_batch.documents), micro_batch.documents)
