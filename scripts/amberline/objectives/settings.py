"""Settings that all objectives share: what determines the weights, and what is kept and watched on the way."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from amberline.core.settings import (
    Count,
    Flag,
    Fraction,
    NonNegative,
    Positive,
    PositiveCount,
    ResultSettings,
    RuntimeSettings,
)


class AdamW(ResultSettings):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = Field(description="adamw or rmsprop")
    beta1: Fraction = Field(description="decay of the first moment")
    beta2: Fraction = Field(description="decay of the second moment")
    epsilon: Positive = Field(description="added to the denominator")
    weight_decay: NonNegative = Field(description="decoupled weight decay")


class RMSprop(ResultSettings):
    """RMSprop as torch has it, without momentum."""

    name: Literal["rmsprop"] = Field(description="adamw or rmsprop")
    alpha: Fraction = Field(description="decay of the squared gradient's mean")
    epsilon: Positive = Field(description="added to the denominator")
    weight_decay: NonNegative = Field(description="L2 penalty")


class CosineSchedule(ResultSettings):
    """Linear warmup, then a half cosine to zero."""

    name: Literal["cosine"] = Field(description="cosine or constant")
    warmup_ratio: Fraction = Field(description="part of all steps that warms up")


class ConstantSchedule(ResultSettings):
    """Linear warmup, then a constant rate: lr * min(1, (step + 1) / (warmup_steps + 1))."""

    name: Literal["constant"] = Field(description="cosine or constant")
    warmup_steps: Count = Field(description="optimizer steps that warm up")


class Checkpoints(RuntimeSettings):
    """How often the whole training state is written."""

    every_steps: PositiveCount = Field(description="optimizer steps between checkpoints")
    keep: PositiveCount = Field(description="newest checkpoints kept")


class HeldoutEvaluation(RuntimeSettings):
    """Evaluation during training, on examples that are never trained on."""

    every_examples: Count = Field(
        description="training examples between evaluations, one before the first step; 0: never"
    )
    examples: Count = Field(description="held-out examples used each time")


class Monitors(RuntimeSettings):
    """Rules that watch the curve. A loss or gradient that is not finite stops the run in any case."""

    action: Literal["warn", "stop"] = Field(description="what happens when a rule of these is broken")
    loss_spike: Positive | None = Field(
        description="times the median loss of the last 50 steps that is a spike; null: not watched"
    )


class PreferenceMonitors(Monitors):
    """Rules for training on preferences."""

    reward_accuracy: Fraction | None = Field(
        description="least mean reward accuracy of the last 50 steps; null: not watched"
    )
    reward_margin: float | None = Field(description="least mean reward margin of the last 50 steps; null: not watched")


class Training(ResultSettings):
    """What every objective shares."""

    seed: Count = Field(description="seed of the order of examples")
    epochs: PositiveCount = Field(description="passes over the data")
    global_batch: PositiveCount = Field(description="examples in an optimizer step, whatever the number of GPUs")
    partial_batch: Literal["keep", "drop"] = Field(description="what becomes of an epoch's last, smaller batch")
    loss_normalization: Literal["token_mean", "mean_of_micro_batch_means", "sum_per_sequence"] = Field(
        description="how token losses become the loss of a step"
    )
    micro_batch_examples: PositiveCount = Field(
        description="examples in one mean of mean_of_micro_batch_means; memory is steered by hardware instead"
    )
    optimizer: Annotated[AdamW | RMSprop, Field(discriminator="name")] = Field(description="the update rule")
    learning_rate: Positive = Field(description="peak learning rate")
    schedule: Annotated[CosineSchedule | ConstantSchedule, Field(discriminator="name")] = Field(
        description="learning rate over the steps"
    )
    max_grad_norm: Positive = Field(description="global gradient norm at which gradients are clipped")
    precision: Literal["bfloat16", "float32"] = Field(
        description="compute precision; master weights are float32 always"
    )
    tf32: Flag = Field(description="let float32 matrix products on CUDA use tf32")
    checkpoints: Checkpoints = Field(description="how often the training state is written")
    evaluation: HeldoutEvaluation = Field(description="evaluation during training")
    monitors: Monitors = Field(
        description="rules that watch the curve; a value that is not finite always stops the run"
    )

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> "Training":
        if self.global_batch % self.micro_batch_examples:
            raise ValueError(
                f"global_batch ({self.global_batch}) is not divisible by micro_batch_examples "
                f"({self.micro_batch_examples})"
            )
        return self
