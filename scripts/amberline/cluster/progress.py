"""Whether an interrupted training gets on."""

from pathlib import Path

# Starts without a new checkpoint after which a stage is not started again by itself.
IDLE_STARTS = 2

DIGEST = "[0-9a-f]" * 16  # at the end of a run directory's name


def newest_checkpoint(checkpoints: Path, stage: str) -> str:
    """The newest checkpoint of a stage, whatever its settings; empty while there is none."""
    marks = checkpoints.glob(f"{stage}-{DIGEST}/*/checkpoint.json")
    # A checkpoint may be removed, as one too many, while we look.
    found = {mark.stat().st_mtime_ns: str(mark.parent) for mark in marks if mark.exists()}
    return found[max(found)] if found else ""


def is_complete(checkpoints: Path, stage: str) -> bool:
    """Whether the run of a stage that was started last has its final weights, and only a summary to write."""
    # A start changes the folder: it writes its lock there.
    runs = {folder.stat().st_mtime_ns: folder for folder in checkpoints.glob(f"{stage}-{DIGEST}") if folder.is_dir()}
    return bool(runs) and (runs[max(runs)] / "final/checkpoint.json").exists()
