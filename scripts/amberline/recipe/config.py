"""The whole configuration: one closed, typed tree, from which the JSON schema is made.

Stage programs import only the part they need (`settings.data`, `settings.training`), so that a change here
never reruns them.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from amberline.core.settings import HardwareSettings, PositiveCount, ResultSettings, RuntimeSettings
from amberline.objectives.dpo import DPOSettings
from amberline.objectives.sft import SFTSettings
from amberline.recipe.data import (
    BaseModelSource,
    ConversationTokens,
    Mix,
    PreferenceTokens,
    SafePairs,
    Sources,
    Split,
)
from amberline.recipe.evaluation import Evaluation
from amberline.recipe.export import Exported
from amberline.recipe.hardware import Hardware
from amberline.recipe.tracking import Tracking

# Part of the names of folders.
VariantName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$")]


class ChatStage(SFTSettings, Exported):
    """AmberChat's training, and how its model is written."""


class PreferredStage(SFTSettings, Exported):
    """The supervised finetune on preferred responses, and how its model is written."""


class DPOStage(DPOSettings, Exported):
    """Direct preference optimisation, and how its model is written."""


class AmberChat(ResultSettings):
    """The chat model."""

    mix: Mix = Field(description="ShareGPT and evol-instruct, shuffled into evol-mix.json")
    split: Split = Field(description="long conversations cut into chunks: evol-mix-split.json")
    tokens: ConversationTokens = Field(description="chunks as token ids and labels")
    training: ChatStage = Field(description="the finetune")


class AmberSafe(ResultSettings):
    """The safety-aligned model."""

    pairs: SafePairs = Field(description="preference pairs from PKU-SafeRLHF")
    tokens: PreferenceTokens = Field(description="pairs as token ids and labels")
    sft: PreferredStage = Field(description="supervised finetune on the preferred responses")
    dpo: DPOStage = Field(description="direct preference optimisation, from the supervised model")
    variants: dict[VariantName, dict[str, Any]] = Field(
        description="further DPO trainings beside it: {name: the keys of dpo that differ}, as in {mild: {beta: 0.5}}"
    )

    @model_validator(mode="after")
    def _variants_are_valid(self) -> "AmberSafe":
        if "sft" in self.variants:
            raise ValueError("variants.sft: models/ambersafe-sft is the supervised model's; choose another name")
        for name in self.variants:
            try:
                variant = self.variant(name)
                if (variant.precision, variant.tf32) != (self.dpo.precision, self.dpo.tf32):
                    raise ValueError(
                        f"variants.{name}: precision and tf32 must be those of dpo, because all variants share the "
                        "reference's log-probabilities. Fix: set them under dpo"
                    )
            except ValidationError as error:
                raise ValueError("; ".join(f"variants.{name}.{fault}" for fault in explain(error))) from None
        return self

    def variant(self, name: str) -> DPOStage:
        """The settings of a variant: those of dpo, but for the keys that it names. Raises ValidationError."""
        return DPOStage.model_validate(_merged(self.dpo.model_dump(), self.variants[name]))


def _merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested values with others on top, as Snakemake merges configuration files."""
    merged = dict(values)
    for key, value in over.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


class StageHardware(HardwareSettings):
    """Machines of each training stage."""

    amberchat: Hardware = Field(description="the AmberChat finetune")
    sft: Hardware = Field(description="AmberSafe's supervised finetune")
    reference: Hardware = Field(description="one pass of the reference model over all pairs")
    dpo: Hardware = Field(description="AmberSafe's preference optimisation")
    evaluation: Hardware = Field(description="held-out evaluation of the models")


class DataHardware(HardwareSettings):
    """Machine of the data stages."""

    processes: PositiveCount = Field(description="processes that share the work of a data stage")
    memory_gb: PositiveCount = Field(description="main memory of a data stage")
    hours: PositiveCount = Field(description="time limit of a data stage")


class Config(RuntimeSettings):
    """Everything that `config.yaml` and its overlays may say."""

    results: str = Field(description="folder of everything that is made")
    environment: Literal["cpu", "gpu"] = Field(description="the lock in envs/ that the rules run under")
    stale: Literal["ask", "retrain", "keep"] = Field(
        description="finished trainings whose code or packages have changed: ask stops and lists them; keep records it"
    )
    sources: Sources = Field(description="the raw files, and what they must be")
    base_model: BaseModelSource = Field(description="the pretrained model that AmberChat starts from")
    amberchat: AmberChat = Field(description="from conversations to the chat model")
    ambersafe: AmberSafe = Field(description="from preferences to the safety-aligned model")
    evaluation: Evaluation = Field(description="held-out figures of the finished models")
    hardware: StageHardware = Field(description="machines and layout of each training stage; never changes a result")
    data_hardware: DataHardware = Field(description="machine of the data stages")
    tracking: Tracking = Field(description="where training curves go")


def explain(error: ValidationError) -> list[str]:
    """One line for each fault: the key, what was found there, and what is allowed."""
    lines = []
    for fault in error.errors():
        # Names of union members are in pydantic's location, but not in the file.
        path = ".".join(str(part) for part in fault["loc"] if part not in {"adamw", "rmsprop", "cosine", "constant"})
        where = path or "configuration"
        match fault["type"]:
            case "extra_forbidden":
                lines.append(f"{where}: unknown key (found {fault['input']!r})")
            case "missing":
                lines.append(f"{where}: missing; config.yaml has its published value")
            case "value_error":
                lines.append(f"{where}: {fault['ctx']['error']}")
            case _:
                lines.append(f"{where}: found {fault['input']!r}; {fault['msg'][0].lower()}{fault['msg'][1:]}")
    return lines


def schema() -> dict[str, Any]:
    """JSON schema of the configuration, for editors and for `docs/config.schema.json`."""
    return Config.model_json_schema()
