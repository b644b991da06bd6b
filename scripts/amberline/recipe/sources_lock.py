"""`sources.lock`: what was found of sources whose sha256 the recipe does not say. It is held from then on.

    mine:
      files:
        mine.jsonl: {bytes: 1234, sha256: 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef}

It lies in the folder that Snakemake runs in, beside the recipe, and can be committed with it. To take another content,
delete the entry of the source.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from amberline.core.digests import value_digest
from amberline.core.files import whole_file

PLACE = Path("sources.lock")

HEAD = """\
# What was found of sources whose sha256 the recipe does not say; they are held to it from then on. Commit this file
# with the recipe. To take another content, delete the entry of the source.
"""

# Bytes and sha256 of each file of a source, by its name. What is compared may lack the sha256.
Contents = Mapping[str, Mapping[str, Any]]


def digest_of(contents: Contents) -> str:
    """The sha256 of one file; of several, the digest of their names and contents."""
    only, *more = contents.values()
    return value_digest(contents) if more else str(only["sha256"])


class SourcesLockError(Exception):
    """A source is not what it was when it was first used, or the file cannot be read: one message with the fix."""


class SourcesLock:
    """The file, which several processes may read and write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def held(self, name: str) -> Contents | None:
        """What a source is held to; None: it was not used yet. Raises SourcesLockError."""
        entry = self._read().get(name)
        return entry["files"] if entry else None

    def check(self, name: str, found: Contents) -> None:
        """Raise SourcesLockError if a source is not what it was when it was first used."""
        entry = self._read().get(name)
        if entry and (difference := find_difference(entry["files"], found)):
            at = f" (commit {entry['commit']})" if "commit" in entry else ""
            raise SourcesLockError(
                f"{difference} by {self.path}, which holds what was found when it was first used{at}. Fix: restore it, "
                f"or delete the entry {name!r} of {self.path} if you mean to use what is there now."
            )

    def hold(self, name: str, found: Contents, commit: str | None) -> None:
        """Hold a source to what was found, unless it is held already. Raises SourcesLockError."""
        with _alone(self.path):
            entries = self._read()
            if name not in entries:
                entries[name] = {"files": found} | ({"commit": commit} if commit else {})
                with whole_file(self.path) as partial:
                    partial.write_text(HEAD + yaml.safe_dump(entries, allow_unicode=True), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            entries = yaml.safe_load(self.path.read_text(encoding="utf-8")) or {}
            digests = [file["sha256"] for entry in entries.values() for file in entry["files"].values()]
        except FileNotFoundError:
            return {}
        except (ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError):
            digests = [None]
        if not all(isinstance(digest, str) for digest in digests):
            raise SourcesLockError(
                f"{self.path}: it is not as it was written. Fix: restore it (git checkout), or delete it to trust anew "
                "what is found."
            )
        return dict(entries)


def find_difference(held: Contents, found: Contents) -> str | None:
    """In what a source differs from what it is held to, as a clause; None if it does not.

    Of a single file the name does not matter.
    """
    if len(held) == len(found) == 1:
        ((name, here),), (there,) = found.items(), held.values()
        return _other_content(name, there, here)
    for what, names in (("is missing", held.keys() - found.keys()), ("is new", found.keys() - held.keys())):
        if names:
            return f"{min(names)} {what}"
    return next(filter(None, (_other_content(name, held[name], found[name]) for name in sorted(held))), None)


def _other_content(name: str, held: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    key = "sha256" if "sha256" in found else "bytes"
    return None if found[key] == held[key] else f"{name} has {key} {found[key]}, but must have {held[key]}"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process writes a file, which is made if it is not there."""
    while True:
        with open(path, "a", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Whoever held it may have put another file in its place.
            if path.exists() and os.fstat(handle.fileno()).st_ino == path.stat().st_ino:
                yield
                return
