"""Rewards of preference pairs: how much more than a reference a model prefers the chosen responses to the rejected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from amberline.core.settings import Count, Positive
from amberline.evaluations.base import Arithmetic, Evaluation, EvaluationError
from amberline.objectives.rewards import ahead, preference_metrics

if TYPE_CHECKING:
    from amberline.recipe.hardware import Hardware
    from amberline.training.ranks import Ranks


class RewardsSettings(Arithmetic):
    """Settings of rewards."""

    pairs: Count = Field(description="test pairs for reward accuracy and margin, the first ones; 0: all")
    beta: Positive = Field(description="strength of the pull towards the reference")


class Rewards(Evaluation):
    """Means over pairs of what preference training logs, and how often the chosen response is the more likely one."""

    Settings = RewardsSettings
    reads = "pairs"
    needs_reference = True
    columns: ClassVar[Mapping[str, str]] = {
        "rewards/accuracies": "reward accuracy",
        "rewards/margins": "reward margin",
        "logps/accuracies": "chosen more likely",
        "pairs": "pairs",
    }
    headline = "rewards/accuracies"
    of_reference: ClassVar[Mapping[str, float]] = {"rewards/accuracies": 0.5, "rewards/margins": 0.0}
    linear_in_beta = ("rewards/margins",)

    settings: RewardsSettings

    def measure(
        self, model: Path, data: Path, reference: Path | None, hardware: Hardware, ranks: Ranks
    ) -> dict[str, Any]:
        """The number of pairs, and the means over them."""
        from amberline.data.tokens import open_tokens
        from amberline.training.scoring import PAIR, load_frozen, score

        assert reference is not None
        rows, scored = open_tokens(data), open_tokens(reference)
        if rows["id"][:] != scored["id"][:]:
            raise EvaluationError(f"{reference} holds scores of other pairs than {data}: delete it and make it again")
        count = min(self.settings.pairs or len(rows), len(rows))
        rows, scored = rows.select(range(count)), scored.select(range(count))
        frozen = load_frozen(model, hardware, self.settings.precision, ranks, tf32=self.settings.tf32)
        kept = np.column_stack([scored["chosen_logp"][:], scored["rejected_logp"][:]])
        return {"pairs": count, **mean_rewards(score(frozen, rows, PAIR), kept, self.settings.beta)}


def mean_rewards(
    logps: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], beta: float
) -> dict[str, float | None]:
    """Means over pairs of `preference_metrics`, from the log-probabilities of chosen and rejected responses, [N, 2].

    They are None where there are no pairs.
    """
    each = preference_metrics(logps[:, 0], logps[:, 1], reference[:, 0], reference[:, 1], beta)
    # Whether the chosen response is the more likely one, without a reference.
    each["logps/accuracies"] = ahead(logps[:, 0] - logps[:, 1])
    return {name: float(np.mean(values)) if len(values) else None for name, values in each.items()}


EVALUATION = Rewards
