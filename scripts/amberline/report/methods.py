"""Methods in sentences, made from the settings of each dataset and model."""

from collections.abc import Iterator, Mapping
from typing import Any

from amberline.core.settings import Kind, leaves
from amberline.objectives.settings import Training
from amberline.recipe import nodes as kinds
from amberline.recipe.graph import Recipe
from amberline.report.compared import Compared
from amberline.report.text import listed, number

SELECTED = {
    "exactly_one_safe": "rows with exactly one safe response, which is preferred to the unsafe one",
}
NORMALIZED = {
    "token_mean": "the mean over its tokens",
    "mean_of_micro_batch_means": "the mean of the means over micro-batches",
    "sum_per_sequence": "the mean over its examples, each the sum of its tokens",
}
EXPORTED = {"last": "the last checkpoint", "best": "the checkpoint with the least held-out loss"}


def methods(compared: Compared) -> list[dict[str, str]]:
    """A few sentences a node of the base, datasets first: `title` and `text`."""
    recipe = compared.recipe
    starts = dict.fromkeys(map(recipe.root, recipe.trained))
    runs = dict.fromkeys(recipe.runs.values())
    return [
        *({"title": name, "text": _dataset(recipe, name)} for name in compared.of_base(recipe.nodes.datasets)),
        *({"title": recipe.title(name), "text": _start(recipe, name)} for name in compared.of_base(starts)),
        *(
            {"title": recipe.title(name), "text": " ".join(_training(compared, name))}
            for name in compared.of_base(runs)
        ),
    ]


def methods_of_variants(compared: Compared) -> list[dict[str, Any]]:
    """Of each variant what differs from the base: `title`, and `parts` of nodes with other settings.

    `after` has the nodes that are made anew from those and are alike otherwise.
    """
    found = []
    for variant in compared.recipe.variants:
        told = {node: _different(compared, node) for node in variant.own}
        found.append(
            {
                "title": variant.name,
                "parts": [{"title": _plain_title(compared, node), "text": text} for node, text in told.items() if text],
                "after": [_plain_title(compared, node) for node, text in told.items() if not text],
                "same": [
                    {
                        "title": _plain_title(compared, name.removesuffix(f"@{variant.name}")),
                        "there": compared.title(there),
                    }
                    for name, there in variant.same.items()
                ],
            }
        )
    return found


def _plain_title(compared: Compared, node: str) -> str:
    """The title of what a node is a variant of."""
    base = compared.base(node)
    return compared.recipe.nodes.models[node].title or base if node in compared.recipe.nodes.models else base


def _different(compared: Compared, node: str) -> str:
    """The settings in which a node of a variant differs from that of the base; all of them if the base has none."""
    recipe, base = compared.recipe, compared.base(node)
    if base not in recipe.names:
        return _in_full(compared, node)
    here, there = (compared.leaves(recipe.node(name).of(Kind.RESULT)) for name in (node, base))
    keys = [key for key in {**there, **here} if here.get(key) != there.get(key) and key != "models"]
    return ", ".join(
        f"{_key_words(key)} {number(here.get(key))} (base recipe: {number(there.get(key))})" for key in keys
    )


def _in_full(compared: Compared, node: str) -> str:
    """What a node is that the base has not."""
    recipe = compared.recipe
    if node in recipe.nodes.datasets:
        return _dataset(recipe, node)
    if node in recipe.trained:
        return " ".join(_training(compared, node))
    return _start(recipe, node) if node in recipe.nodes.models else "not in the base recipe"


def _dataset(recipe: Recipe, name: str) -> str:
    node = recipe.nodes.datasets[name]
    if isinstance(node, kinds.Mix):
        heldout = f"{node.heldout:,} are" if node.heldout else "none is"
        return f"Conversations of {listed(node.mix)}, shuffled with seed {node.seed}; {heldout} held out."
    if isinstance(node, kinds.Chunk):
        leading = "; a chunk may begin with an answer, as context without loss" if node.keep_leading_answer else ""
        return (
            f"Conversations of {node.chunk}, cut into chunks of at most {node.max_length:,} tokens of "
            f"“{recipe.title(recipe.root(node.tokenizer))}” ({node.mode} mode{leading})."
        )
    train, test = (listed(node.pairs.sources(part)) for part in ("train", "test"))
    return f"Preference pairs to train on of {train} and to measure on of {test}: {SELECTED[node.select]}."


def _start(recipe: Recipe, name: str) -> str:
    """Where a model at the start of a line comes from."""
    node = recipe.nodes.models[name]
    if isinstance(node, kinds.TinyStandIn):
        sizes = ", ".join(
            f"{key.replace('_', ' ')} {number(value)}" for key, value in node.tiny.of(Kind.RESULT).items()
        )
        return f"A small stand-in with random weights ({sizes}), its tokenizer trained on {listed(node.texts)}."
    if recipe.pretrained(name).folder:
        return "A pretrained model from a local folder."
    return f"The pretrained model {node.pretrained}, revision {node.revision}."


def _training(compared: Compared, name: str) -> Iterator[str]:
    """What a training was: its data and objective, its steps, its arithmetic, and what was exported."""
    recipe = compared.recipe
    node, settings = recipe.nodes.models[name], recipe.training(name)
    rows, unit = _rows(recipe, name)
    yield f"Trained from “{compared.title(node.from_)}” with the objective {node.train} on {rows}."
    own = settings.of(Kind.RESULT, without=Training)
    if recipe.objective(name).needs_reference:
        yield "The frozen reference is the model that training started from; its log-probabilities were computed once."
    if own:
        yield f"Settings of the objective: {_words(own)}."
    schedule = settings.schedule.of(Kind.RESULT)
    epochs = f"{settings.epochs} {'epoch' if settings.epochs == 1 else 'epochs'}"
    yield (
        f"{epochs} in steps of {settings.global_batch:,} {unit} "
        f"(order by seed {settings.seed}), {_named(settings.optimizer.of(Kind.RESULT))} at a peak learning rate of "
        f"{number(settings.learning_rate)}, {_named(schedule)} schedule, gradients clipped at "
        f"{number(settings.max_grad_norm)}."
    )
    yield (
        f"Computed in {settings.precision} with float32 master weights; the loss of a step is "
        f"{NORMALIZED[settings.loss_normalization]}."
    )
    yield from _exports(compared, name)


def _rows(recipe: Recipe, name: str) -> tuple[str, str]:
    """What a model is trained on, and what its examples are."""
    node, template = recipe.nodes.models[name], recipe.nodes.models[name].template
    written = "as bare text" if template == "none" else f"in the {template} template"
    if not recipe.tokens(name).of_pairs:
        return f"the chunks of {node.on}, {written}, with the loss on the assistant's answers alone", "chunks"
    limit = f"{written}, at most {node.max_length:,} tokens each"
    if responses := getattr(node, "responses", None):
        return f"the {responses} responses of {node.on}, {limit}", "responses"
    return f"the pairs of {node.on}, {limit}", "pairs"


def _exports(compared: Compared, name: str) -> Iterator[str]:
    """Every model that was made of a training; those of variants are told with the variants."""
    recipe = compared.recipe
    models = [model for model, run in recipe.runs.items() if run == name]
    models = compared.of_base(models) or models
    for model in models:
        node = recipe.nodes.models[model]
        which = EXPORTED.get(node.export, node.export)
        title = f" as “{compared.title(model)}”" if len(models) > 1 else ""
        yield f"Exported{title}: {which}, weights in {node.export_dtype}."


def _named(settings: Mapping[str, Any]) -> str:
    """An optimizer or a schedule: its name, and its settings in brackets."""
    return f"{settings['name']} ({_words({key: value for key, value in settings.items() if key != 'name'})})"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{_key_words(key)} {number(value)}" for key, value in leaves(settings))


def _key_words(key: str) -> str:
    return key.replace("_", " ")
