"""Evaluations by name: each is a file of this folder that says `EVALUATION = …`."""

import importlib
from pathlib import Path

from amberline.evaluations.base import Evaluation

_FOLDER = Path(__file__).parent
_SHARED = {"__init__", "base", "registry"}


def evaluation_names() -> list[str]:
    """Names of all evaluations, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.py") if file.stem not in _SHARED)


def evaluation_file(name: str) -> Path:
    """The file of an evaluation: its code is part of what determines the metrics. Raises KeyError."""
    if name not in evaluation_names():
        raise KeyError(f"there is no evaluation {name!r}; there are: {', '.join(evaluation_names())}")
    return _FOLDER / f"{name}.py"


def load_evaluation(name: str) -> type[Evaluation]:
    """An evaluation by its name. Raises KeyError."""
    evaluation_file(name)
    found: type[Evaluation] = importlib.import_module(f"amberline.evaluations.{name}").EVALUATION
    return found
