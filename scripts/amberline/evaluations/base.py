"""What an evaluation is: how a finished model is measured on data that it never saw.

To add an evaluation, write a file like `perplexity.py` in this folder: its settings, a subclass of `Evaluation`, and
the line `EVALUATION = …` that names it. Files of this folder are read with the recipe, at every `snakemake -n`, so
torch, transformers and datasets are imported where they are used. The first line of the file is what the report says of
the metrics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from amberline.core.settings import Flag, ResultSettings

if TYPE_CHECKING:
    from amberline.recipe.hardware import Hardware
    from amberline.training.ranks import Ranks


class EvaluationError(Exception):
    """The model cannot be measured on this data."""


class Arithmetic(ResultSettings):
    """How log-probabilities are computed: settings of every evaluation that scores rows, with a reference or without.

    A reference's log-probabilities are used only where they were computed alike.
    """

    precision: Literal["bfloat16", "float32"] = Field(description="compute precision")
    tf32: Flag = Field(description="let float32 matrix products on CUDA use tf32")


class Evaluation(ABC):
    """A measurement of a finished model."""

    Settings: ClassVar[type[ResultSettings]]  # what determines the metrics, apart from model and data
    # What the data are: a token folder of conversations or of pairs, or a file of either, of which the prompts are
    # asked.
    reads: ClassVar[Literal["conversations", "pairs", "prompts"]]
    # Whether it needs the log-probabilities of a reference for those pairs; its settings are `Arithmetic` then.
    needs_reference: ClassVar[bool] = False
    one_process: ClassVar[bool] = False  # whether one process measures, however many the machine has room for
    columns: ClassVar[Mapping[str, str]] = {}  # the metrics that a table of models shows, with their titles
    headline: ClassVar[str | None] = None  # the one metric to plot
    # Of evaluations against a reference: what the metrics of the reference itself are, by definition, and the metrics
    # that are twice as large at twice the beta.
    of_reference: ClassVar[Mapping[str, float]] = {}
    linear_in_beta: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: ResultSettings) -> None:
        self.settings = settings

    @abstractmethod
    def measure(
        self, model: Path, data: Path, reference: Path | None, hardware: Hardware, ranks: Ranks
    ) -> dict[str, Any]:
        """Metrics of a model folder, as JSON values by name; all processes get them.

        Everything is verified already, and `reference` is there if and only if it is needed. Raises EvaluationError,
        or what reading and scoring rows raises.
        """
