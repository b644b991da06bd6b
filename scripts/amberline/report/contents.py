"""What the report shows of a recipe: which files, in which order, under which titles."""

import sys
from collections.abc import Iterator
from typing import Any

from amberline.core.settings import Kind
from amberline.recipe import nodes as kinds
from amberline.recipe import paths
from amberline.recipe.graph import Recipe, Tokens
from amberline.report.methods import methods
from amberline.report.text import listed

# The rows that an evaluation measures on, by what it reads.
MEASURED = {"conversations": "held-out conversations", "pairs": "test pairs", "prompts": "test prompts"}


def contents(recipe: Recipe) -> dict[str, Any]:
    """The contents of the page, as JSON values; files are relative to the results folder."""
    return {
        "recipe": recipe.nodes.of(Kind.RESULT),
        "raw": {name: recipe.raw(name) for name in recipe.nodes.sources},
        "data": [*_datasets(recipe), *_tokens(recipe)],
        "both_modes": [_both_modes(recipe, name) for name in recipe.datasets(kinds.Chunk)],
        "trainings": [_training(recipe, name) for name in dict.fromkeys(recipe.runs.values())],
        "models": [
            {"name": name, "title": recipe.title(name), "folder": paths.model(name)} for name in _shown_models(recipe)
        ],
        "evaluations": [_evaluation(recipe, name) for name in recipe.nodes.evaluations],
        "methods": methods(recipe),
    }


def _shown_models(recipe: Recipe) -> list[str]:
    """The models that are trained here, and those at the starts of their lines."""
    shown = {*recipe.trained, *map(recipe.root, recipe.trained)}
    return [name for name in recipe.nodes.models if name in shown]


def _datasets(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """The accounts of datasets, in the recipe's order."""
    for name, node in recipe.nodes.datasets.items():
        if isinstance(node, kinds.Mix):
            yield _account("mix", name, "", f"mix of {listed(node.mix)}")
        elif isinstance(node, kinds.Chunk):
            yield _account("chunk", name, "", f"chunks of {node.chunk}")
            yield _account("chunk", name, "heldout", f"chunks of what is held out of {node.chunk}")
        else:
            for part in recipe.parts(name):
                yield _account("select_pairs", name, part, f"pairs of {listed(node.pairs.sources(part))}")


def _account(stage: str, dataset: str, part: str, what: str) -> dict[str, Any]:
    name = _part_name(dataset, part)
    return {
        "stage": stage,
        "name": name,
        "title": f"{name}: {what}",
        "for_training": part in {"", "train"},
        "details": [],
        "funnel": paths.funnel(stage, name),
    }


def _tokens(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """The accounts of token folders, each with what reads it."""
    several_tokenizers = len({tokens.tokenizer for tokens in recipe.all_tokens.values()}) > 1
    for name, tokens in recipe.all_tokens.items():
        responses = getattr(tokens.settings, "responses", None)
        what = f"tokens of the {responses} responses" if responses else "tokens"
        account = _account("tokenize", tokens.dataset, tokens.part, what)
        details = [*_token_settings(tokens), *_readers(recipe, name)]
        if several_tokenizers:
            details.insert(0, f"tokenizer of {recipe.title(tokens.tokenizer)}")
        yield {**account, "name": name, "details": details, "funnel": paths.funnel("tokenize", name)}


def _token_settings(tokens: Tokens) -> Iterator[str]:
    """How tokens are made, in a few words."""
    settings = tokens.settings
    yield "no template" if settings.template == "none" else f"{settings.template} template"
    yield f"at most {settings.max_length:,} tokens"
    if mode := getattr(settings, "mode", None):
        yield f"{mode} mode"


def _readers(recipe: Recipe, name: str) -> Iterator[str]:
    """Which models are trained and watched on a token folder, and which evaluations measure on it."""
    models = recipe.nodes.models
    trained = [model for model in recipe.trained if recipe.tokens(model).name == name]
    watched = [
        model
        for model in recipe.trained
        if models[model].evaluation.examples and recipe.tokens(model, "heldout").name == name
    ]
    measured = [each for each in recipe.nodes.evaluations if _is_measured_on(recipe, each, name)]
    if trained:
        yield f"trained on: {'; '.join(map(recipe.title, trained))}"
    if watched:
        yield f"watched on during training: {'; '.join(map(recipe.title, watched))}"
    if measured:
        yield f"measured on: {'; '.join(measured)}"


def _is_measured_on(recipe: Recipe, evaluation: str, tokens: str) -> bool:
    found = recipe.evaluation_tokens(evaluation)
    return found is not None and found.name == tokens


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
        "on": _part_name(node.on, recipe.tokens(model).part),
        "shared_by": [recipe.title(name) for name, run in recipe.runs.items() if run == model and name != model],
        "run": paths.run(model),
        "metrics": paths.metrics(model),
    }


def _evaluation(recipe: Recipe, name: str) -> dict[str, Any]:
    """An evaluation, its columns, and of each model the file with its metrics."""
    measure, node = recipe.measure(name), recipe.nodes.evaluations[name]
    reference = getattr(node, "reference", None)
    # The first paragraph of the file tells people what is measured.
    about = (sys.modules[measure.__module__].__doc__ or "").strip().split("\n\n")[0]
    return {
        "name": name,
        "kind": recipe.kind_of(name),
        "about": " ".join(about.split()),
        "on": f"{MEASURED[measure.reads]} of {getattr(node, recipe.kind_of(name))}",
        "settings": recipe.evaluation_settings(name).of(Kind.RESULT),
        "reference": reference and recipe.title(reference),
        "columns": list(map(list, measure.columns.items())),  # in their order, which mappings do not keep on the way
        "headline": measure.headline,
        "of_reference": dict(measure.of_reference),
        "linear_in_beta": list(measure.linear_in_beta),
        "models": [_measured(recipe, name, model) for model in recipe.evaluated(name)],
    }


def _measured(recipe: Recipe, evaluation: str, model: str) -> dict[str, Any]:
    """A model that is measured: the model that it started from, whether it was trained on what is measured on, and
    how it stands to the reference, if there is one.
    """
    node = recipe.nodes.models[model]
    is_trained = isinstance(node, kinds.TrainedModel)
    reference = getattr(recipe.nodes.evaluations[evaluation], "reference", None)
    return {
        "name": model,
        "title": recipe.title(model),
        "file": paths.evaluation(evaluation, model),
        "from": node.from_ if is_trained else None,
        "from_title": recipe.title(node.from_) if is_trained else None,
        "trained_on_it": is_trained and _origin(recipe, node.on) == _origin(recipe, recipe.dataset_of(evaluation)),
        "is_reference": model == reference,
        "from_reference": reference is not None and reference in _line(recipe, model),
        "own_beta": _own_beta(recipe, model, reference),
    }


def _own_beta(recipe: Recipe, model: str, reference: str | None) -> float | None:
    """The beta that a model was trained with, if its rewards were relative to the same reference there."""
    node = recipe.nodes.models[model]
    if (
        not isinstance(node, kinds.TrainedModel)
        or node.from_ != reference
        or not recipe.objective(model).needs_reference
    ):
        return None
    return None if getattr(node, "reference_free", False) else getattr(node, "beta", None)


def _origin(recipe: Recipe, dataset: str) -> str:
    """The dataset that chunks are cut of; any other dataset is its own."""
    node = recipe.nodes.datasets[dataset]
    return node.chunk if isinstance(node, kinds.Chunk) else dataset


def _line(recipe: Recipe, model: str) -> Iterator[str]:
    """The models that a model comes from, the one that its training started from first."""
    node = recipe.nodes.models[model]
    if isinstance(node, kinds.TrainedModel):
        yield node.from_
        yield from _line(recipe, node.from_)


def _part_name(dataset: str, part: str) -> str:
    return f"{dataset}-{part}" if part else dataset
