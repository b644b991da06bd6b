"""How a recipe departs from the published one, which has no variants: a variant's nodes are told as the base's."""

from collections.abc import Iterable, Mapping
from typing import Any

from amberline.core.settings import Kind, leaves
from amberline.recipe.check import deviations
from amberline.recipe.resolve import SECTIONS
from amberline.report.compared import Compared

Deviations = dict[str, dict[str, Any]]


def departures_of_base(compared: Compared) -> Deviations:
    """The deviations of the base; what variants change is told of the variants."""
    recipe = compared.recipe
    found = deviations(recipe)
    own = [node for variant in recipe.variants for node in variant.own]
    prefixes = tuple(f"{section}.{node}." for section in SECTIONS for node in own)
    found = {key: each for key, each in found.items() if not key.startswith(prefixes)}
    for name in compared.of_base(recipe.nodes.evaluations):
        key, models = f"evaluations.{name}.models", compared.measured_by_base(name)
        if key in found:
            found[key] = {**found[key], "here": models}
            if models == found[key]["published"]:
                del found[key]
    return found


def departures_of(compared: Compared, nodes: Iterable[str]) -> Deviations:
    """The deviations of nodes that went into a model."""
    recipe, names = compared.recipe, set(nodes)
    own = sorted(name for name in names if compared.variant(name))
    found = deviations(recipe, among=names.difference(own))
    if own:
        of_base = deviations(recipe, among={compared.base(name) for name in own})
        values = recipe.nodes.of(Kind.RESULT, Kind.DESCRIPTION)
        for section in SECTIONS:
            for name in own:
                if name in values[section]:
                    found |= _departures(compared, section, name, values[section], of_base)
    return found


def _departures(
    compared: Compared, section: str, name: str, values: Mapping[str, Any], of_base: Deviations
) -> Deviations:
    """Those of one node of a variant. What the published recipe has is known from the base, or from its deviations."""
    prefix = f"{section}.{compared.base(name)}."
    here = {f"{prefix}{key}": value for key, value in compared.leaves(values[name]).items()}
    there = {f"{prefix}{key}": value for key, value in leaves(values.get(compared.base(name), {}))}
    published = there | {key: each["published"] for key, each in of_base.items() if key.startswith(prefix)}
    return {
        key: {"published": published.get(key), "here": here.get(key)}
        for key in sorted(here.keys() | published.keys())
        if here.get(key) != published.get(key)
    }
