"""Variants: overlays on the whole recipe, whose changed nodes stand beside the others in one graph.

Each node whose results a variant changes, and each node downstream of one, exists once more as `NODE@VARIANT`; every
other node is shared. Whether two nodes are the same is told by their keys: what determines them, and the keys of what
they are made from.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from amberline.core.digests import value_digest
from amberline.core.settings import Kind
from amberline.evaluations.registry import evaluation_names
from amberline.recipe import nodes as kinds
from amberline.recipe.data import Source
from amberline.recipe.faults import message
from amberline.recipe.files import ConfigurationError, put_on_top
from amberline.recipe.graph import Recipe, Variant
from amberline.recipe.resolve import SECTIONS

# What holds for the whole recipe: a variant cannot have its own.
WHOLE = ("results", "environment", "tracking", "cluster", "stale", "data_hardware", "variants", "extends")

Values = Mapping[str, Any]


def expanded(variants: Any) -> dict[str, Values]:
    """Variants by name, sweeps as one variant for each combination of their values. Raises ConfigurationError."""
    found: dict[str, Values] = {}
    if not isinstance(variants, dict):
        raise _wrong(f"variants: found {variants!r}; must be variants by name")
    for name, overlay in variants.items():
        where = f"variants.{name}"
        if not re.fullmatch(kinds.NODE_NAME, str(name)):
            raise _wrong(f"{where}: {kinds.NAME_RULE}")
        if not isinstance(overlay, dict) or not overlay:
            raise _wrong(f"{where}: found {overlay!r}; must be keys of a recipe and their values")
        for each, values in _members(str(name), overlay, where):
            if each in found:
                raise _wrong(f"{where}: there are two variants {each}; rename one of them")
            found[each] = values
    return found


def _members(name: str, overlay: Values, where: str) -> Iterator[tuple[str, Values]]:
    sweep = overlay.get("sweep")
    if sweep is None:
        yield name, overlay
        return
    lists = isinstance(sweep, dict) and sweep and all(isinstance(each, list) and each for each in sweep.values())
    if not lists:
        raise _wrong(f"{where}.sweep: found {sweep!r}; must be keys, each with a list of values")
    rest = {key: value for key, value in overlay.items() if key != "sweep"}
    for values in itertools.product(*sweep.values()):
        yield "-".join([name, *map(_word, values)]), _with_values(rest, dict(zip(sweep, values, strict=True)), where)


def _word(value: Any) -> str:
    """A value as part of a name."""
    return re.sub(r"[^a-z0-9_.-]+", "_", str(value).lower()).strip("_.-") or "0"


def _with_values(overlay: Values, values: Mapping[str, Any], where: str) -> Values:
    """An overlay with values at dotted paths; a node's name may have dots."""
    merged = dict(overlay)
    for path, value in values.items():
        section, _, rest = str(path).partition(".")
        node, _, key = rest.rpartition(".")
        if section not in SECTIONS or not node:
            raise _wrong(
                f"{where}.sweep.{path}: must be the dotted path of a node's key, as in models.NODE.learning_rate"
            )
        merged = put_on_top(merged, {section: {node: {key: value}}})
    return merged


def _wrong(*faults: str) -> ConfigurationError:
    return ConfigurationError(message(faults))


def with_variants(base: Recipe, values: Values, resolve: Callable[[Values], Recipe]) -> Recipe:
    """The base with the nodes of all variants; `resolve` checks each. Raises ConfigurationError."""
    nodes = _Combined(base)
    for name, overlay in expanded(values.get("variants") or {}).items():
        if wrong := [key for key in overlay if key in WHOLE]:
            raise _wrong(
                *(f"variants.{name}.{key}: a variant cannot have its own {key}; set it for all" for key in wrong)
            )
        try:
            variant = resolve(put_on_top(values, overlay))
        except ConfigurationError as error:
            raise ConfigurationError(f"variant {name}: {error}") from None
        nodes.add(name, overlay, variant)
    return nodes.recipe()


class _Combined:
    """The nodes of a base, and those that variants add."""

    def __init__(self, base: Recipe) -> None:
        self._base = base
        self._keys = {key: name for name, key in reversed(node_keys(base).items())}
        self._nodes = {section: dict(getattr(base.nodes, section)) for section in SECTIONS}
        self._hardware = dict(base.nodes.hardware)
        self._variants: list[Variant] = []
        self._measured_on = {name: base.dataset_of(name) for name in base.nodes.evaluations}
        self._measured = {name: base.evaluated(name) for name in base.nodes.evaluations}

    def add(self, name: str, overlay: Values, variant: Recipe) -> None:
        """Add the nodes of a variant that are not there yet. Raises ConfigurationError if it changes no result."""
        names: dict[str, str] = {}  # of the variant's nodes, in the combined graph
        keys = node_keys(variant)
        for node, key in keys.items():
            names[node] = self._keys.setdefault(key, f"{node}@{name}")
        own = [node for node in keys if names[node] == f"{node}@{name}"]
        changed = {node: names[node] for node in keys if names[node] != node}
        before = sum(map(len, self._measured.values()))
        for evaluation in variant.nodes.evaluations:
            models = self._measured.get(names[evaluation], [])
            more = [names[model] for model in variant.evaluated(evaluation)]
            self._measured_on.setdefault(names[evaluation], names[variant.dataset_of(evaluation)])
            self._measured[names[evaluation]] = list(dict.fromkeys([*models, *more]))
        if not changed and before == sum(map(len, self._measured.values())):
            raise _wrong(f"variants.{name}: it changes no result, so there is nothing to compare; set its keys for all")
        for section in SECTIONS:
            for node in getattr(variant.nodes, section):
                if node in own:
                    self._nodes[section][names[node]] = _renamed(getattr(variant.nodes, section)[node], names)
                    self._note_hardware(node, names[node], variant)
        same = {f"{node}@{name}": there for node, there in changed.items() if node not in own}
        self._variants.append(Variant(name, changed_keys(overlay), [names[node] for node in own], same))

    def _note_hardware(self, node: str, name: str, variant: Recipe) -> None:
        asked: dict[str, Any] = {}
        for key in ("default", "evaluate" if node in variant.nodes.evaluations else "train", node):
            asked |= variant.nodes.hardware.get(key, {})
        self._hardware[name] = asked

    def recipe(self) -> Recipe:
        """The recipe with all nodes; an evaluation that is shared measures the models of all that share it."""
        for name, models in self._measured.items():
            self._nodes["evaluations"][name] = self._nodes["evaluations"][name].model_copy(update={"models": models})
        sections: dict[str, Any] = self._nodes
        nodes = replace(self._base.nodes, **sections, hardware=self._hardware)
        return Recipe(nodes, tuple(self._variants), self._measured_on)


def changed_keys(overlay: Values, prefix: str = "") -> list[str]:
    """Dotted paths of what an overlay sets, with the values."""
    found = []
    for key, value in overlay.items():
        if isinstance(value, dict) and value:
            found += changed_keys(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}: {value}")
    return found


def node_keys(recipe: Recipe) -> dict[str, str]:
    """By node, a digest of what determines it and of the keys of what it is made from."""
    keys: dict[str, str] = {}

    def key(name: str) -> str:
        if name not in keys:
            keys[name] = value_digest(_determining(recipe, name, key))
        return keys[name]

    for name in recipe.names:
        key(name)
    return {name: keys[name] for name in recipe.names}


def _determining(recipe: Recipe, name: str, key: Callable[[str], str]) -> Any:
    node = recipe.node(name)
    if isinstance(node, Source):
        values = node.model_dump(mode="json", exclude={"licence"})
        return ["source", node.format, node.sha256] if node.sha256 else ["source", values]
    if isinstance(node, kinds.PretrainedModel):
        return ["pretrained", node.pretrained, node.revision, node.trust_remote_code]
    edges = {alias: _keyed(value, key) for alias, value in _edges(node).items()}
    own = {alias: value for alias, value in node.of(Kind.RESULT).items() if alias not in edges}
    own.pop("models", None)
    if name in recipe.nodes.evaluations:
        tokens = recipe.evaluation_tokens(name)
        own["tokens"] = [key(tokens.tokenizer), tokens.settings.model_dump(mode="json")] if tokens else None
        own["dataset"] = key(recipe.dataset_of(name))
    return [type(node).__name__, own, edges]


def _edges(node: Any) -> dict[str, Any]:
    """The keys of a node that name others."""
    if isinstance(node, kinds.Mix):
        return {"mix": list(node.mix)}
    if isinstance(node, kinds.Chunk):
        return {"chunk": node.chunk, "tokenizer": node.tokenizer}
    if isinstance(node, kinds.Pairs):
        return {"pairs": {part: node.pairs.sources(part) for part in ("train", "test")}}
    if isinstance(node, kinds.TinyStandIn):
        return {"texts": list(node.texts)}
    if isinstance(node, kinds.TrainedModel):
        return {"from": node.from_, "on": node.on}
    names = ("reference", *evaluation_names()) if isinstance(node, kinds.Evaluation) else ()
    return {name: getattr(node, name) for name in names if name in type(node).model_fields}


def _keyed(value: Any, key: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _keyed(each, key) for name, each in value.items()}
    return [key(each) for each in value] if isinstance(value, list) else key(value)


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """A node that names others as they are called in the combined graph."""

    def called(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: called(each) for name, each in value.items()}
        return [names[each] for each in value] if isinstance(value, list) else names[value]

    update = {"from_" if alias == "from" else alias: called(value) for alias, value in _edges(node).items()}
    if isinstance(node, kinds.Mix):
        update |= {key: {names[name]: each for name, each in getattr(node, key).items()} for key in kinds.SHARES}
    if "pairs" in update and isinstance(node, kinds.Pairs):
        update["pairs"] = node.pairs.model_copy(update=update["pairs"])
    return node.model_copy(update=update)


def told(variant: Variant) -> str:
    """A variant in one line: what it changes, which nodes it adds, what is shared."""
    added = ", ".join(variant.own) or "no node"
    same = "; ".join(f"{name} is {there}" for name, there in variant.same.items())
    return f"variant {variant.name} ({', '.join(variant.changes)}): adds {added}" + (f"; {same}" if same else "")
