"""ORPO (Hong et al. 2024, equation 6): an objective in one file, as `scripts/amberline/objectives/` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from amberline.core.settings import Positive
from amberline.objectives.base import Contribution, MicroBatch, Objective, column_values, count_targets
from amberline.objectives.settings import Training

if TYPE_CHECKING:
    import torch
    from torch import nn

    from amberline.batches.plan import Step

SIDES = ("chosen", "rejected")


class OrpoSettings(Training):
    """Settings of ORPO."""

    strength: Positive = Field(description="weight of the odds ratio")


class Orpo(Objective):
    """Mean −log p of the chosen response's tokens, and λ times −log σ of the log odds ratio; no reference at all."""

    Settings = OrpoSettings
    rows_are = "pairs"

    metrics = ("rewards/accuracies",)  # logged beside the loss
    settings: OrpoSettings

    def sizes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        targets = count_targets(self.tokens, "chosen_labels") + count_targets(self.tokens, "rejected_labels")
        return column_values(self.tokens, "length").astype(np.int64), targets

    def micro_batch(self, examples: Sequence[int], weights: Sequence[float], step: Step) -> MicroBatch:
        import torch

        from amberline.model.packed import PADDING_DOCUMENT, pack

        rows = [self.rows[example] for example in examples]
        # A token's weight is one over the response's tokens: sums over documents are means.
        documents = [
            (row[f"{side}_input_ids"], labels, 1 / max(1, int((labels[1:] != -100).sum())))
            for row in rows
            for side in SIDES
            for labels in [row[f"{side}_labels"]]
        ]
        shares = torch.full((len(rows),), step.share, dtype=torch.float64)
        return MicroBatch(tuple(examples), pack(documents or [PADDING_DOCUMENT, PADDING_DOCUMENT]), {"shares": shares})

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        import torch.nn.functional as F

        chosen, rejected = self._means(model, micro_batch)
        shares = F.pad(micro_batch.columns["shares"], (0, len(chosen) - len(micro_batch.examples)))
        right = (chosen > rejected).double()
        return Contribution((shares * self._losses(chosen, rejected)).sum(), {self.metrics[0]: (shares * right).sum()})

    def example_losses(self, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        return self._losses(*self._means(model, micro_batch))

    def _means(self, model: nn.Module, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        from amberline.model.forward import document_logps, token_logps

        documents = micro_batch.documents
        means = document_logps(token_logps(model, documents) * documents.target_weights, documents)
        return means[0::2], means[1::2]

    def _losses(self, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
        return -chosen - self.settings.strength * F.logsigmoid(odds)


OBJECTIVE = Orpo
