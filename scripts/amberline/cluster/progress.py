"""Whether an interrupted training gets on."""

from pathlib import Path

# Starts without a new checkpoint after which a stage is not started again by itself.
IDLE_STARTS = 2


def newest_checkpoint(checkpoints: Path, stage: str) -> str:
    """The newest checkpoint of a stage, whatever its settings; empty while there is none."""
    marks = checkpoints.glob(f"{stage}-*/*/checkpoint.json")
    # A checkpoint may be removed, as one too many, while we look.
    found = {mark.stat().st_mtime_ns: str(mark.parent) for mark in marks if mark.exists()}
    return found[max(found)] if found else ""
