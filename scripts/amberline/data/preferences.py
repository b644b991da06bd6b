"""Preferences: a prompt with two responses and what is said of them, and the pairs that are trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from amberline.data.streams import BadFile

GROUPED_FIX = 'It should be {prompt: {"responses": [...], "pairs": [[chosen, rejected], ...], "sft_target": ...}}.'


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with two responses, and for each whether it is safe."""

    prompt: str
    responses: tuple[str, str]
    safe: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with the preferred response and the other."""

    prompt: str
    chosen: str
    rejected: str


def read_grouped(path: Path) -> dict[str, Any]:
    """Read a file of pairs grouped by prompt, whole: the published one is 200 MB. Raises BadFile."""
    try:
        grouped = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadFile(path, 0, f"it cannot be read as JSON ({error})", "Make the pairs again.") from None
    if not isinstance(grouped, dict) or not grouped:
        raise BadFile(path, 0, "it is not a JSON object of prompts", GROUPED_FIX)
    return grouped
