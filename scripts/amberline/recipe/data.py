"""What goes in: the raw files, and how they become conversations, pairs and tokens."""

from typing import Literal

from pydantic import Field, model_validator

from amberline.core.settings import Count, DescriptionSettings, Flag, PositiveCount, ResultSettings, Sha256


class Source(DescriptionSettings):
    """One raw file: where it is, and what it must be. `null` is not checked, and the manifest says so."""

    path: str | None = Field(description="a local copy to use instead of downloading; verified all the same")
    repository: str | None = Field(description="dataset id on the hub")
    revision: str | None = Field(description="commit of that repository")
    file: str | None = Field(description="file inside that repository")
    bytes: Count | None = Field(description="size of the file in bytes")
    sha256: Sha256 | None = Field(description="content of the file")
    rows: Count | None = Field(description="rows in the file")
    licence: str = Field(description="carried into every manifest and model card downstream")

    @model_validator(mode="after")
    def _is_somewhere(self) -> "Source":
        if self.path is None and not (self.repository and self.revision and self.file):
            raise ValueError("say where the file is: either path, or all of repository, revision and file")
        return self


class Sources(DescriptionSettings):
    """The raw files of the recipe."""

    sharegpt: Source = Field(description="ShareGPT conversations, the cleaned and split V3")
    evol_instruct: Source = Field(description="WizardLM evol-instruct V2, one round a row")
    pku_train: Source = Field(description="PKU-SafeRLHF, training rows; v0, for main is v1 since 2024-06")
    pku_test: Source = Field(description="PKU-SafeRLHF, test rows")


class TinyModel(ResultSettings):
    """A small, randomly initialised Llama with a tokenizer of its own, trained on the raw conversations."""

    vocabulary: PositiveCount = Field(description="entries of the tokenizer, byte fallback included")
    hidden_size: PositiveCount = Field(description="width of the residual stream")
    intermediate_size: PositiveCount = Field(description="width of the MLP")
    layers: PositiveCount = Field(description="decoder layers")
    heads: PositiveCount = Field(description="attention heads")
    context: PositiveCount = Field(description="longest position")
    seed: Count = Field(description="seed of the random weights")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TinyModel":
        if self.hidden_size % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden_size ({self.hidden_size})")
        return self


class BaseModelSource(DescriptionSettings):
    """The pretrained model that everything starts from."""

    path: str | None = Field(description="a local Hugging Face folder to use instead of downloading")
    repository: str | None = Field(description="model id on the hub")
    revision: str | None = Field(
        description="commit of that repository; a branch works too, and the manifest records its commit"
    )
    licence: str = Field(description="carried into every model card downstream")
    tiny: TinyModel | None = Field(description="make a small stand-in instead of downloading; null: use the real one")

    @model_validator(mode="after")
    def _is_somewhere(self) -> "BaseModelSource":
        if self.tiny is None and self.path is None and not (self.repository and self.revision):
            raise ValueError("say where the model is: tiny, path, or both repository and revision")
        return self


class Mix(ResultSettings):
    """ShareGPT and evol-instruct, shuffled into one file."""

    seed: Count = Field(description="seed of the shuffle; the published script had none")
    heldout_conversations: Count = Field(
        description="withheld from training to measure perplexity; published: 0, everything is trained on"
    )


class Split(ResultSettings):
    """Long conversations cut into chunks that fit the context."""

    mode: Literal["fastchat", "lossless"] = Field(
        description="fastchat: the published cut, its losses included; lossless: every round that fits is kept"
    )
    max_length: PositiveCount = Field(description="tokens a chunk may have")
    keep_leading_answer: Flag = Field(
        description="lossless only: keep a chunk that begins with the assistant, its first turn as context without loss"
    )


class ConversationTokens(ResultSettings):
    """Chunks in the Vicuna template, with the loss on the assistant's answers alone."""

    mode: Literal["fastchat", "lossless"] = Field(
        description="fastchat: masks a sample whole where FastChat would, and counts it; lossless: trains on it"
    )
    max_length: PositiveCount = Field(description="tokens kept of a chunk")


class SafePairs(ResultSettings):
    """Preference pairs from rows with exactly one safe response."""

    version: Literal["v0", "v1"] = Field(description="columns to expect; published: v0")


class PreferenceTokens(ResultSettings):
    """Prompt and response tokenised apart, as the DPO reference does."""

    template: Literal["none", "vicuna"] = Field(description="none: published, the bare text; vicuna: the chat template")
    max_length: PositiveCount = Field(description="tokens of prompt and response together")
    max_prompt_length: PositiveCount = Field(description="tokens a prompt keeps when the whole is too long")
    truncation: Literal["keep_start", "keep_end"] = Field(description="which end of a long prompt is kept")

    @model_validator(mode="after")
    def _prompt_leaves_room(self) -> "PreferenceTokens":
        if self.max_prompt_length >= self.max_length:
            raise ValueError(
                f"max_prompt_length ({self.max_prompt_length}) must be smaller than max_length ({self.max_length})"
            )
        return self
