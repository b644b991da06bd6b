"""How often a model's likeliest token is the target: an evaluation in one file, as `evaluations/` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from amberline.core.settings import PositiveCount, ResultSettings
from amberline.evaluations.base import Evaluation

if TYPE_CHECKING:
    from amberline.recipe.hardware import Hardware
    from amberline.training.ranks import Ranks


class TopOneSettings(ResultSettings):
    """Settings of the accuracy."""

    conversations: PositiveCount = Field(description="conversations to measure on, the first ones")


class TopOne(Evaluation):
    """The part of all target tokens that are the likeliest ones."""

    Settings = TopOneSettings
    reads = "conversations"
    one_process = True
    columns: ClassVar[Mapping[str, str]] = {"top_one": "likeliest token right"}
    headline = "top_one"

    settings: TopOneSettings

    def measure(
        self, model: Path, data: Path, reference: Path | None, hardware: Hardware, ranks: Ranks
    ) -> dict[str, Any]:
        import torch

        from amberline.data.tokens import open_tokens
        from amberline.model.forward import hidden_states
        from amberline.model.load import load_model
        from amberline.model.packed import pack

        network, right, targets = load_model(model, device=ranks.device), 0, 0
        for row in open_tokens(data).with_format("numpy").select(range(self.settings.conversations)):
            batch = pack([(row["input_ids"], row["labels"], 1.0)], whole=True)
            with torch.no_grad():
                likeliest = (hidden_states(network, batch) @ network.lm_head.weight.T).argmax(-1)
            right += int((likeliest[batch.target_positions] == batch.targets).sum())
            targets += len(batch.targets)
        return {"top_one": right / targets}


EVALUATION = TopOne
