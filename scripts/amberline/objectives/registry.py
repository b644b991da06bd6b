"""Objectives by name: each is a file of this folder that says `OBJECTIVE = …`."""

from pathlib import Path

from amberline.core.registry import Registry
from amberline.objectives.base import Objective

_REGISTRY: Registry[type[Objective]] = Registry(
    Path(__file__).parent, "objective", "OBJECTIVE", shared=("rewards", "settings")
)
objective_names, objective_file, load_objective = _REGISTRY.names, _REGISTRY.file, _REGISTRY.load
