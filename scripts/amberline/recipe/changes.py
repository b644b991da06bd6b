"""What changed in the params of a job since Snakemake recorded them, in words: for those who read a plan."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amberline.core.settings import leaves

SHORT = 40  # characters of a value that is still told
DIGEST = "[0-9a-f]{64}"  # of code


def told_changes(before: Iterable[Any], now: Iterable[Any]) -> list[str]:
    """What params that are only in `before` and only in `now` tell of a change: `beta: 0.1 -> 0.3`, `code`.

    Snakemake records params without their names, so settings are found by their shape: of two mappings, those are held
    against each other that have the most keys in common.
    """
    earlier = [_mapping(value) for value in before]
    found: list[str] = []
    for value in now:
        here = _mapping(value)
        if here is not None:
            found += _differences(_alike(here, earlier), here)
        elif re.fullmatch(DIGEST, str(value)):
            found.append("code")
        elif fault := re.fullmatch(r"made: \d+ \((.*)\)", str(value), re.DOTALL):
            found.append(fault[1])
        else:
            found.append(_short(value))
    return list(dict.fromkeys(found))


def _mapping(value: Any) -> Mapping[str, Any] | None:
    """The leaves of a mapping that was written as JSON, into the param itself or into a file that the param names."""
    text = str(value)
    try:
        if text.endswith(".json"):
            text = Path(text).read_text(encoding="utf-8")
        read = json.loads(text)
    except (OSError, ValueError):
        return None
    return dict(leaves(read)) if isinstance(read, dict) else None


def _alike(here: Mapping[str, Any], earlier: Iterable[Mapping[str, Any] | None]) -> Mapping[str, Any]:
    return max((each for each in earlier if each is not None), key=lambda each: len(each.keys() & here), default={})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key):
            continue
        is_digest = re.fullmatch(DIGEST, str(now.get(key)))
        yield key if is_digest else f"{key}: {_short(before.get(key))} -> {_short(now.get(key))}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= SHORT else f"{text[:SHORT].rstrip()}…"
