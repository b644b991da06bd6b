"""How an objective is added, with ORPO (Hong et al. 2024, equation 6) as the example. `Orpo` is all there is to it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from alone import train_alone
from torch import nn
from worlds import DPO as RECIPE
from worlds import World, changed, logp

from amberline.batches.plan import Step
from amberline.data.tokens import open_tokens
from amberline.model.forward import document_logps, token_logps
from amberline.model.packed import PADDING_DOCUMENT, pack
from amberline.objectives.base import (
    Contribution,
    MicroBatch,
    Objective,
    column_values,
    count_targets,
)
from amberline.objectives.dpo import DPOSettings
from golden_model import golden_model

SIDES = ("chosen", "rejected")


class Orpo(Objective):
    """Mean −log p of the chosen response's tokens, and λ times −log σ of the log odds ratio; no reference at all."""

    figures = ("rewards/accuracies",)  # logged beside the loss
    strength = 0.1  # λ

    def sizes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        targets = count_targets(self.tokens, "chosen_labels") + count_targets(self.tokens, "rejected_labels")
        return column_values(self.tokens, "length").astype(np.int64), targets

    def micro_batch(self, examples: Sequence[int], weights: Sequence[float], step: Step) -> MicroBatch:
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
        chosen, rejected = self._means(model, micro_batch)
        shares = F.pad(micro_batch.columns["shares"], (0, len(chosen) - len(micro_batch.examples)))  # company: 0
        right = (chosen > rejected).double()
        return Contribution((shares * self._losses(chosen, rejected)).sum(), {self.figures[0]: (shares * right).sum()})

    def example_losses(self, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        return self._losses(*self._means(model, micro_batch))

    def _means(self, model: nn.Module, micro_batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        documents = micro_batch.documents
        means = document_logps(token_logps(model, documents) * documents.target_weights, documents)
        return means[0::2], means[1::2]

    def _losses(self, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
        return -chosen - self.strength * F.logsigmoid(odds)


def test_orpo_learns(world: World, tmp_path: Path) -> None:
    settings = DPOSettings(**changed(RECIPE, learning_rate=1e-3))
    pairs = open_tokens(world.pairs)
    lines, _ = train_alone(tmp_path, world.model, Orpo(settings, pairs), settings, micro_batch_tokens=100)
    first, second = (sum(line["loss"] for line in lines[half]) for half in (slice(0, 5), slice(5, 10)))
    assert second < first
    assert lines[-1]["rewards/accuracies"] > lines[0]["rewards/accuracies"]


def test_orpo_is_its_formula(world: World, tmp_path: Path) -> None:
    settings = DPOSettings(**changed(RECIPE, epochs=1, global_batch=40))
    pairs = open_tokens(world.pairs)
    lines, _ = train_alone(tmp_path, world.model, Orpo(settings, pairs), settings)
    model, expected = golden_model(), 0.0
    for row in pairs:
        mean = {
            side: logp(model, row[f"{side}_input_ids"], row[f"{side}_labels"])
            / sum(label != -100 for label in row[f"{side}_labels"])
            for side in SIDES
        }
        log_odds = {side: value - math.log1p(-math.exp(value)) for side, value in mean.items()}
        ratio = log_odds["chosen"] - log_odds["rejected"]
        expected += (-mean["chosen"] + 0.1 * math.log1p(math.exp(-ratio))) / 40
    assert lines[0]["loss"] == pytest.approx(expected, rel=1e-5)
