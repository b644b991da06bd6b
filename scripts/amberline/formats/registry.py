"""Formats by name: each is a file of this folder that says `FORMAT = …`."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from amberline.formats.base import ConversationFormat, Format, PreferenceFormat

_FOLDER = Path(__file__).parent
_SHARED = {"__init__", "base", "pku_saferlhf", "registry"}

Kind = TypeVar("Kind", ConversationFormat, PreferenceFormat)


class FormatError(KeyError):
    """There is no such format, or it does not hold what is asked for: one message."""

    def __str__(self) -> str:
        """The message, without KeyError's quotes."""
        return str(self.args[0])


def format_names() -> list[str]:
    """Names of all formats, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.py") if file.stem not in _SHARED)


def format_file(name: str) -> Path:
    """The file of a format: its code is part of what determines what is read with it. Raises FormatError."""
    if name not in format_names():
        raise FormatError(f"there is no format {name!r}; there are: {', '.join(format_names())}")
    return _FOLDER / f"{name}.py"


def load_format(name: str) -> Format:
    """A format by its name. Raises FormatError."""
    format_file(name)
    found: Format = importlib.import_module(f"amberline.formats.{name}").FORMAT
    return found


def with_formats(files: Sequence[Path], names: Sequence[str], kind: type[Kind]) -> list[tuple[Path, Kind]]:
    """Each file with the format of its rows, which must be of a kind. Raises FormatError."""
    if len(files) != len(names):
        raise FormatError(
            f"there are {len(files)} files, but {len(names)} formats in the settings ({', '.join(names)}): "
            "name one format for each file, in the same order"
        )
    return [(file, _of_kind(name, kind)) for file, name in zip(files, names, strict=True)]


def _of_kind(name: str, kind: type[Kind]) -> Kind:
    found = load_format(name)
    if not isinstance(found, kind):
        raise FormatError(f"the format {name} holds {found.holds}, but {kind.holds} are asked for")
    return found
