"""What is measured of the finished models."""

from pydantic import Field

from amberline.core.settings import Count, PositiveCount, ResultSettings


class Evaluation(ResultSettings):
    """Figures of the finished models on data that none of them saw."""

    pairs: Count = Field(description="test pairs for reward accuracy and margin; 0: all")
    sample_prompts: Count = Field(description="test prompts whose answers are printed in the report")
    sample_tokens: PositiveCount = Field(description="tokens of each such answer at most")
