"""What goes in: raw files and pretrained models, and how rows become conversations, pairs and tokens."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from amberline.core.files import expanded
from amberline.core.settings import Count, DescriptionSettings, Flag, PositiveCount, ResultSettings, Sha256
from amberline.recipe.tiny_models import ARCHITECTURES, TOKENIZERS

Repeats = Annotated[int, Field(strict=True, ge=1, le=1000)]
PartOfRows = Annotated[float, Field(gt=0, le=1)]
LossOn = Literal["answers", "all", "last_answer"]
LOSS_ON = (
    "which tokens are learnt: those of the answers, with the end of each; all: questions and template, too; "
    "last_answer: those of a conversation's last answer"
)


class Source(DescriptionSettings):
    """Raw rows: where they are, and what they must be. What has no sha256 is held to what `sources.lock` says."""

    format: str = Field(description="how its rows are read: a file of scripts/amberline/formats")
    path: str | None = Field(
        description="a local copy to use instead of downloading; verified all the same; with files, a folder"
    )
    repository: str | None = Field(description="dataset id on the hub")
    revision: str | None = Field(description="commit of that repository")
    file: str | None = Field(description="file inside that repository")
    files: str | None = Field(
        description="several files inside that repository or folder, as a pattern, read in sorted order as one; "
        "null: one file"
    )
    bytes: Count | None = Field(description="size of the file in bytes")
    sha256: Sha256 | None = Field(description="content of the file")
    rows: Count | None = Field(description="rows in the file")
    licence: str | None = Field(description="carried into every model card downstream; null: not known")

    @model_validator(mode="after")
    def _is_somewhere(self) -> "Source":
        if self.path is None and not (self.repository and self.revision and (self.file or self.files)):
            raise ValueError("say where the file is: either path, or all of repository, revision and file (or files)")
        if self.path is None and self.file and self.files:
            raise ValueError("it has both file and files: set one of them to null")
        parts = (self.files or "").split("/")
        if self.files is not None and (not all(parts) or {".", ".."} & set(parts) or "**" in self.files):
            raise ValueError(f"files is {self.files!r}: write paths inside the folder, such as data/train-*.parquet")
        if self.files and (self.bytes is not None or self.sha256 is not None):
            raise ValueError(
                "bytes and sha256 are of one file: set them to null where files names several (sources.lock has theirs)"
            )
        return self


class Pretrained(DescriptionSettings):
    """A model that others made, from the hub or from a local folder."""

    pretrained: str = Field(
        description="its id on the hub, or a local Hugging Face folder, which begins with /, ./, ../ or ~"
    )
    revision: str | None = Field(
        description="commit of that id; a branch works too, and the manifest records its commit; null: a local folder"
    )
    licence: str | None = Field(description="carried into every model card downstream; null: not known")
    trust_remote_code: Flag = Field(
        description="run the Python files of that folder, for a model whose code is not in transformers"
    )

    @property
    def folder(self) -> Path | None:
        """The local folder; None: the model is on the hub."""
        if self.pretrained.startswith(("/", "./", "../", "~")):
            return expanded(self.pretrained)
        return None

    @model_validator(mode="after")
    def _has_a_revision(self) -> "Pretrained":
        if self.folder is None and not self.revision:
            raise ValueError(
                f"say which revision of {self.pretrained!r} on the hub to take: its commit (if it is a local folder, "
                f"write ./{self.pretrained})"
            )
        if self.folder is None and self.trust_remote_code and not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                "trust_remote_code needs a commit as revision, for the code of a branch may change after it was read. "
                "Fix: set revision to the commit (40 hexadecimal digits)"
            )
        return self


class TinyModel(ResultSettings):
    """A small, randomly initialised model with a tokenizer of its own, trained on the raw conversations."""

    architecture: str = Field(description="kind of model: llama, llama3, mistral, qwen3 or olmo2")
    tokenizer: Literal["llama", "llama3", "qwen", "olmo"] | None = Field(
        description="kind of its tokenizer: llama, SentencePiece; llama3, qwen or olmo, byte-level BPE; null: that of "
        "its architecture"
    )
    vocabulary: PositiveCount = Field(
        description="entries of the tokenizer, byte fallback included; of a byte-level one at most"
    )
    hidden_size: PositiveCount = Field(description="width of the residual stream")
    intermediate_size: PositiveCount = Field(description="width of the MLP")
    layers: PositiveCount = Field(description="decoder layers")
    heads: PositiveCount = Field(description="attention heads")
    context: PositiveCount = Field(description="longest position")
    seed: Count = Field(description="seed of the random weights")

    @property
    def tokenizer_kind(self) -> str:
        """The kind of its tokenizer."""
        return self.tokenizer or TOKENIZERS[self.architecture]

    @field_validator("architecture")
    @classmethod
    def _is_known(cls, architecture: str) -> str:
        if architecture not in ARCHITECTURES:
            raise ValueError(f"use one of {', '.join(ARCHITECTURES)}")
        return architecture

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TinyModel":
        if self.hidden_size % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden_size ({self.hidden_size})")
        if self.hidden_size // self.heads % 2:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) divided by heads ({self.heads}) must be even, for rotary positions"
            )
        return self


class Tiny(ResultSettings):
    """Settings of `make_tiny_model.py`; the rules fill it in."""

    tiny: TinyModel = Field(description="sizes of the model")
    formats: list[str] = Field(
        min_length=1, description="formats of the conversations that its tokenizer is trained on, in order"
    )


class Share(ResultSettings):
    """How much of a source goes into a mix."""

    take: PositiveCount | None = Field(description="rows that are taken at most; null: all")
    fraction: PartOfRows | None = Field(description="part of the rows that is taken; null: all")
    repeat: Repeats = Field(description="how often each row stands in the mix; held-out rows never stand in it")


class Mix(ResultSettings):
    """Settings of `mix.py`; the rules fill it in."""

    seed: Count = Field(description="seed of the shuffle; the published script had none")
    heldout: Count = Field(
        description="conversations withheld from training to measure perplexity; published: 0, all are trained on"
    )
    formats: list[str] = Field(min_length=1, description="formats of the sources, in their order")
    shares: list[Share] = Field(description="how much of each source, in their order")

    @model_validator(mode="after")
    def _a_share_for_each(self) -> "Mix":
        if len(self.shares) != len(self.formats):
            raise ValueError(
                f"there are {len(self.formats)} formats, but {len(self.shares)} shares: give each source one"
            )
        return self


class Chunk(ResultSettings):
    """Long conversations cut into chunks that fit the context."""

    mode: Literal["fastchat", "lossless", "whole"] = Field(
        description="fastchat: the published cut, its losses included; lossless: every round that fits is kept; "
        "whole: each conversation is one chunk, whose end is cut when it is tokenized"
    )
    template: str = Field(
        description="template that lossless counts the tokens of: that of the models that are trained on it"
    )
    max_length: PositiveCount = Field(description="tokens a chunk may have")
    keep_leading_answer: Flag = Field(
        description="lossless only: keep a chunk that begins with the assistant, its first turn as context without loss"
    )

    @model_validator(mode="after")
    def _lossless_alone_keeps_answers(self) -> "Chunk":
        if self.keep_leading_answer and self.mode != "lossless":
            raise ValueError("keep_leading_answer works with mode: lossless alone; set it to false")
        if self.mode == "fastchat" and self.template != "vicuna":
            raise ValueError("mode: fastchat cuts for the template vicuna alone; set mode to lossless or whole")
        return self


class ConversationTokens(ResultSettings):
    """Chunks in a chat template, with the loss on the assistant's answers, or on more or less."""

    template: str = Field(description="chat template: a file of scripts/amberline/templates")
    loss_on: LossOn = Field(description=LOSS_ON)
    mode: Literal["fastchat", "lossless"] = Field(
        description="fastchat: masks a sample whole where FastChat would, and counts it; lossless: trains on it"
    )
    max_length: PositiveCount = Field(description="tokens kept of a chunk")

    @model_validator(mode="after")
    def _fastchat_is_for_vicuna(self) -> "ConversationTokens":
        if self.mode == "fastchat" and (self.template != "vicuna" or self.loss_on != "answers"):
            raise ValueError("mode: fastchat is for template: vicuna with loss_on: answers; set mode to lossless")
        return self


class Pairs(ResultSettings):
    """Preference pairs chosen from rows of a prompt with two responses."""

    select: Literal["exactly_one_safe", "chosen"] = Field(
        description="which rows give a pair; exactly_one_safe: the safe response is preferred to the unsafe one; "
        "chosen: every row, which says itself which response is preferred"
    )
    formats: list[str] = Field(min_length=1, description="formats of the sources, in their order")


class PairTokens(ResultSettings):
    """Prompt and response tokenized apart, as the DPO reference does."""

    template: str = Field(
        description="none: published, the bare text; or a chat template, a file of scripts/amberline/templates"
    )
    max_length: PositiveCount = Field(description="tokens of prompt and response together")
    max_prompt_length: PositiveCount = Field(description="tokens a prompt keeps when the whole is too long")
    truncation: Literal["keep_start", "keep_end"] = Field(description="which end of a long prompt is kept")
    empty_responses: Literal["keep", "reject"] = Field(
        description="keep: published, the end of sequence alone is learnt (a template has no such answer); reject: lost"
    )

    @model_validator(mode="after")
    def _prompt_leaves_room(self) -> "PairTokens":
        if self.max_prompt_length >= self.max_length:
            raise ValueError(
                f"max_prompt_length ({self.max_prompt_length}) must be smaller than max_length ({self.max_length})"
            )
        return self


class PreferenceTokens(PairTokens):
    """Settings of `tokenize_pairs.py`; the rules fill it in."""

    responses: Literal["chosen"] | None = Field(
        description="chosen: a row for every prompt's target, for supervised finetuning; null: a row for every pair"
    )
