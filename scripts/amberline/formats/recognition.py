"""Which formats rows look like: for messages, never for reading."""

from collections.abc import Sequence
from typing import Any

from amberline.data.conversations import BadRecord, WrongFile, keys_left_out
from amberline.formats.base import Format
from amberline.formats.registry import format_names, load_format

LOOKED_AT = 100  # rows that tell what a file looks like


def recognised(rows: Sequence[Any]) -> list[str]:
    """Names of the formats that most of the rows have the shape of; first the one that leaves out least of a row."""
    fits = {name: _fit(load_format(name), rows) for name in format_names()}
    fitting = [name for name, (read, _) in fits.items() if 2 * read > len(rows)]
    return sorted(fitting, key=lambda name: (fits[name][1] / fits[name][0], -fits[name][0], name))


def nearest(rows: Sequence[Any]) -> list[str]:
    """Names of the formats whose columns most of the rows have, whatever is in them."""

    def has_columns(format_: Format, row: Any) -> bool:
        try:
            format_.check(row)
        except WrongFile:
            return False
        except BadRecord as fault:
            return fault.reason != "row_not_an_object" and not fault.reason.endswith("_missing")
        return True

    count = {name: sum(has_columns(load_format(name), row) for row in rows) for name in format_names()}
    return sorted((name for name in count if 2 * count[name] > len(rows)), key=lambda name: (-count[name], name))


def _fit(format_: Format, rows: Sequence[Any]) -> tuple[int, int]:
    """How many rows have the shape of a format, and how many keys of those it does not read."""
    read = left_out = 0
    for row in rows:
        try:
            format_.check(row)
        except (BadRecord, WrongFile):
            continue
        read += 1
        left_out += sum(1 for _ in keys_left_out(row, format_))
    return read, left_out
