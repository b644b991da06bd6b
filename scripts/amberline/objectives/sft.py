"""Supervised finetuning: cross entropy on the target tokens of conversations, or of responses to prompts.

With `loss_normalization: sum_per_sequence` this is `sft` of eric-mitchell/direct-preference-optimization: −log p of the
whole response, averaged over the examples of a batch, which also logs the mean log p as logps/chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amberline.objectives.base import Contribution, MicroBatch, Objective
from amberline.objectives.settings import Training

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn

    from amberline.batches.plan import Step


class SFTSettings(Training):
    """Settings of supervised finetuning: those that all objectives share."""


class SFT(Objective):
    """−Σ weight · log p over the target tokens; the weights say which mean it is."""

    Settings = SFTSettings
    rows_are = "sequences"

    def __init__(self, settings: SFTSettings, tokens: Dataset, reference: Dataset | None = None) -> None:
        super().__init__(settings, tokens, reference)
        # Only sums of whole sequences are log-probabilities of something.
        self.log_probabilities = settings.loss_normalization == "sum_per_sequence"
        self.metrics = ("logps/chosen",) if self.log_probabilities else ()

    def micro_batch(self, examples: Sequence[int], weights: Sequence[float], step: Step) -> MicroBatch:
        """Examples end to end; each is a document."""
        import torch

        from amberline.model.packed import PADDING_DOCUMENT, pack

        rows = [self.rows[int(example)] for example in examples]
        documents = [(row["input_ids"], row["labels"], weight) for row, weight in zip(rows, weights, strict=True)]
        shares = torch.full((len(rows),), step.share, dtype=torch.float64)
        return MicroBatch(tuple(examples), pack(documents or [PADDING_DOCUMENT]), {"shares": shares})

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        """The weighted loss, and for sums the mean log-probability of a sequence."""
        from amberline.model.forward import document_logps, token_logps, weighted_loss

        if not self.log_probabilities:
            return Contribution(weighted_loss(model, micro_batch.documents))
        logps = token_logps(model, micro_batch.documents)
        loss = -(micro_batch.documents.target_weights * logps).sum()
        sequences = document_logps(logps.detach(), micro_batch.documents)[: len(micro_batch.examples)]
        return Contribution(loss, {"logps/chosen": (micro_batch.columns["shares"] * sequences).sum()})

    def example_losses(self, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """−log p of each example's targets, [E]."""
        from amberline.model.forward import document_logps, token_logps

        return -document_logps(token_logps(model, micro_batch.documents), micro_batch.documents)


OBJECTIVE = SFT
