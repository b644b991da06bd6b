"""Direct preference optimisation against cached log-probabilities of the reference.

Equation 7 of Rafailov et al. 2023, with label smoothing (conservative DPO), or equation 17 of Azar et al. 2023 (IPO),
both as `preference_loss` of eric-mitchell/direct-preference-optimization has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from amberline.core.settings import Flag, Positive
from amberline.objectives.base import (
    Contribution,
    MicroBatch,
    Objective,
    ObjectiveError,
    column_values,
    count_targets,
)
from amberline.objectives.rewards import preference_metrics
from amberline.objectives.settings import PreferenceMonitors, Training

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import nn

    from amberline.batches.plan import Step

SIDES = ("chosen", "rejected")


class DPOSettings(Training):
    """Settings of direct preference optimisation."""

    monitors: PreferenceMonitors = Field(
        description="rules that watch the curve; a value that is not finite always stops the run"
    )
    loss_normalization: Literal["sum_per_sequence"] = Field(description="how token losses become the loss of a step")
    loss: Literal["sigmoid", "ipo"] = Field(description="sigmoid: DPO; ipo: Azar et al. 2023, equation 17")
    beta: Positive = Field(description="strength of the pull towards the reference")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        description="probability that a preference label is wrong (conservative DPO); 0: none"
    )
    reference_free: Flag = Field(description="take the reference's log-probabilities as equal")


class DPO(Objective):
    """The mean over pairs of −log σ(β · margin), where the margin is how much more than the reference the policy
    prefers the chosen response to the rejected one.
    """

    Settings = DPOSettings
    rows_are = "pairs"
    needs_reference = True

    metrics = (
        *(f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")),
        *(f"logps/{side}" for side in SIDES),
    )
    preferences = True

    settings: DPOSettings

    def __init__(self, settings: DPOSettings, tokens: Dataset, reference: Dataset | None = None) -> None:
        """`reference` has a row for each row of `tokens`. Raises ObjectiveError where it has not."""
        super().__init__(settings, tokens, reference)
        if reference is None or tokens["id"][:] != reference["id"][:]:
            raise ObjectiveError(
                f"the reference's log-probabilities ({len(reference or ())} rows) are not those of these pairs "
                f"({len(tokens)} rows): their ids differ; score the pairs again"
            )
        self._reference = {side: column_values(reference, f"{side}_logp") for side in SIDES}

    def sizes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens [N] and target tokens [N] of every pair, both responses together."""
        counts = [count_targets(self.tokens, f"{side}_labels") for side in SIDES]
        empty = np.flatnonzero(np.minimum(*counts) == 0)
        if len(empty):
            raise ObjectiveError(
                f"{len(empty)} pairs have a response without tokens, the first of them {self.ids(empty[:1])[0]!r}: "
                "there is nothing to prefer in it; make the token stage again"
            )
        return column_values(self.tokens, "length").astype(np.int64), counts[0] + counts[1]

    def micro_batch(self, examples: Sequence[int], weights: Sequence[float], step: Step) -> MicroBatch:  # noqa: ARG002
        """Both sequences of each pair, chosen first, end to end; each sequence is a document."""
        import torch

        from amberline.model.packed import PADDING_DOCUMENT, pack

        rows = [self.rows[int(example)] for example in examples]
        documents = [(row[f"{side}_input_ids"], row[f"{side}_labels"], 1.0) for row in rows for side in SIDES]
        columns = {f"reference_{side}": torch.tensor(self._reference[side][list(examples)]) for side in SIDES}
        columns["shares"] = torch.full((len(rows),), step.share, dtype=torch.float64)
        return MicroBatch(tuple(examples), pack(documents or [PADDING_DOCUMENT, PADDING_DOCUMENT]), columns)

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        """The loss of the pairs' share of the step, and the field's metrics."""
        import torch

        shares = micro_batch.columns["shares"]
        logps = self._logps(model, micro_batch)
        loss = (shares * self._losses(logps, micro_batch)).sum()
        if not micro_batch.examples:
            loss = loss + 0 * logps["all"].sum()
        with torch.no_grad():
            each = preference_metrics(
                logps["chosen"],
                logps["rejected"],
                micro_batch.columns["reference_chosen"],
                micro_batch.columns["reference_rejected"],
                self.settings.beta,
            )
            return Contribution(loss, {name: (shares * values).sum() for name, values in each.items()})

    def example_losses(self, model: nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """Loss of each pair, [E]."""
        return self._losses(self._logps(model, micro_batch), micro_batch)

    def distance_from_reference(self, model: nn.Module, micro_batch: MicroBatch) -> float:
        """The largest |log p − reference log p| of a response, relative to log p: 0 where both are one model."""
        import torch

        logps = self._logps(model, micro_batch)
        apart = [
            (logps[side] - micro_batch.columns[f"reference_{side}"]).abs() / logps[side].abs().clamp(min=1)
            for side in SIDES
        ]
        return float(torch.cat(apart).max()) if micro_batch.examples else 0.0

    def _logps(self, model: nn.Module, micro_batch: MicroBatch) -> dict[str, torch.Tensor]:
        """log p of each response under the policy, [E] float64, by side."""
        from amberline.model.forward import document_logps, token_logps

        documents = document_logps(token_logps(model, micro_batch.documents).double(), micro_batch.documents)
        count = len(micro_batch.examples)
        return {"chosen": documents[0::2][:count], "rejected": documents[1::2][:count], "all": documents}

    def _losses(self, logps: dict[str, torch.Tensor], micro_batch: MicroBatch) -> torch.Tensor:
        import torch.nn.functional as F

        settings = self.settings
        margin = logps["chosen"] - logps["rejected"]
        if not settings.reference_free:
            margin = margin - (micro_batch.columns["reference_chosen"] - micro_batch.columns["reference_rejected"])
        if settings.loss == "ipo":
            return (margin - 1 / (2 * settings.beta)) ** 2
        right, wrong = F.logsigmoid(settings.beta * margin), F.logsigmoid(-settings.beta * margin)
        return -(1 - settings.label_smoothing) * right - settings.label_smoothing * wrong


OBJECTIVE = DPO
