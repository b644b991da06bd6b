"""Preferences: a prompt with two responses and what is said of them, and the pairs that are trained on.

A prompt that is one human turn is its text. A longer one is a list of turns, `[{"from", "value"}, …]`: it is known by
the compact JSON of that list, so that files that are grouped by prompt have one kind of key, and stands beside it as
`turns`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from amberline.data.conversations import Turn, turn_to_json
from amberline.data.streams import BadFile

GROUPED_FIX = 'make it {prompt: {"responses": [...], "pairs": [[chosen, rejected], ...], "sft_target": ...}}.'


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with two responses, and what its row says of them: which is preferred, or for each whether it is safe.

    `turns` are those of a prompt that is more than one human turn, else there are none.
    """

    prompt: str
    responses: tuple[str, str]
    chosen: int | None = None  # index of the preferred response
    safe: tuple[bool, bool] | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with the preferred response and the other; `turns` as in Preference."""

    prompt: str
    chosen: str
    rejected: str
    turns: tuple[Turn, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a line of JSON lines."""
        turns = {"turns": list(map(turn_to_json, self.turns))} if self.turns else {}
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected, **turns}


def preference_of_turns(prompt: Sequence[Turn], responses: tuple[str, str], chosen: int) -> Preference:
    """A preference whose prompt is a list of turns, at least one."""
    if len(prompt) == 1 and prompt[0].speaker == "human":
        return Preference(prompt[0].text, responses, chosen)
    name = orjson.dumps(list(map(turn_to_json, prompt))).decode()
    return Preference(name, responses, chosen, turns=tuple(prompt))


def prompt_turns(prompt: str, value: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of a prompt in a file of pairs grouped by prompt: those in its value, or its text as one human turn."""
    written = value.get("turns", [{"from": "human", "value": prompt}])
    return tuple(Turn(turn["from"], turn["value"]) for turn in written)


def read_grouped(path: Path) -> dict[str, Any]:
    """Read a file of pairs grouped by prompt, whole: the published one is 200 MB. Raises BadFile."""
    try:
        grouped = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadFile(path, 0, f"it cannot be read as JSON ({error})", "make the pairs again.") from None
    if not isinstance(grouped, dict) or not grouped:
        raise BadFile(path, 0, "it is not a JSON object of prompts", GROUPED_FIX)
    return grouped
