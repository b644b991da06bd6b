"""What is compared with what: nodes of the base recipe, and those that variants have in their place."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from amberline.core.settings import Kind, leaves
from amberline.recipe.graph import Recipe, Variant
from amberline.recipe.resolve import SECTIONS
from amberline.report.text import listed

Entry = dict[str, Any]  # of the contents of the page

NAMED = 3  # so many variants are named in a sentence; of more, the number is said


class Alike(NamedTuple):
    """Variants that differ in seeds alone."""

    changes: list[str]  # what all of them change
    variants: list[Variant | None]  # None: the base, which is one of them if they change nothing else


class Compared:
    """The nodes of a recipe: whose variant each is, and what it is called where people read."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._whose = {node: variant for variant in recipe.variants for node in variant.own}
        self._own = {variant.name: set(variant.own) for variant in recipe.variants}

    def base(self, node: str) -> str:
        """The name that a node has in the recipe without variants."""
        variant = self._whose.get(node)
        return node.removesuffix(f"@{variant.name}") if variant else node

    def variant(self, node: str) -> Variant | None:
        """The variant that adds a node; None for a node of the base."""
        return self._whose.get(node)

    def of_base(self, names: Iterable[str]) -> list[str]:
        """Those that no variant adds."""
        return [name for name in names if name not in self._whose]

    def title(self, node: str) -> str:
        """The name of a model for people; of any other node, its name."""
        if node not in self.recipe.nodes.models:
            return node
        title, variant = self.recipe.nodes.models[node].title, self.variant(node)
        return f"{title or self.base(node)}, variant {variant.name}" if variant else title or node

    def told_in_card(self, model: str) -> Entry | None:
        """Which variant adds a model, as its card says it; None for a model of the base."""
        variant = self.variant(model)
        return {"name": variant.name, "base": self.base(model), "changes": variant.changes} if variant else None

    def node_of(self, variant: Variant, base: str) -> str:
        """The node that a variant has where the base has another, or the same."""
        name = f"{base}@{variant.name}"
        return name if name in self._own[variant.name] else variant.same.get(name, base)

    def grouped(self, names: Iterable[str]) -> list[list[str]]:
        """Each node of the base with those of its variants behind it; what the base has not leads its own variants."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self.base(name), []).append(name)
        return list(groups.values())

    def gathered(self, names: Iterable[str]) -> list[str]:
        """Nodes in a few words: each of the base, and which variants of it there are."""
        return [
            self.title(first) + (f" (and {self.variants_in_words(rest)})" if rest else "")
            for first, *rest in self.grouped(names)
        ]

    def variants_in_words(self, nodes: Iterable[str]) -> str:
        """Which variants nodes are of; empty if they are all of the base."""
        return variants_named([self._whose[node].name for node in nodes if node in self._whose])

    @cached_property
    def alike_but_for_seeds(self) -> list[Alike]:
        """Variants that change seeds of trainings, gathered by what else they change; the base is one of a few."""
        alike: dict[tuple[str, ...], list[Variant | None]] = {}
        for variant in self.recipe.variants:
            if seeds := set(filter(self._is_seed, variant.changes)):
                others = tuple(each for each in variant.changes if each not in seeds)
                alike.setdefault(others, [] if others else [None]).append(variant)
        return [Alike(list(others), variants) for others, variants in alike.items() if len(variants) > 1]

    def _is_seed(self, change: str) -> bool:
        """Whether a change is one of a training's seed."""
        section, _, path = change.partition(":")[0].removesuffix(".seed").partition(".")
        return change.partition(":")[0].endswith(".seed") and (
            section == "defaults" or (section == "models" and path in self.recipe.trained)
        )

    def values_of_base(self, *kinds: Kind) -> dict[str, Any]:
        """The settings of the base by section and node."""
        values = self.recipe.nodes.of(*kinds)
        for section in SECTIONS:
            values[section] = {name: values[section][name] for name in self.of_base(values[section])}
        for name, node in values["evaluations"].items():
            node["models"] = self.measured_by_base(name)
        return values

    def measured_by_base(self, evaluation: str) -> Any:
        """The models that an evaluation of the base names: with variants, it lists theirs too, in place of `all`."""
        named = self.recipe.nodes.evaluations[evaluation].models
        if named == "all":
            return named
        models, every = self.of_base(named), self.of_base(self.recipe.measurable(evaluation))
        return "all" if self.recipe.variants and models == every else models

    def leaves(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted paths and values of a node's settings, other nodes named as in the base."""
        return {key: self._named_as_in_base(value) for key, value in leaves(values)}

    def _named_as_in_base(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._named_as_in_base(each) for each in value]
        return self.base(value) if isinstance(value, str) else value


def variants_named(names: Iterable[str]) -> str:
    """Variants in a few words; empty if there is none."""
    different = list(dict.fromkeys(names))
    if len(different) > NAMED:
        return f"{len(different)} variants"
    return f"{'variant' if len(different) == 1 else 'variants'} {listed(different)}" if different else ""
