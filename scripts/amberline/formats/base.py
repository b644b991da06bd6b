"""What a format of a dataset is: how its rows are read, and by what its files are told from others.

To add a format, write a file like `sharegpt.py` in this folder, and the line `FORMAT = …` that names it; a source of
the recipe says `format: NAME`, with the file's name. Files of this folder are read with the recipe, at every
`snakemake -n`, so nothing large is imported.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from amberline.data.conversations import BadRecord, Conversation, Turn, id_in, kind_of, refuse_lone_surrogates
from amberline.data.preferences import Preference


@dataclass(frozen=True, slots=True)
class TooManyRows:
    """A file with as many rows as this, or more, is another than it should be: what it probably is, and the fix."""

    rows: int
    what: str


class Format(ABC):
    """How the rows of a dataset are read. A format holds conversations or preferences: see the classes below."""

    holds: Literal["conversations", "preferences"]
    shape: str  # of a row, for messages
    # Keys of a row that are read or known to be of no use; all others are counted as left out. None: nothing is said.
    keys: frozenset[str] | None = None
    turns: Mapping[str, frozenset[str]] = {}  # keys of a turn that are read, by the keys under which turns are listed
    too_many: TooManyRows | None = None  # a known trap among the files of this dataset

    @abstractmethod
    def check(self, row: Any) -> None:
        """Raise BadRecord for a row that is not of this format, WrongFile for one that speaks for its whole file."""


class ConversationFormat(Format):
    """Rows that are conversations."""

    holds = "conversations"
    id_key: str | None = None  # key of a row's id; None: rows have none, and it is made of their text
    part: re.Pattern[str] | None = None  # of an id that is part of a conversation; its first group names the whole

    @abstractmethod
    def conversation(self, row: Any) -> Conversation:
        """A row as a conversation. Raises BadRecord or WrongFile."""

    def check(self, row: Any) -> None:
        """See Format."""
        self.conversation(row)


class PreferenceFormat(Format):
    """Rows that are a prompt with two responses."""

    holds = "preferences"
    selections: frozenset[str]  # by which `select` of the settings pairs can be chosen from such rows

    @abstractmethod
    def preference(self, row: Any) -> Preference:
        """A row as a preference. Raises BadRecord or WrongFile."""

    def check(self, row: Any) -> None:
        """See Format."""
        self.preference(row)


def columns_of(row: Any, columns: Sequence[str]) -> dict[str, Any]:
    """The row, which must be an object with these columns. Raises BadRecord: row_not_an_object, column_missing."""
    if not isinstance(row, dict):
        raise BadRecord("row_not_an_object", f"found {kind_of(row)}")
    if missing := [column for column in columns if column not in row]:
        raise BadRecord("column_missing", ", ".join(missing))
    return row


def text_of(row: dict[str, Any], column: str) -> str:
    """The text in a column. Raises BadRecord: text_wrong_type, lone_surrogate."""
    text = row[column]
    if not isinstance(text, str):
        raise BadRecord("text_wrong_type", f"{column!r} is {kind_of(text)}, not a string")
    refuse_lone_surrogates(text, column)
    return text


def optional_text(row: dict[str, Any], column: str) -> str:
    """The text in a column that may be null or missing: then it is empty. Raises BadRecord as `text_of`."""
    return "" if row.get(column) is None else text_of(row, column)


def optional_id(row: dict[str, Any], *columns: str) -> str | None:
    """The id of a row in the first of these columns that has one; a whole number is taken as its digits.

    Raises BadRecord: id_wrong_type, lone_surrogate.
    """
    column = next((each for each in columns if row.get(each) is not None), None)
    return None if column is None else id_in(row, column)


def id_of_turns(turns: Sequence[Turn]) -> str:
    """An id for a conversation that has none, made of its texts, and of its speakers where others than two speak."""
    two_sides = all(turn.speaker == ("human", "gpt")[number % 2] for number, turn in enumerate(turns))
    return id_of_texts(*(text for turn in turns for text in ((turn.text,) if two_sides else (turn.speaker, turn.text))))


def id_of_texts(*texts: str) -> str:
    """An id for a row that has none: equal texts, in equal order, have equal ids."""
    digest = sha256()
    for text in texts:
        content = text.encode()
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()[:16]
