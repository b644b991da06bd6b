"""A recipe with everything filled in: `like` and `defaults` resolved, each node of its own closed type.

All faults are told at once. What one node says of another is checked in `recipe.edges`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from amberline.core.settings import HardwareSettings, Kind, PositiveCount, RuntimeSettings, Settings
from amberline.evaluations.registry import evaluation_names
from amberline.objectives.registry import objective_names
from amberline.recipe.data import Source
from amberline.recipe.faults import explain, settings_in, unknown, unknown_key
from amberline.recipe.files import KIND_KEYS, on_top
from amberline.recipe.hardware import Hardware
from amberline.recipe.nodes import DATASETS, MODELS, NAME_RULE, NODE_NAME, evaluation_node, trained_model
from amberline.recipe.paths import FILES
from amberline.recipe.tracking import Tracking

SECTIONS = tuple(KIND_KEYS)
# Kinds of work that run a model, which may have hardware of their own.
WORK = ("train", "score_reference", "evaluate")
# Rules and other targets: no node can have such a name.
RESERVED = {
    *("all", "report", "evaluation", "default"),
    *("acquire", "acquire_model", "make_tiny_model", "mix", "chunk", "select_pairs", "tokenize"),
    *("train", "score_reference", "export", "write_card", "evaluate"),
}


class DataHardware(HardwareSettings):
    """Machine of the data stages."""

    processes: PositiveCount = Field(description="processes that share the work of a data stage")
    memory_gb: PositiveCount = Field(description="main memory of a data stage")
    hours: PositiveCount = Field(description="time limit of a data stage")


class Around(RuntimeSettings):
    """What holds for the whole recipe."""

    results: str = Field(min_length=1, description="folder of everything that is made")
    environment: Literal["cpu", "gpu"] = Field(description="the lock in envs/ that the rules run under")
    stale: Literal["ask", "retrain", "keep"] = Field(
        description="finished trainings whose code or packages have changed. ask: stop and list them; retrain; keep: "
        "use and record them"
    )
    data_hardware: DataHardware = Field(description="machine of the data stages")
    tracking: Tracking = Field(description="where training curves go")


KEYS = (*Around.model_fields, *SECTIONS, "defaults", "hardware")


@dataclass(frozen=True)
class Nodes:
    """The nodes of a recipe by section and name, and what is around them."""

    around: Around
    sources: Mapping[str, Source]
    datasets: Mapping[str, Any]
    models: Mapping[str, Any]
    evaluations: Mapping[str, Any]
    hardware: Mapping[str, Mapping[str, Any]]  # `default`, and what differs from it by kind of work or node
    filled: Mapping[str, Any]  # the recipe as it would be written without `like` and `defaults`

    def of(self, *kinds: Kind) -> dict[str, Any]:
        """The settings of these kinds, as JSON values by section and node."""
        values = self.around.of(*kinds)
        for section in SECTIONS:
            found = {name: node.of(*kinds) for name, node in getattr(self, section).items()}
            values[section] = {name: node for name, node in found.items() if node}
        return values


class Resolution:
    """The work of filling in a recipe: faults are gathered, and nodes with faults are left out."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.faults: list[str] = []
        self._values = values
        self._filled: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}

    def nodes(self) -> Nodes | None:
        """The nodes; None if what is around them has faults."""
        self.faults += [unknown_key(str(key), KEYS) for key in self._values if key not in KEYS]
        around = self._typed(Around, {key: self._values[key] for key in Around.model_fields if key in self._values}, "")
        self._check_names()
        self._check_defaults()
        found = {section: self._section(section) for section in SECTIONS}
        hardware = self._hardware()
        filled = {**{key: value for key, value in self._values.items() if key != "defaults"}, **self._filled}
        return Nodes(around, **found, hardware=hardware, filled=filled) if isinstance(around, Around) else None

    def _named(self, section: str) -> dict[str, Any]:
        nodes = self._values.get(section) or {}
        return {str(name): node for name, node in nodes.items()} if isinstance(nodes, dict) else {}

    def _check_names(self) -> None:
        seen: dict[str, str] = {}
        for section in SECTIONS:
            if not isinstance(self._values.get(section) or {}, dict):
                self.faults.append(f"{section}: found {self._values[section]!r}; must be nodes by name")
            for name in self._named(section):
                if not re.fullmatch(NODE_NAME, name):
                    self.faults.append(f"{section}.{name}: {NAME_RULE}")
                elif name in RESERVED:
                    self.faults.append(f"{section}.{name}: this word has a meaning of its own; choose another name")
                elif name.endswith(FILES):
                    self.faults.append(f"{section}.{name}: so folders of raw files end; choose another name")
                elif name in seen:
                    self.faults.append(f"{section}.{name}: {seen[name]}.{name} has this name; choose another one")
                seen.setdefault(name, section)

    def _check_defaults(self) -> None:
        known = ["source", *DATASETS, *MODELS, "train", *objective_names(), *evaluation_names()]
        for kind, keys in self._defaults().items():
            if kind not in known:
                self.faults.append(unknown(f"defaults.{kind}", kind, known, "kind of node"))
            elif not isinstance(keys, dict):
                self.faults.append(f"defaults.{kind}: found {keys!r}; must be keys and their values")
            else:
                allowed = [f"defaults.{kind}.{each}" for each in sorted(_keys_of_kind(kind))]
                written = [f"defaults.{kind}.{key}" for key in keys]
                self.faults += [unknown_key(path, allowed) for path in written if path not in allowed]

    def _defaults(self) -> dict[str, Any]:
        defaults = self._values.get("defaults") or {}
        return defaults if isinstance(defaults, dict) else {}

    def _section(self, section: str) -> dict[str, Any]:
        found = {name: self._node(section, name) for name in self._named(section)}
        return {name: node for name, node in found.items() if node is not None}

    def _node(self, section: str, name: str) -> Settings | None:
        said = self._said(section, name, ())
        if said is None:
            return None
        copied, own = said
        chosen = self._type_of(section, name, {**copied, **own})
        if chosen is None:
            return None
        kinds, model = chosen
        values: dict[str, Any] = {}
        for kind in kinds:
            values = on_top(values, {key: each for key, each in self._default(kind).items() if key in _keys(model)})
        values = on_top(on_top(values, _known_part(copied, model)), own)
        # What it says itself comes first, in its order.
        self._filled[section][name] = {key: values[key] for key in dict.fromkeys([*own, *values])}
        return self._typed(model, values, f"{section}.{name}")

    def _default(self, kind: str) -> dict[str, Any]:
        keys = self._defaults().get(kind)
        return keys if isinstance(keys, dict) else {}

    def _said(self, section: str, name: str, below: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What a node copies from the one that it is like, and its own keys; None after a fault."""
        node, where = self._named(section).get(name), f"{section}.{name}"
        if not isinstance(node, dict):
            self.faults.append(f"{where}: found {node!r}; must be keys and their values")
            return None
        own = {key: value for key, value in node.items() if key != "like"}
        other = node.get("like")
        if other is None:
            return {}, own
        if other in (*below, name):
            circle = " → ".join([*below, name, other])
            self.faults.append(f"{where}.like: nodes are like each other in a circle: {circle}")
            return None
        if other not in self._named(section):
            self.faults.append(unknown(f"{where}.like", other, self._named(section), f"node in {section}"))
            return None
        theirs = self._said(section, str(other), (*below, name))
        if theirs is None:
            return None
        copied = on_top(*theirs)
        kinds = KIND_KEYS[section]
        another_kind = any(kind in own and kind not in copied for kind in kinds)
        left_out = {"title", *(kinds if another_kind else ())}
        return {key: value for key, value in copied.items() if key not in left_out}, own

    def _type_of(self, section: str, name: str, said: Mapping[str, Any]) -> tuple[list[str], type[Settings]] | None:
        """The names under which its defaults stand, and its type; None after a fault."""
        where = f"{section}.{name}"
        if section == "sources":
            return ["source"], Source
        kinds = [kind for kind in KIND_KEYS[section] if kind in said]
        if len(kinds) != 1:
            said_so = f"is {' and '.join(kinds)} at once" if kinds else "does not say what it is"
            self.faults.append(f"{where}: it {said_so}; it must have one of the keys {', '.join(KIND_KEYS[section])}")
            return None
        kind = kinds[0]
        if kind != "train":
            found = evaluation_node(kind) if section == "evaluations" else (DATASETS | MODELS)[kind]
            return [kind], found
        if said["train"] not in objective_names():
            self.faults.append(unknown(f"{where}.train", said["train"], objective_names(), "objective"))
            return None
        return ["train", said["train"]], trained_model(said["train"], self._held(said.get("on")))

    def _held(self, dataset: Any) -> str:
        """What a dataset holds, as its kind tells."""
        name, seen = dataset, set()
        while isinstance(node := self._named("datasets").get(str(name)), dict) and str(name) not in seen:
            seen.add(str(name))
            if any(kind in node for kind in DATASETS):
                return "preferences" if "pairs" in node else "conversations"
            name = node.get("like")
        return "conversations"

    def _typed(self, model: type[Settings], values: Mapping[str, Any], where: str) -> Settings | None:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            self.faults += explain(error, model, where)
            return None

    def _hardware(self) -> dict[str, dict[str, Any]]:
        asked = self._values.get("hardware")
        if not isinstance(asked, dict) or not isinstance(asked.get("default"), dict):
            self.faults.append("hardware.default: missing (machines and layout of all that runs a model)")
            return {}
        known = ("default", *WORK, *self._named("models"), *self._named("evaluations"))
        default = self._typed(Hardware, asked["default"], "hardware.default")
        for name, keys in asked.items():
            if name not in known:
                self.faults.append(unknown(f"hardware.{name}", name, known, "kind of work, model or evaluation"))
            elif not isinstance(keys, dict):
                self.faults.append(f"hardware.{name}: found {keys!r}; must be keys and their values")
            elif name != "default" and default is not None:
                self._typed(Hardware, {**asked["default"], **keys}, f"hardware.{name}")
        return {str(name): dict(keys) for name, keys in asked.items() if isinstance(keys, dict)}


def _keys(model: type[Settings]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _keys_of_kind(kind: str) -> set[str]:
    """Keys that nodes of a kind, or of an objective, may have."""
    if kind == "source":
        return _keys(Source)
    if kind in DATASETS or kind in MODELS:
        return _keys((DATASETS | MODELS)[kind])
    if kind in evaluation_names():
        return _keys(evaluation_node(kind))
    objectives = objective_names() if kind == "train" else [kind]
    held = ("conversations", "preferences")
    return {key for objective in objectives for what in held for key in _keys(trained_model(objective, what))}


def _known_part(values: Mapping[str, Any], model: type[Settings]) -> dict[str, Any]:
    """Of copied keys, those that a type has."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    found = {}
    for key, value in values.items():
        if key in fields:
            inner = settings_in(fields[key].annotation)
            found[key] = _known_part(value, inner[0]) if len(inner) == 1 and isinstance(value, dict) else value
    return found
