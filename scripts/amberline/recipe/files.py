"""Recipe files on top of each other: one nested mapping, before anything in it is checked.

Later files win key by key; lists are replaced whole. A mapping that says another kind than the one under it, such as
`pretrained` over `tiny` or another optimizer's `name`, replaces it, and `null` removes a node. The first file stands on
`config.yaml` unless it says `extends: FILE`, or `extends: null` to stand alone.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from amberline.core.files import expanded
from amberline.evaluations.registry import evaluation_names
from amberline.recipe.yaml_files import load_yaml

WORKFLOW = Path(__file__).resolve().parents[3]  # the folder of the Snakefile
PUBLISHED = WORKFLOW / "config.yaml"

# The keys that tell the kind of a node, by the section that it is in.
KIND_KEYS: Mapping[str, tuple[str, ...]] = {
    "sources": (),
    "datasets": ("mix", "chunk", "pairs"),
    "models": ("pretrained", "tiny", "train"),
    "evaluations": tuple(evaluation_names()),
}


class ConfigurationError(Exception):
    """The configuration or a target is wrong. The message names it, what was found, what is allowed, and the fix."""


def read_recipe(files: Sequence[Path], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read recipe files, each on top of those before it, and then `more`, which may say `extends` if it stands alone.

    Raises ConfigurationError.
    """
    more = _with_strings(more or {})
    merged: dict[str, Any] = {}
    for file in _with_extended(files) if files else _under(more):
        merged = put_on_top(merged, read_file(file))
    merged = put_on_top(merged, more)
    merged.pop("extends", None)
    return merged


def find_file(path: str) -> Path:
    """A path in a recipe: relative to the working folder, else to the workflow's."""
    here = expanded(path)
    return here if here.is_absolute() or here.exists() or not (WORKFLOW / here).exists() else WORKFLOW / here


def read_file(file: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises ConfigurationError."""
    try:
        values = load_yaml(file)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no recipe file {file}, nothing was started") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"the recipe file {file} cannot be read, nothing was started: {error}") from None
    if not isinstance(values or {}, dict):
        raise ConfigurationError(f"the recipe file {file} holds no keys, nothing was started")
    return values or {}


def _with_strings(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Values that others have read as YAML 1.1, for which the key `on` is true."""
    keys = {True: "on", False: "off"}
    return {
        keys[key] if isinstance(key, bool) else key: _with_strings(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }


def _with_extended(files: Sequence[Path]) -> list[Path]:
    """The files, each once, with those before them that the first one stands on."""
    chain: list[Path] = []
    for number, file in enumerate(files):
        under = _extended(file)
        if number == 0:
            chain += under
        elif "extends" in read_file(file) and not _among(under, chain):
            raise ConfigurationError(
                f"{file}: extends works in the first recipe file alone, nothing was started. "
                f"Fix: remove it, for this file is put on top of {files[number - 1]}, or name this file first"
            )
        chain += [] if _among([file], chain) else [file]
    return chain


def _under(values: Mapping[str, Any]) -> list[Path]:
    """What values that are in no file stand on, the lowest first."""
    if values.get("extends", "") is None:
        return []
    under = find_file(str(values.get("extends", PUBLISHED)))
    return _with_extended([under])


def _extended(file: Path, above: Sequence[Path] = ()) -> list[Path]:
    """What a file stands on, the lowest first."""
    if file.resolve() == PUBLISHED.resolve():
        return []
    if _among([file], above):
        circle = " → ".join(map(str, [*above, file]))
        raise ConfigurationError(f"recipe files extend each other in a circle, nothing was started: {circle}")
    wanted = read_file(file).get("extends", str(PUBLISHED))
    if wanted is None:
        return []
    under = find_file(str(wanted))
    if not under.is_file():
        raise ConfigurationError(f"{file}: extends {str(wanted)!r}, and there is no such file; nothing was started")
    return [*_extended(under, [*above, file]), under]


def _among(wanted: Iterable[Path], files: Sequence[Path]) -> bool:
    known = {file.resolve() for file in files}
    return all(file.resolve() in known for file in wanted)


def put_on_top(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with another on top of it. Raises ConfigurationError."""
    merged = dict(values)
    for key, value in over.items():
        old = merged.get(key)
        if key in KIND_KEYS and isinstance(value, dict):
            merged[key] = _nodes_on_top(old if isinstance(old, dict) else {}, value, key)
        else:
            merged[key] = on_top(old, value)
    sections = [over[key] for key in KIND_KEYS if isinstance(over.get(key), dict)]
    removed = {name for nodes in sections for name, node in nodes.items() if node is None}
    if removed and isinstance(merged.get("hardware"), dict):
        # What a removed node would run on is of no use to anything else.
        merged["hardware"] = {name: each for name, each in merged["hardware"].items() if name not in removed}
    return merged


def _nodes_on_top(nodes: Mapping[str, Any], over: Mapping[str, Any], section: str) -> dict[str, Any]:
    merged = dict(nodes)
    for name, node in over.items():
        if node is not None:
            merged[name] = node if _is_another_kind(merged.get(name), node, section) else on_top(merged.get(name), node)
        elif name in merged:
            del merged[name]
        else:
            near = difflib.get_close_matches(str(name), list(map(str, merged)), n=1)
            raise ConfigurationError(
                f"{section}.{name}: null removes a node, and there is none of this name; nothing was started"
                + (f". Did you mean {near[0]}?" if near else "")
            )
    return merged


def _is_another_kind(old: Any, new: Any, section: str) -> bool:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    kinds = KIND_KEYS[section]
    return any(kind in old for kind in kinds) and any(kind in new and kind not in old for kind in kinds)


def on_top(old: Any, new: Any) -> Any:
    """A value with another on top of it: mappings key by key, unless they have different names."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if "name" in new and "name" in old and new["name"] != old["name"]:
        return new
    return {**old, **{key: on_top(old.get(key), value) for key, value in new.items()}}
