"""Perplexity of conversations: exp of the mean −log p over all their target tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from amberline.evaluations.base import Arithmetic, Evaluation

if TYPE_CHECKING:
    from amberline.recipe.hardware import Hardware
    from amberline.training.ranks import Ranks


class PerplexitySettings(Arithmetic):
    """Settings of perplexity: how log-probabilities are computed."""


class Perplexity(Evaluation):
    """How surprised a model is by the answers of conversations; null where there is no conversation."""

    Settings = PerplexitySettings
    reads = "conversations"
    columns: ClassVar[Mapping[str, str]] = {"perplexity": "perplexity", "perplexity_tokens": "tokens scored"}
    headline = "perplexity"

    settings: PerplexitySettings

    def measure(
        self,
        model: Path,
        data: Path,
        reference: Path | None,  # noqa: ARG002
        hardware: Hardware,
        ranks: Ranks,
    ) -> dict[str, Any]:
        """Perplexity, and the tokens that it is over."""
        from amberline.data.tokens import IGNORED, open_tokens
        from amberline.training.scoring import SEQUENCE, load_frozen, score

        conversations = open_tokens(data)
        targets = sum(sum(label != IGNORED for label in row["labels"][1:]) for row in conversations)
        if not targets:
            return {"perplexity": None, "perplexity_tokens": 0}
        frozen = load_frozen(model, hardware, self.settings.precision, ranks, tf32=self.settings.tf32)
        total = score(frozen, conversations, SEQUENCE).sum()
        return {"perplexity": math.exp(-total / targets), "perplexity_tokens": targets}


EVALUATION = Perplexity
