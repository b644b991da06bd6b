"""Checkpoints on disk: which are complete, and whether their files are as they were written."""

import json
from dataclasses import dataclass
from pathlib import Path

from amberline.core.digests import file_digest

MARKER = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    step: int  # optimizer steps that were done
    processes: int  # that wrote it
    plan: str  # digest of the batch plan
    files: dict[str, str]  # sha256 of each file


def complete(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints in a run directory, oldest first; their files are not verified."""
    found = [read_marker(each) for each in sorted(folder.glob("step-*"))]
    return [checkpoint for checkpoint in found if checkpoint is not None]


def read_marker(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder, or None if it is not complete."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return Checkpoint(folder, marker["step"], marker["processes"], marker["plan"], marker["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def verified(checkpoint: Checkpoint) -> bool:
    """Whether every file is the one that was written."""
    return not find_faults(checkpoint, sorted(checkpoint.files))


def find_faults(checkpoint: Checkpoint, names: list[str]) -> list[str]:
    """What is wrong with some of a checkpoint's files; empty if they are as they were written."""
    faults = []
    for name in names:
        file = checkpoint.folder / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif file_digest(file) != checkpoint.files[name]:
            faults.append(f"{name} is not as it was written")
    return faults
