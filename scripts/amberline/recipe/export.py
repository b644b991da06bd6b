"""Settings of `export_model.py` and of `write_card.py`; the rules fill them in."""

from typing import Any, Literal

from pydantic import Field

from amberline.core.settings import DescriptionSettings, Flag, ResultSettings


class Export(ResultSettings):
    """What determines the exported folder."""

    dtype: Literal["bfloat16", "float32"] = Field(description="dtype of the weights")
    template: Literal["none", "vicuna"] = Field(description="text template that the training used")
    policy: Flag = Field(description="write policy.pt, the DPO reference's format, too")
    training: dict[str, Any] = Field(description="the settings that its training must have been made with")


class Exported(ResultSettings):
    """How the finished model is written. It determines the exported model, not the training."""

    export: str = Field(
        pattern="^(last|best|step [1-9][0-9]*)$",
        description="which checkpoint becomes the model: last, best (least held-out loss), or step N",
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
