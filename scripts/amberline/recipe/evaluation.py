"""What is measured of the finished models."""

from typing import Literal

from pydantic import Field

from amberline.core.settings import Count, Flag, Positive, PositiveCount, ResultSettings


class Evaluation(ResultSettings):
    """Figures of the finished models on data that none of them saw."""

    pairs: Count = Field(description="test pairs for reward accuracy and margin; 0: all")
    sample_prompts: Count = Field(description="test prompts whose answers are printed in the report")
    sample_tokens: PositiveCount = Field(description="tokens of each such answer at most")


class Measures(ResultSettings):
    """Settings of `evaluate.py`; the rules fill it in."""

    pairs: Count = Field(description="test pairs for reward accuracy and margin; 0: all")
    beta: Positive = Field(description="strength of the pull towards the reference")
    precision: Literal["bfloat16", "float32"] = Field(description="compute precision")
    tf32: Flag = Field(description="let float32 matrix products on CUDA use tf32")


class Samples(ResultSettings):
    """Settings of `sample_answers.py`; the rules fill it in."""

    prompts: Count = Field(description="prompts that are asked")
    tokens: PositiveCount = Field(description="tokens of each answer at most")
