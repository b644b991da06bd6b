"""AmberSafe, first half: cross entropy on the preferred response of each prompt.

The reference trainer's loss (`sft` in eric-mitchell/direct-preference-optimization): −log p of the whole response,
averaged over the examples of a batch. It logs the same number, negated, as logps/chosen.
"""

from collections.abc import Sequence

import torch
from torch import nn

from amberline.batches.plan import Step
from amberline.model.forward import document_logps, token_logps
from amberline.model.packed import PADDING_DOCUMENT, pack
from amberline.training.objectives.base import Contribution, MicroBatch, Objective


class Preferred(Objective):
    """−Σ weight · log p over the tokens of preferred responses."""

    figures = ("logps/chosen",)

    def micro_batch(self, examples: Sequence[int], weights: Sequence[float], step: Step) -> MicroBatch:
        """Prompt and response end to end; each such pair is a document."""
        rows = [self.rows[int(example)] for example in examples]
        documents = [(row["input_ids"], row["labels"], weight) for row, weight in zip(rows, weights, strict=True)]
        shares = torch.full((len(rows),), step.share, dtype=torch.float64)
        return MicroBatch(tuple(examples), pack(documents or [PADDING_DOCUMENT]), {"shares": shares})

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        """The weighted loss, and the mean log-probability of a response."""
        logps = token_logps(model, micro_batch.documents)
        loss = -(micro_batch.documents.target_weights * logps).sum()
        responses = document_logps(logps.detach(), micro_batch.documents)[: len(micro_batch.examples)]
        return Contribution(loss, {"logps/chosen": (micro_batch.columns["shares"] * responses).sum()})

    def example_losses(self, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """−log p of each response, [E]."""
        return -document_logps(token_logps(model, micro_batch.documents), micro_batch.documents)
