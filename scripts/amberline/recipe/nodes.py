"""The nodes of a recipe: sources, datasets, models and evaluations, each kind a closed type.

A node's kind is told by one of its keys (`mix`, `chunk`, `pretrained` …). What a training may say depends on its
objective and on what it learns from: its type is put together from the objective's settings and those of its tokens.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator

from amberline.core.settings import Count, Kind, PositiveCount, ResultSettings, Settings
from amberline.evaluations.registry import evaluation_names, load_evaluation
from amberline.objectives.registry import load_objective
from amberline.recipe.data import LOSS_ON, LossOn, PairTokens, PartOfRows, Pretrained, Repeats, Share, TinyModel
from amberline.recipe.data import Chunk as ChunkSettings
from amberline.recipe.export import Exported

NODE_NAME = "^[a-z0-9][a-z0-9_.-]*$"
NAME_RULE = "a name has small letters, digits and _ . - alone, and begins with a letter or a digit"

Name = str  # of a node; that there is one is checked with the edges
Names = Annotated[list[Name], Field(min_length=1)]
Title = Annotated[str | None, Kind.DESCRIPTION]

MASKS = (
    "fastchat: masks a sample whole where FastChat would, and counts it; lossless: trains on it; null: as its dataset "
    "(lossless if that is whole)"
)
TITLE = "name in its card and in the report; null: that of the node"


class Mix(ResultSettings):
    """Conversations of several sources, shuffled into one file, some of them withheld from training."""

    mix: Names = Field(description="sources of conversations that are shuffled into one file")
    seed: Count = Field(description="seed of the shuffle; the published script had none")
    heldout: Count = Field(
        description="conversations withheld from training to measure perplexity; published: 0, all are trained on"
    )
    take: dict[Name, PositiveCount | None] = Field(
        description="rows taken at most of a source, by its name; of others, and where it is null, all"
    )
    fraction: dict[Name, PartOfRows | None] = Field(
        description="part of the rows taken of a source, by its name; of others, and where it is null, all"
    )
    repeat: dict[Name, Repeats | None] = Field(
        description="how often each row of a source stands in the mix, by its name; of others, and if null, once"
    )

    @field_validator("take", "fraction", "repeat")
    @classmethod
    def _null_says_nothing(cls, by_source: dict[Name, Any]) -> dict[Name, Any]:
        """An overlay takes back with null what a file below says of a source."""
        return {name: value for name, value in by_source.items() if value is not None}

    def share(self, source: Name) -> Share:
        """How much of a source is taken."""
        repeat = self.repeat.get(source) or 1
        return Share(take=self.take.get(source), fraction=self.fraction.get(source), repeat=repeat)


# Keys of a mix that say something by source.
SHARES = ("take", "fraction", "repeat")


class Chunk(ChunkSettings):
    """Long conversations cut into chunks that fit the context."""

    chunk: Name = Field(description="dataset of conversations whose long ones are cut into chunks")
    tokenizer: Name = Field(description="model whose tokenizer counts the tokens")


class Split(ResultSettings):
    """Sources of preference pairs, by what they are for."""

    train: Name | Names = Field(description="source of the rows that are trained on; or several, as a list")
    test: Name | Names = Field(description="source of the rows that are measured on; or several, as a list")

    def sources(self, part: str) -> list[Name]:
        """The sources of the train or the test split."""
        named = getattr(self, part)
        return [named] if isinstance(named, str) else list(named)


class Pairs(ResultSettings):
    """Preference pairs of a train and a test split."""

    pairs: Split = Field(description="preference pairs, and where their rows come from")
    select: Literal["exactly_one_safe", "chosen"] = Field(
        description="which rows give a pair; exactly_one_safe: the safe response is preferred to the unsafe one; "
        "chosen: every row, which says itself which response is preferred"
    )


class PretrainedModel(Pretrained):
    """A model that was trained elsewhere."""

    title: Title = Field(description=TITLE)


class TinyStandIn(ResultSettings):
    """A small, randomly initialised stand-in for a pretrained model."""

    title: Title = Field(description=TITLE)
    tiny: TinyModel = Field(description="make a small stand-in of these sizes")
    texts: Names = Field(description="sources of conversations that its tokenizer is trained on")


class TrainedModel(Exported):
    """A model that is trained here; the settings of its objective and of its tokens come on top."""

    title: Title = Field(description=TITLE)
    train: str = Field(description="objective: a file of scripts/amberline/objectives")
    from_: Name = Field(alias="from", description="model that training starts from")
    on: Name = Field(description="dataset that is trained on")


class OfConversations(ResultSettings):
    """How a model reads conversations."""

    template: str = Field(description="chat template: a file of scripts/amberline/templates")
    loss_on: LossOn = Field(description=LOSS_ON)
    mode: Literal["fastchat", "lossless"] | None = Field(description=MASKS)


class LikeTrained(ResultSettings):
    """How conversations are read that models are measured on."""

    template: str | None = Field(description="chat template; null: that of the model that is trained on its chunks")
    loss_on: LossOn | None = Field(description="which tokens are scored; null: those that such a model learns")
    mode: Literal["fastchat", "lossless"] | None = Field(description=MASKS)


class OfResponses(PairTokens):
    """How a model reads prompts with one response."""

    responses: Literal["chosen"] = Field(description="which response of a pair is learnt")


class OfPairs(PairTokens):
    """How a model reads pairs."""


class Evaluation(ResultSettings):
    """What all evaluations share."""

    models: Literal["all"] | Names = Field(
        description="models that are measured, as a list; all: every one that can be"
    )


class AgainstReference(ResultSettings):
    """Of evaluations that need the log-probabilities of another model."""

    reference: Name = Field(description="model whose log-probabilities the rewards are relative to")


DATASETS: dict[str, type[Settings]] = {"mix": Mix, "chunk": Chunk, "pairs": Pairs}
MODELS: dict[str, type[Settings]] = {"pretrained": PretrainedModel, "tiny": TinyStandIn}


@cache
def trained_model(objective: str, holds: str) -> type[TrainedModel]:
    """The type of a model that is trained with an objective on "conversations" or "preferences". Raises KeyError."""
    trains = load_objective(objective)
    if trains.rows_are == "pairs":
        tokens: type[Settings] = OfPairs
    else:
        tokens = OfConversations if holds == "conversations" else OfResponses
    return _put_together(f"{objective} on {holds}", (trains.Settings, tokens, TrainedModel))


@cache
def evaluation_node(name: str) -> type[Evaluation]:
    """The type of an evaluation. Raises KeyError."""
    found = load_evaluation(name)
    bases: list[type[Settings]] = [found.Settings, Evaluation]
    bases += [AgainstReference] if found.needs_reference else []
    bases += [LikeTrained] if found.reads == "conversations" else []
    return _put_together(
        f"evaluation {name}", tuple(bases), **{name: (Name, Field(description="dataset that is measured on"))}
    )


def kind_of_evaluation(node: Evaluation) -> str:
    """The name of an evaluation's kind."""
    return next(kind for kind in evaluation_names() if kind in type(node).model_fields)


def chunks_of(datasets: Mapping[str, Any], mix: str) -> list[str]:
    """Names of the datasets that cut the conversations of a mix."""
    return [name for name, each in datasets.items() if isinstance(each, Chunk) and each.chunk == mix]


def _put_together(name: str, bases: tuple[type[Settings], ...], **fields: Any) -> type[Any]:
    """A type with the fields of several."""
    return create_model(name, __base__=bases, __module__=__name__, **fields)
