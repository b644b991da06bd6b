"""Which files a pattern such as `data/train-*.parquet` names, in a repository or in a local folder alike."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a pattern fits, part by part of the path, in sorted order; hidden files are none."""
    parts = pattern.split("/")
    return [name for name in sorted(names) if _fits(name.split("/"), parts)]


def local_matches(folder: Path, pattern: str) -> list[str]:
    """Paths, relative to a folder, of its files that a pattern fits, in sorted order."""
    # Folders that the pattern does not name are not walked through.
    found = (path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())
    return matching(found, pattern)


def _fits(parts: list[str], patterns: list[str]) -> bool:
    return len(parts) == len(patterns) and parts[-1][0] != "." and all(map(fnmatchcase, parts, patterns))
