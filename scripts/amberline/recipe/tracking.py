"""Where training curves go."""

from typing import Literal

from pydantic import Field

from amberline.core.settings import RuntimeSettings


class Tracking(RuntimeSettings):
    """Where training curves go, besides the metrics files and TensorBoard."""

    wandb_project: str | None = Field(description="Weights & Biases project; null: not used")
    wandb_mode: Literal["online", "offline"] = Field(description="offline: written beside the checkpoints")
