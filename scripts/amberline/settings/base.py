"""The kinds of value that a configuration is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Whole numbers are strict: `true` and `"3"` are no counts. Fractions are lax, so that `2e-5`, which YAML 1.1
# reads as the string "2e-5", is understood as the number that was meant.
Count = Annotated[int, Field(strict=True, ge=0)]
PositiveCount = Annotated[int, Field(strict=True, gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Flag = Annotated[bool, Field(strict=True)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Settings(BaseModel):
    """A part of the configuration: closed against unknown keys, and never changed after it was read.

    No field has a default: `config.yaml` is the one place where the published values stand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
