"""Objectives by name: each is a file of this folder that says `OBJECTIVE = …`."""

import importlib
from pathlib import Path

from amberline.objectives.base import Objective

_FOLDER = Path(__file__).parent
_SHARED = {"__init__", "base", "registry", "rewards", "settings"}


def objective_names() -> list[str]:
    """Names of all objectives, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.py") if file.stem not in _SHARED)


def objective_file(name: str) -> Path:
    """The file of an objective: its code is part of what determines a training. Raises KeyError."""
    if name not in objective_names():
        raise KeyError(f"there is no objective {name!r}; there are: {', '.join(objective_names())}")
    return _FOLDER / f"{name}.py"


def load_objective(name: str) -> type[Objective]:
    """An objective by its name. Raises KeyError."""
    objective_file(name)
    found: type[Objective] = importlib.import_module(f"amberline.objectives.{name}").OBJECTIVE
    return found
