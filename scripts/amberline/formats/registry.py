"""Formats by name: each is a file of this folder that says `FORMAT = …`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from amberline.core.registry import Registry
from amberline.formats.base import ConversationFormat, Format, PreferenceFormat

Kind = TypeVar("Kind", ConversationFormat, PreferenceFormat)


class FormatError(KeyError):
    """There is no such format, or it does not hold what is asked for: one message."""

    def __str__(self) -> str:
        """The message, without KeyError's quotes."""
        return str(self.args[0])


_REGISTRY: Registry[Format] = Registry(
    Path(__file__).parent,
    "format",
    "FORMAT",
    shared=("pku_saferlhf", "message_lists", "recognition"),
    error=FormatError,
)
format_names, format_file, load_format = _REGISTRY.names, _REGISTRY.file, _REGISTRY.load


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
        raise FormatError(
            f"the format {name} holds {found.holds}, but {kind.holds} are asked for. Fix: set the source's format"
        )
    return found
