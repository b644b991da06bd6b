"""What an exported model is called and carries with it."""

from typing import Any, Literal

from pydantic import Field

from amberline.settings.base import Flag, Settings


class Export(Settings):
    """Settings of `export_model.py`; the rules fill it in."""

    name: str = Field(description="name of the model, for its card")
    dtype: Literal["bfloat16", "float32"] = Field(description="dtype of the weights")
    template: Literal["none", "vicuna"] = Field(description="text template that the training used")
    policy: Flag = Field(description="write policy.pt, the DPO reference's format, too")
    deviations: dict[str, dict[str, Any]] = Field(
        description="keys that differ from the published recipe: {key: {published, here}}"
    )
