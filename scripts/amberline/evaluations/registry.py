"""Evaluations by name: each is a file of this folder that says `EVALUATION = …`."""

from pathlib import Path

from amberline.core.registry import Registry
from amberline.evaluations.base import Evaluation

_REGISTRY: Registry[type[Evaluation]] = Registry(Path(__file__).parent, "evaluation", "EVALUATION")
evaluation_names, evaluation_file, load_evaluation = _REGISTRY.names, _REGISTRY.file, _REGISTRY.load
