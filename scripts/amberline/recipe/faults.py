"""What is wrong with a recipe, in sentences that fix it."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from amberline.core.settings import Settings


def message(faults: Iterable[str]) -> str:
    """All faults of a recipe at once."""
    lines = "\n".join(f"  - {fault}" for fault in dict.fromkeys(faults))
    return (
        f"the configuration is wrong, nothing was started:\n{lines}\n"
        "Fix: correct the file given with --configfile, or config.yaml (every key is explained there)."
    )


def explain(error: ValidationError, model: type[Settings], where: str) -> Iterator[str]:
    """One line for each fault: the key, what was found there, and what is allowed."""
    known = dict(paths_of(model))
    prefix = f"{where}." if where else ""
    for fault in error.errors():
        path = _path(fault["loc"], known)
        match fault["type"]:
            case "extra_forbidden":
                yield f"{prefix}{path}: unknown key (found {fault['input']!r}); {_allowed(path, known, prefix)}"
            case "missing" if path == "responses":
                yield f"{prefix}{path}: missing; its dataset holds pairs: say which response is learnt, as in chosen"
            case "missing" if path == "format":
                yield f"{prefix}{path}: missing; `python scripts/inspect_source.py FILE` tells the format of a file"
            case "missing":
                yield f"{prefix}{path}: missing ({known.get(path) or 'it must be given'})"
            case "value_error":
                yield f"{prefix}{path}".rstrip(".") + f": {fault['ctx']['error']}"
            case _:
                yield f"{prefix}{path}: found {fault['input']!r}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


def unknown(where: str, name: Any, known: Iterable[str], what: str) -> str:
    """That there is no such node, objective or the like, with the nearest one that there is."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    allowed = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
    return f"{where}: there is no {what} {name!r}; {allowed}"


def unknown_key(path: str, known: Iterable[str]) -> str:
    """That a key is not known, with the nearest one that is."""
    return f"{path}: unknown key; {_allowed(path, list(known), '')}"


def _allowed(path: str, known: Iterable[str], prefix: str) -> str:
    near = difflib.get_close_matches(path, list(known), n=1, cutoff=0.6)
    parent = path.rpartition(".")[0]
    beside = sorted(key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent)
    return f"did you mean {prefix}{near[0]}?" if near else f"allowed there: {', '.join(beside)}"


def _path(location: tuple[int | str, ...], known: Iterable[str]) -> str:
    """The dotted path of a fault as it stands in the file: pydantic's location has names of union members, too."""
    path: list[str] = []
    for position, part in enumerate(location):
        is_key = isinstance(part, int) or ".".join([*path, part]) in known
        is_new = position == len(location) - 1 and not any(mark in str(part) for mark in "[-(")
        if is_key or (is_new and part not in {"str", "int", "float", "bool"}):
            path.append(str(part))
    return ".".join(path)


def paths_of(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted path of each key of a type, and its description."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key, field.description or ""
        for inner in settings_in(field.annotation):
            yield from paths_of(inner, f"{key}.")


def settings_in(annotation: Any) -> list[type[Settings]]:
    """The settings classes inside a type: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [each for inner in getattr(annotation, "__args__", ()) for each in settings_in(inner)]
