"""The kinds of value that a configuration is made of."""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, ClassVar

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


class Kind(Enum):
    """What a setting can change, and so what has to run again when it is changed."""

    RESULT = "result"  # the bytes that come out: part of the identity of what is made
    RUNTIME = "runtime"  # what is seen or kept on the way: takes effect on a run that is continued
    HARDWARE = "hardware"  # where and how something runs
    DESCRIPTION = "description"  # what is said of the data, and where a copy of it is


class Settings(BaseModel):
    """A part of the configuration: closed against unknown keys, and never changed after it was read.

    Each part is of one kind; a part or a field inside it may be of another (`Annotated[str, Kind.DESCRIPTION]`). No
    field has a default: `config.yaml` is the one place where the published values stand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    kind: ClassVar[Kind]

    def of(self, *kinds: Kind, without: type["Settings"] | None = None) -> dict[str, Any]:
        """The settings of these kinds, as JSON values; without the keys of `without`, a base class, if it is given."""
        chosen: dict[str, Any] = {}
        left_out = without.model_fields if without else {}
        for name, field in type(self).model_fields.items():
            value, key = getattr(self, name), field.alias or name
            if name in left_out:
                continue
            if isinstance(value, Settings):
                if inner := value.of(*kinds):
                    chosen[key] = inner
            elif isinstance(value, list) and value and isinstance(value[0], Settings):
                chosen[key] = [each.of(*kinds) for each in value]
            elif next((each for each in field.metadata if isinstance(each, Kind)), self.kind) in kinds:
                chosen[key] = value
        return chosen


class ResultSettings(Settings):
    """Settings that change the bytes that come out."""

    kind = Kind.RESULT


class RuntimeSettings(Settings):
    """Settings of what is seen or kept on the way."""

    kind = Kind.RUNTIME


class HardwareSettings(Settings):
    """Settings of where and how something runs."""

    kind = Kind.HARDWARE


class DescriptionSettings(Settings):
    """What is said of the data, and where a copy of it is."""

    kind = Kind.DESCRIPTION


def leaves(values: Mapping[str, Any], *, inner: bool = False, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and the value of every leaf of a nested mapping; with `inner`, of every inner node too."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if inner:
                yield path, value
            yield from leaves(value, inner=inner, prefix=f"{path}.")
        else:
            yield path, value
