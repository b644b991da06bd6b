"""Settings of `export.py` and of `write_card.py`; the rules fill them in."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from amberline.core.settings import DescriptionSettings, Flag, PositiveCount, ResultSettings

Choice = Annotated[str, Field(pattern="^(last|best|step [1-9][0-9]*)$")]


class Watched(ResultSettings):
    """How a training was evaluated, of which the checkpoint with the least held-out loss is exported."""

    every_examples: PositiveCount = Field(description="training examples between evaluations")
    examples: PositiveCount = Field(description="held-out examples used each time")


class Export(ResultSettings):
    """What determines the exported folder."""

    dtype: Literal["bfloat16", "float32"] = Field(description="dtype of the weights")
    template: str = Field(description="text template that the training used")
    policy: Flag = Field(description="write policy.pt, the DPO reference's format, too")
    export: Choice = Field(description="which checkpoint becomes the model: last, best or step N")
    evaluation: Watched | None = Field(
        description="for best, how the training must have been evaluated on the way; null otherwise"
    )
    training: dict[str, Any] = Field(description="the settings that its training must have been made with")

    @model_validator(mode="after")
    def _best_is_of_evaluations(self) -> Self:
        if (self.export == "best") != (self.evaluation is not None):
            raise ValueError(f"export: {self.export}: evaluation is for best, and best needs it")
        return self


class Exported(ResultSettings):
    """How the finished model is written. It determines the exported model, not the training."""

    export: Choice = Field(
        description="which checkpoint becomes the model: last, best (least held-out loss), or step N"
    )
    export_dtype: Literal["bfloat16", "float32"] = Field(description="dtype of the exported model's weights")


class CardSource(DescriptionSettings):
    """A dataset or model that went into a model, as its card names it."""

    name: str = Field(description="name of the source in the configuration")
    repository: str | None = Field(description="its id on the hub; null: a local copy, of which nothing is claimed")
    revision: str | None = Field(description="commit of that repository")
    file: str | None = Field(description="file inside that repository, or the local file's name")
    licence: str | None = Field(description="licence under which it was published; null: not known")


class CardText(DescriptionSettings):
    """What a model card says beside what the manifests know."""

    name: str = Field(description="name of the model")
    sources: list[CardSource] = Field(description="what went into the model")
    deviations: dict[str, dict[str, Any]] = Field(
        description="keys that differ from the published recipe: {key: {published, here}}"
    )
