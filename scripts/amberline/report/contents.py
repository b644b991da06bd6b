"""What the report shows of a recipe: which files, in which order, under which titles.

What variants add stands under what the base has: as `variants` of it, with `whose` to say in a few words of which.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from amberline.core.settings import Kind
from amberline.recipe import nodes as kinds
from amberline.recipe import paths
from amberline.recipe.graph import Recipe, Variant
from amberline.report.compared import Compared, Entry
from amberline.report.evaluated import evaluation_entry, token_settings
from amberline.report.methods import methods, methods_of_variants
from amberline.report.text import listed

STYLES = 10  # so many variants can be told apart in a plot


def contents(recipe: Recipe) -> Entry:
    """The contents of the page, as JSON values; files are relative to the results folder."""
    compared = Compared(recipe)
    return {
        "recipe": _recipe(compared),
        "raw": {name: recipe.raw(name) for name in recipe.nodes.sources},
        "data": [*_datasets(compared), *_tokens(compared)],
        "both_modes": _grouped(compared, _compared_cuts(recipe), _both_modes),
        "trained": _trained(compared),
        "trainings": _trainings(compared),
        "models": _grouped(compared, _shown_models(recipe), _model),
        "stand_ins": [paths.model(name) for name in compared.of_base(recipe.models(kinds.TinyStandIn))],
        "evaluations": [evaluation_entry(compared, names) for names in compared.grouped(recipe.nodes.evaluations)],
        "methods": methods(compared),
        "variants": [_variant(compared, variant) for variant in recipe.variants],
        "methods_of_variants": methods_of_variants(compared),
    }


def every(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries of the contents, those of variants too."""
    for each in entries:
        yield each
        yield from each["variants"]


def evaluation_files(evaluations: Iterable[Entry]) -> list[str]:
    """The files of what evaluations found, each once."""
    return list(dict.fromkeys(row["file"] for each in evaluations for row in (*each["models"], *each["variants"])))


def _recipe(compared: Compared) -> Entry:
    """The recipe as it is written: the base, and what variants change."""
    values = compared.values_of_base(Kind.RESULT)
    variants = {variant.name: variant.changes for variant in compared.recipe.variants}
    return {**values, "variants": variants} if variants else values


def _variant(compared: Compared, variant: Variant) -> Entry:
    base = compared.of_base(compared.recipe.names)
    return {
        "name": variant.name,
        "changes": variant.changes,
        "own": variant.own,
        "same": list(map(list, variant.same.items())),
        "shared": sum(compared.node_of(variant, name) == name for name in base),
        "nodes": len(base),
    }


def _grouped(compared: Compared, names: Iterable[str], entry: Any) -> list[Entry]:
    """An entry for each node of the base, with those of its variants."""
    return [
        {
            **entry(compared, first),
            "variants": [entry(compared, name) for name in rest],
            "whose": compared.variants_in_words(rest),
        }
        for first, *rest in compared.grouped(names)
    ]


def _shown_models(recipe: Recipe) -> list[str]:
    """The models that are trained here, and those at the starts of their lines."""
    shown = {*recipe.trained, *map(recipe.root, recipe.trained)}
    return [name for name in recipe.nodes.models if name in shown]


def _model(compared: Compared, name: str) -> Entry:
    return {"name": name, "title": compared.title(name), "folder": paths.model(name)}


def _datasets(compared: Compared) -> Iterator[Entry]:
    """The accounts of datasets, in the recipe's order."""
    for first, *rest in compared.grouped(compared.recipe.nodes.datasets):
        accounts = [list(_accounts(compared.recipe, name)) for name in (first, *rest)]
        for account in accounts[0]:
            others = [each for more in accounts[1:] for each in more if each["of_part"] == account["of_part"]]
            yield {**account, "variants": others, "whose": compared.variants_in_words(rest)}


def _accounts(recipe: Recipe, name: str) -> Iterator[Entry]:
    """The accounts of a dataset, one for each part of it."""
    node = recipe.nodes.datasets[name]
    if isinstance(node, kinds.Mix):
        yield _account("mix", name, "", f"mix of {listed(node.mix)}")
    elif isinstance(node, kinds.Chunk):
        yield _account("chunk", name, "", f"chunks of {node.chunk}")
        yield _account("chunk", name, "heldout", f"chunks of what is held out of {node.chunk}")
    else:
        for part in recipe.parts(name):
            yield _account("select_pairs", name, part, f"pairs of {listed(node.pairs.sources(part))}")


def _account(stage: str, dataset: str, part: str, what: str) -> Entry:
    name = paths.part_name(dataset, part)
    return {
        "stage": stage,
        "name": name,
        "title": f"{name}: {what}",
        "of_part": part,
        "for_training": part in {"", "train"},
        "details": [],
        "funnel": paths.funnel(stage, name),
    }


def _tokens(compared: Compared) -> list[Entry]:
    """The accounts of token folders; one that variants alone read stands under that of the same rows in the base."""
    recipe, readers = compared.recipe, _Readers(compared)
    several_tokenizers = len({compared.base(tokens.tokenizer) for tokens in recipe.all_tokens.values()}) > 1
    found: list[Entry] = []
    leading: dict[tuple[str, str, str | None], Entry] = {}  # by the rows
    for name in sorted(recipe.all_tokens, key=readers.are_of_variants):
        tokens = recipe.all_tokens[name]
        responses = getattr(tokens.settings, "responses", None)
        what = f"tokens of the {responses} responses" if responses else "tokens"
        details = [*token_settings(tokens), *readers.in_words(name)]
        if several_tokenizers:
            details.insert(0, f"tokenizer of {compared.title(tokens.tokenizer)}")
        account = _account("tokenize", tokens.dataset, tokens.part, what)
        account |= {"name": name, "details": details, "funnel": paths.funnel("tokenize", name)}
        rows = (compared.base(tokens.dataset), tokens.part, responses)
        if readers.are_of_variants(name) and rows in leading:
            leading[rows]["variants"].append(account)
            leading[rows]["readers"] += readers.all_of(name)
        else:
            entry = {**account, "variants": [], "readers": []}
            leading.setdefault(rows, entry)
            found.append(entry)
    return [
        {
            **{key: value for key, value in each.items() if key != "readers"},
            "whose": compared.variants_in_words(each["readers"]),
        }
        for each in found
    ]


class _Readers:
    """Which models are trained and watched on each token folder, and which evaluations measure on it."""

    def __init__(self, compared: Compared) -> None:
        self._compared = compared
        self._trained, self._watched, self._measured = (defaultdict[str, list[str]](list) for _ in range(3))
        recipe = compared.recipe
        for model in recipe.trained:
            self._trained[recipe.tokens(model).name].append(model)
            if recipe.nodes.models[model].evaluation.examples:
                self._watched[recipe.tokens(model, "heldout").name].append(model)
        for evaluation in recipe.nodes.evaluations:
            if tokens := recipe.evaluation_tokens(evaluation):
                self._measured[tokens.name].append(evaluation)

    def all_of(self, tokens: str) -> list[str]:
        """The nodes that read a token folder."""
        return [*self._trained[tokens], *self._watched[tokens], *self._measured[tokens]]

    def are_of_variants(self, tokens: str) -> bool:
        """Whether no node of the base reads a token folder, but some of variants do."""
        readers = self.all_of(tokens)
        return bool(readers) and not self._compared.of_base(readers)

    def in_words(self, tokens: str) -> Iterator[str]:
        """Who reads a token folder."""
        for what, readers in (
            ("trained on", self._trained[tokens]),
            ("watched on during training", self._watched[tokens]),
            ("measured on", self._measured[tokens]),
        ):
            if readers:
                yield f"{what}: {'; '.join(self._compared.gathered(readers))}"


def _compared_cuts(recipe: Recipe) -> list[str]:
    """Datasets that are cut in one of the two modes for Vicuna."""
    cuts = {name: recipe.nodes.datasets[name] for name in recipe.datasets(kinds.Chunk)}
    return [name for name, cut in cuts.items() if cut.mode != "whole" and cut.template == "vicuna"]


def _both_modes(compared: Compared, dataset: str) -> Entry:
    """The published cut beside the lossless one."""
    return {
        "name": dataset,
        "mode": compared.recipe.nodes.datasets[dataset].mode,
        "file": paths.both_modes(dataset),
    }


def _trained(compared: Compared) -> Entry:
    """The titles of the models that are trained here, those of one training together, and how many are of variants."""
    runs = compared.recipe.runs
    place = {name: index for index, name in enumerate(runs)}
    models = sorted(runs, key=lambda name: place[runs[name]])
    of_base = compared.of_base(models)
    return {"titles": list(map(compared.title, of_base)), "of_variants": len(models) - len(of_base)}


def _trainings(compared: Compared) -> list[Entry]:
    """Trainings, and how the curves of each variant are drawn: alike in all plots, if there are few enough."""
    recipe = compared.recipe
    found = _grouped(compared, dict.fromkeys(recipe.runs.values()), _training)
    names = list(dict.fromkeys(each["variant"] for group in found for each in group["variants"]))
    for group in found:
        order = names if len(names) <= STYLES else list(dict.fromkeys(each["variant"] for each in group["variants"]))
        for each in group["variants"]:
            place = order.index(each["variant"])
            each["style"] = place if place < STYLES else None
    return found


def _training(compared: Compared, model: str) -> Entry:
    recipe, variant = compared.recipe, compared.variant(model)
    node = recipe.nodes.models[model]
    shared_by = [name for name, run in recipe.runs.items() if run == model and name != model]
    return {
        "name": model,
        "title": compared.title(model),
        "variant": variant and variant.name,
        "objective": node.train,
        "from": compared.title(node.from_),
        "on": paths.part_name(node.on, recipe.tokens(model).part),
        "shared_by": compared.gathered(shared_by),
        "run": paths.run(model),
        "metrics": paths.metrics(model),
    }
