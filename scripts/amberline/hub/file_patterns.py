"""Which files a pattern such as `data/train-*.parquet` names, in a repository or in a local folder alike."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a pattern fits, part by part of the path, in sorted order."""
    parts = pattern.split("/")
    return [name for name in sorted(names) if _fits(name.split("/"), parts)]


def local_names(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it."""
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _fits(parts: list[str], patterns: list[str]) -> bool:
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
