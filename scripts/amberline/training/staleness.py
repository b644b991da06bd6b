"""Finished trainings whose code or packages have changed since: which they are, and what training again would cost."""

import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from amberline.core.manifests import save_manifest

MadeWith = Mapping[str, Any]  # {"code": digest, "packages": {name: version}}


class Status(Enum):
    """What a finished training is, held against what would train it now."""

    NONE = "none"  # there is none with these settings
    CURRENT = "current"
    KEPT = "kept"  # code or packages have changed, and it was decided to use it all the same
    STALE = "stale"  # code or packages have changed


def status(manifest: Path, settings: Mapping[str, Any], now: MadeWith) -> Status:
    """The status of a finished training, by the settings that determine its weights, and its code and packages now."""
    found = _read(manifest)
    if found is None or found["settings"] != settings:
        return Status.NONE
    if not _changed(found["facts"]["made_with"], now):
        return Status.CURRENT
    kept_for = found["facts"].get("kept_for")
    return Status.KEPT if kept_for and not _changed(kept_for, now) else Status.STALE


def changes(manifest: Path, now: MadeWith) -> list[str]:
    """Names of what has changed since a training was made: `code`, `torch 2.13.0 → 2.14.0`."""
    found = _read(manifest)
    return _changed(found["facts"]["made_with"], now) if found else []


def kept_for(manifest: Path) -> MadeWith | None:
    """The code and packages for which a finished training is kept; None if it is not."""
    found = _read(manifest)
    return found["facts"].get("kept_for") if found else None


def keep(manifest: Path, now: MadeWith) -> None:
    """Note in a training's manifest that it is used although code or packages have changed."""
    found = _read(manifest)
    if found:
        found["facts"]["kept_for"] = {**now, "inputs": found["facts"]["made_with"]["inputs"]}
        save_manifest(manifest, found)


def cost(run: Path) -> str:
    """What a finished training took, as a clause: `75 steps, 0:00:03 on 2 processes`."""
    try:
        summary = json.loads(run.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "of unknown cost"
    steps = f"{summary['steps']:,} steps"
    folder = Path(os.path.normpath(run.parent / summary["final_weights"]))
    try:
        lines = (folder.parent / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = sum(json.loads(line)["seconds"] for line in lines)
        processes = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))["processes"]
    except (OSError, ValueError, KeyError):
        return steps
    minutes, rest = divmod(round(seconds), 60)
    return f"{steps}, {minutes // 60}:{minutes % 60:02d}:{rest:02d} on {processes} processes"


def _read(manifest: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _changed(then: MadeWith, now: MadeWith) -> list[str]:
    code = [] if then["code"] == now["code"] else ["code"]
    names = sorted(then["packages"].keys() | now["packages"].keys())
    versions = [(name, then["packages"].get(name, "none"), now["packages"].get(name, "none")) for name in names]
    return code + [f"{name} {before} → {after}" for name, before, after in versions if before != after]
