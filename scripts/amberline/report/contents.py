"""What the report shows of a recipe: which files, in which order, under which titles."""

from typing import Any

from amberline.core.settings import Kind
from amberline.recipe import nodes as kinds
from amberline.recipe import paths
from amberline.recipe.graph import Recipe


def contents(recipe: Recipe) -> dict[str, Any]:
    """The contents of the page, as JSON values; files are relative to the results folder."""
    return {
        "recipe": recipe.nodes.of(Kind.RESULT),
        "data": [*_datasets(recipe), *_tokens(recipe)],
        "both_modes": [_both_modes(recipe, name) for name in recipe.datasets(kinds.Chunk)],
        "trainings": [_training(recipe, name) for name in dict.fromkeys(recipe.runs.values())],
        "models": [{"name": name, "title": recipe.title(name), "folder": paths.model(name)} for name in recipe.trained],
        "evaluations": [_evaluation(recipe, name) for name in recipe.nodes.evaluations],
    }


def _datasets(recipe: Recipe) -> list[dict[str, Any]]:
    """The accounts of datasets, in the recipe's order."""
    stages: dict[type, str] = {kinds.Mix: "mix", kinds.Chunk: "chunk", kinds.Pairs: "select_pairs"}
    found = []
    for name, node in recipe.nodes.datasets.items():
        stage = stages[type(node)]
        for part in recipe.parts(name) if stage != "mix" else [""]:
            file = f"{name}{f'-{part}' if part else ''}"
            found.append({"stage": stage, "name": file, "funnel": paths.funnel(stage, file)})
    return found


def _tokens(recipe: Recipe) -> list[dict[str, Any]]:
    """The accounts of token folders."""
    return [{"stage": "tokenize", "name": name, "funnel": paths.funnel("tokenize", name)} for name in recipe.all_tokens]


def _both_modes(recipe: Recipe, dataset: str) -> dict[str, Any]:
    """The published cut beside the lossless one."""
    return {"name": dataset, "mode": recipe.nodes.datasets[dataset].mode, "file": paths.both_modes(dataset)}


def _training(recipe: Recipe, model: str) -> dict[str, Any]:
    node = recipe.nodes.models[model]
    return {
        "name": model,
        "title": recipe.title(model),
        "objective": node.train,
        "from": recipe.title(node.from_),
        "on": node.on,
        "run": paths.run(model),
        "metrics": paths.metrics(model),
    }


def _evaluation(recipe: Recipe, name: str) -> dict[str, Any]:
    """An evaluation, its columns, and of each model the file with its metrics."""
    measure, node = recipe.measure(name), recipe.nodes.evaluations[name]
    return {
        "name": name,
        "kind": recipe.kind_of(name),
        "dataset": recipe.dataset_of(name),
        "settings": recipe.evaluation_settings(name).of(Kind.RESULT),
        "reference": getattr(node, "reference", None),
        "columns": dict(measure.columns),
        "headline": measure.headline,
        "models": [_measured(recipe, name, model) for model in recipe.evaluated(name)],
    }


def _measured(recipe: Recipe, evaluation: str, model: str) -> dict[str, Any]:
    """A model that is measured: the model that it started from, whether it was trained on this dataset, its own beta.

    Its own beta is that of its training, if rewards were measured against the same reference there.
    """
    node = recipe.nodes.models[model]
    is_trained = isinstance(node, kinds.TrainedModel)
    reference = getattr(recipe.nodes.evaluations[evaluation], "reference", None)
    own = getattr(node, "beta", None) if is_trained and node.from_ == reference else None
    return {
        "name": model,
        "title": recipe.title(model),
        "file": paths.evaluation(evaluation, model),
        "from": node.from_ if is_trained else None,
        "trained_on_it": is_trained and node.on == recipe.dataset_of(evaluation),
        "own_beta": own,
    }
