"""What reaches a training program but never changes its weights; the rules fill it in."""

from typing import Any, Literal

from pydantic import Field

from amberline.core.settings import RuntimeSettings
from amberline.recipe.export import Choice
from amberline.recipe.tracking import Tracking


class TrainingRuntime(RuntimeSettings):
    """Settings of what a training keeps, watches and tells on the way."""

    training: dict[str, Any] = Field(
        description="checkpoints, evaluation and monitors, as under the training's settings"
    )
    tracking: Tracking = Field(description="where curves go, as under tracking in config.yaml")
    exports: list[Choice] = Field(
        min_length=1, description="which checkpoints are kept to become models: last, best or step N"
    )
    stale: Literal["ask", "retrain", "keep"] = Field(
        description="what becomes of a finished run that was made with other code or packages"
    )
