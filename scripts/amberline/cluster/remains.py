"""What a kill leaves of a file or folder that was being written or replaced, and what becomes of it."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from amberline.recipe.inventory import OF_NODES

# As `core.files` names what is being written, and what is moved aside for it.
PARTIAL = re.compile(r"\.(.+)\.partial")
ASIDE = re.compile(r"\.(.+)\.old\.[^.]+")

FOLDERS = (*OF_NODES, "checkpoints", "report")


def clear(results: Path, say: Callable[[str], None]) -> None:
    """Remove what is half made in a results folder; put back what was moved aside and has no successor.

    Nobody else may write there. What a download or a training has begun goes on, and has other names.
    """
    # Not everything below it: the results of other recipes may lie there, with a claim of their own.
    for path in [path for name in FOLDERS if (results / name).is_dir() for path in _remains(results / name)]:
        aside = ASIDE.fullmatch(path.name)
        if aside:
            old, place = path / aside[1], path.parent / aside[1]
            if old.exists() and not place.exists():
                old.replace(place)
                say(f"{place} was being replaced when a run was killed: it is put back as it was before.")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        if not aside:
            say(f"{path} was left half made by a run that was killed: it is removed.")


def _remains(folder: Path) -> Iterator[Path]:
    """What a kill has left, at any depth; of what is found, nothing further inside."""
    for path in folder.iterdir():
        if PARTIAL.fullmatch(path.name) or ASIDE.fullmatch(path.name):
            yield path
        elif path.is_dir() and not path.is_symlink() and not path.name.endswith(".download"):
            yield from _remains(path)
