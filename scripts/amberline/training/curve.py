"""The curve of a run as it is on disk: `metrics.jsonl`, a JSON line a step and one for each evaluation."""

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read_metrics(path: Path) -> list[Line]:
    """The lines of a curve. A last line that was not written to its end is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if text.endswith("\n"):
                lines.append(json.loads(text))
    return lines
