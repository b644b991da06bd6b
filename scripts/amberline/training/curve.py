"""The curve of a run as it is on disk: `metrics.jsonl`, a JSON line a step and one for each evaluation."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class CurveError(Exception):
    """Steps that a run has done are missing from its curve."""


def read_metrics(path: Path) -> list[Line]:
    """The lines of a curve up to the first that is not whole: a kill cuts one, a power loss may damage several."""
    return list(_whole_lines(path.read_bytes())) if path.is_file() else []


def damaged_line(path: Path) -> int | None:
    """The number of the first line that was ended and cannot be read; None if there is none."""
    whole = len(read_metrics(path))
    ended = path.read_bytes().count(b"\n") if path.is_file() else 0
    return whole + 1 if whole < ended else None


def check_curve(path: Path, lines: Sequence[Line], steps: int) -> None:
    """Raise CurveError unless every one of the first `steps` steps is in the lines, which were read from `path`."""
    there = {line["step"] for line in lines if "loss" in line}
    lost = next((step for step in range(1, steps + 1) if step not in there), None)
    if lost is not None:
        raise CurveError(
            f"{path}: step {lost} is missing, as the file is damaged from line {len(lines) + 1} on, or was changed; "
            f"{steps} steps are done. Fix: put a copy of that file back, or delete `final` and every checkpoint after "
            f"step {lost - 1} from {path.parent}, and start again: those steps are then done anew"
        )


def _whole_lines(content: bytes) -> Iterator[Line]:
    for text in content.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except ValueError:
            return
        if not (isinstance(line, dict) and isinstance(line.get("step"), int)):
            return
        yield line
