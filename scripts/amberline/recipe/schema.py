"""JSON schema of recipe files, for editors: what each key may be, whatever else the file leaves out."""

from typing import Any

from pydantic.json_schema import models_json_schema

from amberline.core.settings import Settings
from amberline.evaluations.registry import evaluation_names
from amberline.objectives.registry import load_objective, objective_names
from amberline.recipe.cluster import Cluster
from amberline.recipe.data import Source
from amberline.recipe.hardware import Hardware
from amberline.recipe.nodes import DATASETS, MODELS, evaluation_node, trained_model
from amberline.recipe.resolve import Around

Schema = dict[str, Any]


def schema() -> Schema:
    """The schema of `docs/config.schema.json`. Any file may leave out what one under it says, so no key is required."""
    types: dict[str, list[type[Settings]]] = {
        "sources": [Source],
        "datasets": list(DATASETS.values()),
        "models": [*MODELS.values(), *_trainings()],
        "evaluations": [evaluation_node(name) for name in evaluation_names()],
    }
    every: list[type[Settings]] = [Around, Hardware, Cluster, *(each for section in types.values() for each in section)]
    references, written = models_json_schema([(each, "validation") for each in every])
    definitions = written["$defs"]
    for each in definitions.values():
        each.pop("required", None)
    around = definitions.pop(references[Around, "validation"]["$ref"].rpartition("/")[2])
    hardware = references[Hardware, "validation"]
    properties: Schema = dict(around["properties"])
    for section, models in types.items():
        nodes = [_with_like(definitions, references[model, "validation"]) for model in models]
        properties[section] = {"type": "object", "additionalProperties": {"anyOf": [*nodes, {"type": "null"}]}}
    properties["hardware"] = {"type": "object", "additionalProperties": hardware}
    properties["defaults"] = {"type": "object", "additionalProperties": {"type": "object"}}
    properties["cluster"] = references[Cluster, "validation"]
    properties["variants"] = {
        "type": "object",
        "additionalProperties": {"type": "object"},
        "description": "overlays on the whole recipe, whose changed nodes stand beside the others as NODE@VARIANT",
    }
    properties["extends"] = {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "recipe file that this one stands on; null: it stands alone",
    }
    return {
        "title": "Recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _trainings() -> list[type[Settings]]:
    """The types of models that are trained here: of each objective, on what it can learn from."""
    found: list[type[Settings]] = []
    for name in objective_names():
        pairs = load_objective(name).rows_are == "pairs"
        found += [trained_model(name, holds) for holds in ("preferences",) if pairs]
        found += [trained_model(name, holds) for holds in ("conversations", "preferences") if not pairs]
    return found


def _with_like(definitions: Schema, reference: Schema) -> Schema:
    """A node may say which other node it is like."""
    node = definitions[reference["$ref"].rpartition("/")[2]]
    node["properties"]["like"] = {"type": "string", "description": "node of this section whose settings it copies"}
    return reference
