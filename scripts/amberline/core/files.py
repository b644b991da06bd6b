"""Files that are either whole or not there."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def placed(path: Path) -> Iterator[None]:
    """Name `path` in errors of the system that name no file: a full disk is met in a write, which knows none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises ValueError, which says what it is instead, and OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def expanded(path: str | Path) -> Path:
    """A path with the home folder in the place of `~`; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def free_bytes(path: Path) -> int:
    """What is free on the disk of a path, which need not be there yet."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def check_room(path: Path, needed: int) -> None:
    """Raise what a full disk would, before so many bytes are written to a path that has no room for them."""
    if free_bytes(path) < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for about {needed:,} bytes", str(path))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name, so that a killed run's remains are overwritten by the next instead of piling up.
    partial = path.with_name(f".{path.name}.partial")
    try:
        with placed(path):
            yield partial
            with open(partial, "rb+") as handle:
                os.fsync(handle.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; put it in the place of `path` when the block ends well.

    An older folder at `path` is moved aside first and removed last, so a kill never leaves half a folder there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with placed(path):
            yield partial
        if path.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(aside / path.name)
            partial.replace(path)
            shutil.rmtree(aside)
        else:
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
