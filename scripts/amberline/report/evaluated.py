"""What evaluations show of a recipe: a table for each, the rows of variants under those of the base."""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

from amberline.core.settings import Kind
from amberline.recipe import nodes as kinds
from amberline.recipe import paths
from amberline.recipe.graph import Recipe, Tokens, Variant
from amberline.report.compared import Compared, Entry, variants_named
from amberline.report.text import number

# The rows that an evaluation measures on, by what it reads.
MEASURED = {"conversations": "held-out conversations", "pairs": "test pairs", "prompts": "prompts held out"}


def evaluation_entry(compared: Compared, names: Sequence[str]) -> Entry:
    """An evaluation, its columns, and of each model the file with its metrics.

    `names` are the evaluation and those that variants have in its place; the rows of variants are in its table.
    """
    recipe, name = compared.recipe, names[0]
    measure, node = recipe.measure(name), recipe.nodes.evaluations[name]
    reference = getattr(node, "reference", None)
    # The first paragraph of the file tells people what is measured.
    about = (sys.modules[measure.__module__].__doc__ or "").strip().split("\n\n")[0]
    models = recipe.evaluated(name)
    leading = compared.of_base(models) or models
    rows = _Rows(compared, name)
    others = [(name, model) for model in models if model not in leading]
    others += [(each, model) for each in names[1:] for model in recipe.evaluated(each)]
    return {
        "name": name,
        "kind": recipe.kind_of(name),
        "about": " ".join(about.split()),
        "on": f"{MEASURED[measure.reads]} of {getattr(node, recipe.kind_of(name))}",
        "settings": recipe.evaluation_settings(name).of(Kind.RESULT),
        "reference": reference and compared.title(reference),
        "columns": list(map(list, measure.columns.items())),  # in their order, which mappings do not keep on the way
        "headline": measure.headline,
        "of_reference": dict(measure.of_reference),
        "linear_in_beta": list(measure.linear_in_beta),
        "models": [{**_measured(compared, name, model), "also": rows.also(name, model)} for model in leading],
        "variants": [{**_measured(compared, *row), **rows.of_variant(*row)} for row in others],
        "seeds": [each for model in leading for each in rows.seeds(model)],
    }


def _measured(compared: Compared, evaluation: str, model: str) -> Entry:
    """A model that is measured: the model that it started from, whether it was trained on what is measured on, and
    how it stands to the reference, if there is one.
    """
    recipe = compared.recipe
    node = recipe.nodes.models[model]
    is_trained = isinstance(node, kinds.TrainedModel)
    reference = getattr(recipe.nodes.evaluations[evaluation], "reference", None)
    return {
        "name": model,
        "title": compared.title(model),
        "file": paths.evaluation(evaluation, model),
        "from": node.from_ if is_trained else None,
        "from_title": compared.title(node.from_) if is_trained else None,
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


class _Rows:
    """Whose variant each row is that an evaluation has in its table, by evaluation and model."""

    def __init__(self, compared: Compared, evaluation: str) -> None:
        self._compared, self._leading, self._evaluation = compared, evaluation, compared.base(evaluation)
        self._variants = defaultdict[tuple[str, str], list[tuple[str, str]]](list)  # models of the base, and variants
        for variant in compared.recipe.variants:
            for model in compared.of_base(compared.recipe.nodes.models):
                row = self._row(variant, model)
                if row != (self._evaluation, model):
                    self._variants[row].append((model, variant.name))

    def also(self, evaluation: str, model: str, without: str = "") -> str:
        """Of which variants else a row is; empty if of none."""
        variants = [(of, name) for of, name in self._variants[evaluation, model] if name != without]
        alike = [name for of, name in variants if of == self._compared.base(model)]
        others = [
            f"{self._compared.title(of)}, variant {name}" for of, name in variants if of != self._compared.base(model)
        ]
        return "; ".join([*filter(None, [variants_named(alike)]), *others])

    def of_variant(self, evaluation: str, model: str) -> Entry:
        """A row of a variant: under which model it stands, and what must be known of it."""
        known = [name for of, name in self._variants[evaluation, model] if of == self._compared.base(model)]
        added = self._compared.variant(model) or self._compared.variant(evaluation)
        name = known[0] if known else added.name if added else ""
        return {
            "of": self._compared.base(model),
            "variant": name,
            "also": self.also(evaluation, model, name),
            "against": self._against(evaluation),
            "notes": list(self._notes(evaluation)),
        }

    def _against(self, evaluation: str) -> str | None:
        """The reference of a variant's evaluation, if it is another one than the base's."""
        there, here = (self._compared.recipe.nodes.evaluations[name] for name in (self._leading, evaluation))
        reference: str | None = getattr(here, "reference", None)
        return None if reference == getattr(there, "reference", None) else reference

    def _notes(self, evaluation: str) -> Iterator[str]:
        """How else the evaluation of a variant differs from that of the base."""
        recipe, both = self._compared.recipe, (self._leading, evaluation)
        datasets = list(map(recipe.dataset_of, both))
        if datasets[0] != datasets[1]:
            yield f"on {datasets[1]}"
        there, here = (recipe.evaluation_settings(name).of(Kind.RESULT) for name in both)
        yield from (f"{key} {number(value)}" for key, value in here.items() if there.get(key) != value)
        made = [list(token_settings(each)) if each else [] for each in map(recipe.evaluation_tokens, both)]
        yield from (each for each in made[1] if each not in made[0])

    def seeds(self, model: str) -> Iterator[Entry]:
        """A model of the base that was made with several seeds: what was found of each."""
        compared = self._compared
        for alike in compared.alike_but_for_seeds:
            rows: dict[tuple[str, str], str] = {}
            for variant in alike.variants:
                row = self._row(variant, model)
                if self._is_measured(*row):
                    rows.setdefault(row, variant.name if variant else "base recipe")
            if len({name for _, name in rows}) > 1:
                yield {
                    "of": model,
                    "files": [paths.evaluation(*row) for row in rows],
                    "names": list(rows.values()),
                    "changes": alike.changes,
                }

    def _row(self, variant: Variant | None, model: str) -> tuple[str, str]:
        """The evaluation and the model that a variant has, or the base."""
        if variant is None:
            return self._evaluation, model
        return self._compared.node_of(variant, self._evaluation), self._compared.node_of(variant, model)

    def _is_measured(self, evaluation: str, model: str) -> bool:
        recipe = self._compared.recipe
        return evaluation in recipe.nodes.evaluations and model in recipe.evaluated(evaluation)


def token_settings(tokens: Tokens) -> Iterator[str]:
    """How tokens are made, in a few words."""
    settings = tokens.settings
    yield "no template" if settings.template == "none" else f"{settings.template} template"
    if (loss_on := getattr(settings, "loss_on", "answers")) != "answers":
        yield f"loss on {loss_on.replace('_', ' ')}"
    yield f"at most {settings.max_length:,} tokens"
    if mode := getattr(settings, "mode", None):
        yield f"{mode} mode"
