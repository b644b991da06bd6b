"""What a file of rows is, before it is a source of a recipe: container, format, what its rows would be read as."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from amberline.core.digests import file_digest
from amberline.core.funnel import Funnel
from amberline.core.progress import progress
from amberline.data.conversations import BadRecord, LeftOut, Turn, WrongFile, has_answer, keys_left_out, oddities
from amberline.data.selecting_pairs import SELECTIONS
from amberline.data.streams import BadFile, container, read_records, stem
from amberline.formats.base import ConversationFormat, Format, PreferenceFormat
from amberline.formats.recognition import LOOKED_AT, nearest, recognised
from amberline.formats.registry import format_names, load_format

SHOWN_ROWS = 3
SHOWN_TURNS = 6
SHOWN_CHARACTERS = 160


@dataclass
class Inspection:
    """What was found out about a file."""

    file: Path
    container: str
    formats: list[str]  # that its rows look like; the first is the one that they were read as
    account: Funnel = field(default_factory=lambda: Funnel("inspect_source"))
    first: dict[str, tuple[int, str]] = field(default_factory=dict)  # row and detail of each reason's first reject
    shown: list[str] = field(default_factory=list)  # some rows as they would be understood


def inspect(file: Path, format_name: str | None) -> Inspection:
    """Read a file as a format, or as the one that it looks like. Raises BadFile and FormatError."""
    if file.is_dir():
        raise BadFile(file, 0, "it is a folder", "name one of its files.")
    kind = container(file)
    found = Inspection(file, kind, [format_name] if format_name else _formats_of(file, kind))
    format_ = load_format(found.formats[0])
    left_out = LeftOut()
    for number, row in progress(read_records(file), desc=f"reading {file.name}", unit=" rows"):
        found.account.add("rows", into=1)
        try:
            turns, remarks = _understood(format_, row)
            for what, key in keys_left_out(row, format_):
                left_out.note(found.account, what, key)
        except WrongFile as fault:
            raise BadFile(file, number, fault.what, fault.fix) from None
        except BadRecord as fault:
            found.account.reject("rows", fault.reason)
            found.first.setdefault(fault.reason, (number, fault.detail))
            continue
        found.account.add("rows", out=1)
        for remark in remarks:
            found.account.note(remark)
        if len(found.shown) < SHOWN_ROWS:
            found.shown.append("\n".join([f"row {number}:", *_shown(turns)]))
    found.account.close()
    return found


def _formats_of(file: Path, kind: str) -> list[str]:
    """The formats that a file looks like. Raises BadFile if there is none."""
    rows = [row for _, row in islice(read_records(file), LOOKED_AT)]
    if not rows:
        raise BadFile(file, 0, "there is no row in it", "get it again.")
    if found := recognised(rows) or nearest(rows):
        return found
    keys = ", ".join(map(repr, rows[0])) if isinstance(rows[0], dict) else "none, for it is no object"
    known = "; ".join(f"{name}: {load_format(name).shape}" for name in format_names())
    fix = f"write its rows in one of these formats, or add a format (CONTRIBUTING.md): {known}"
    raise BadFile(file, 0, f"{kind}, and its rows look like no known format; keys of row 1: {keys[:300]}", fix)


def _understood(format_: Format, row: Any) -> tuple[list[Turn], list[str]]:
    """A row as turns, with what is remarkable about it. Raises BadRecord and WrongFile."""
    if isinstance(format_, ConversationFormat):
        conversation = format_.conversation(row)
        remarks = [kind for kind, _ in oddities(conversation)]
        return list(conversation.turns), remarks + ["no_answer"] * (not has_answer(conversation))
    assert isinstance(format_, PreferenceFormat), "a format holds conversations or preferences"
    select, _ = SELECTIONS[min(format_.selections)]
    pair = select(format_.preference(row))
    prompt = pair.turns or (Turn("human", pair.prompt),)
    return [*prompt, Turn("chosen", pair.chosen), Turn("rejected", pair.rejected)], []


def _shown(turns: list[Turn]) -> Iterator[str]:
    """Turns for people, each on one line."""
    for turn in turns[:SHOWN_TURNS]:
        text = turn.text[:SHOWN_CHARACTERS].replace("\n", "\\n")
        yield f"  {turn.speaker}: {text}{'…' * (len(turn.text) > SHOWN_CHARACTERS)}"
    if (more := len(turns) - SHOWN_TURNS) > 0:
        yield f"  … and {more} more turn{'s' * (more > 1)}"


def told(found: Inspection) -> str:
    """An inspection for people, with the lines for a recipe at the end."""
    format_, more = found.formats[0], found.formats[1:]
    rows = found.account.into["rows"]
    lines = [f"{found.file}: {found.container}, {found.file.stat().st_size:,} bytes, {rows:,} rows"]
    lines += [f"format: {format_} ({load_format(format_).holds}), rows of {load_format(format_).shape}"]
    lines += [f"It looks like {' and '.join(more)}, too: --format {more[0]} shows it read so."] if more else []
    lines += ["", *found.shown, "", found.account.line("rows")]
    lines += [f"  {reason}: first in row {row}: {detail[:200]}" for reason, (row, detail) in found.first.items()]
    if found.account.out["rows"]:
        lines += ["", "For the recipe (docs/recipes.md):", "", _recipe(found)]
    else:
        lines += ["", f"No row can be used as {format_}. Fix: correct the rows, or give another --format."]
    return "\n".join(lines)


def _name(file: Path) -> str:
    """What a recipe may call a file: no word that it has a meaning for, and no node of the published recipe."""
    words = re.sub(r"[^a-z0-9]+", "-", stem(file).lower()).strip("-") or "rows"
    return words if words.startswith("my-") else f"my-{words}"


def _recipe(found: Inspection) -> str:
    """The source as lines of a recipe, and how a dataset names it."""
    name = _name(found.file)
    source = {
        "format": found.formats[0],
        "path": str(found.file),
        "bytes": found.file.stat().st_size,
        "sha256": file_digest(found.file),
        "rows": found.account.into["rows"],
        "licence": None,
    }
    format_ = load_format(found.formats[0])
    if isinstance(format_, PreferenceFormat):
        selection = min(format_.selections)
        dataset: dict[str, Any] = {"pairs": {"train": name, "test": "ANOTHER SOURCE"}, "select": selection}
    else:
        dataset = {"mix": [name], "seed": 0, "heldout": 0}
    recipe = {"sources": {name: source}, "datasets": {f"{name}-data": dataset}}
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=1000).rstrip()
