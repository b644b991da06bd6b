"""Finished trainings whose code or packages have changed since: which they are, and what training again would cost."""

import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from amberline.core.damage import is_whole
from amberline.core.manifests import save_manifest
from amberline.training.run_directory import Identity, keep_for

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
    return Status.KEPT if kept_for(manifest, now) else Status.STALE


def changes(manifest: Path, now: MadeWith) -> list[str]:
    """Names of what has changed since a training was made: `code`, `torch 2.13.0 → 2.14.0`."""
    found = _read(manifest)
    return _changed(found["facts"]["made_with"], now) if found else []


def kept_for(manifest: Path, now: MadeWith) -> MadeWith | None:
    """For which code, packages and inputs a finished training is kept, if that is what there is now; else None."""
    found = _read(manifest)
    kept = found["facts"].get("kept_for") if found else None
    return kept if kept and not _changed(kept, now) else None


def kept_changes(facts: Mapping[str, Any]) -> list[str]:
    """What differs between what made a kept training and what it is kept for; empty if it is not kept."""
    made, kept = facts["made_with"], facts.get("kept_for")
    if not kept:
        return []
    inputs = [
        f"content of {name}" for name in sorted(made["inputs"]) if made["inputs"][name] != kept["inputs"].get(name)
    ]
    return [*_changed(made, kept), *inputs]


def keep(manifest: Path, now: MadeWith) -> None:
    """Note that a finished training is used although code or packages have changed: in manifest and run directory."""
    if found := _read(manifest):
        facts = found["facts"]
        before = facts.get("kept_for") or facts["made_with"]
        facts["kept_for"] = {**now, "inputs": before["inputs"]}
        save_manifest(manifest, found)
        folder = final_weights(manifest, facts).parent
        identity = Identity(settings=found["settings"], recipes={}, **facts["kept_for"])
        if Identity.read(folder):
            keep_for(folder, identity)


def forget(manifest: Path, now: MadeWith) -> None:
    """Remove the note that a training is kept, if it was made with what there is now."""
    found = _read(manifest)
    if found and "kept_for" in found["facts"] and not kept_for(manifest, now):
        del found["facts"]["kept_for"]
        save_manifest(manifest, found)


def final_weights(run: Path, summary: Mapping[str, Any]) -> Path:
    """The folder of a training's final weights, from what its summary `run`, or the manifest beside it, says."""
    return Path(os.path.normpath(run.parent / summary["final_weights"]))


def cost(run: Path) -> str:
    """What a finished training took, as a clause: `75 steps, 0:00:03 on 2 processes`."""
    try:
        summary = json.loads(run.read_text(encoding="utf-8"))
        steps = f"{summary['steps']:,} steps"
        folder = final_weights(run, summary)
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown time"
    try:
        lines = (folder.parent / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = sum(json.loads(line)["seconds"] for line in lines)
        processes = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))["processes"]
    except (OSError, ValueError, KeyError):
        return steps
    minutes, rest = divmod(round(seconds), 60)
    return f"{steps}, {minutes // 60}:{minutes % 60:02d}:{rest:02d} on {processes} processes"


def _read(manifest: Path) -> dict[str, Any] | None:
    """A training's manifest; None if there is none, or it does not say what made the weights."""
    try:
        found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        made_with = found["facts"]["made_with"]
        known = {"code", "packages", "inputs"} <= made_with.keys() and is_whole(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if known else None


def _changed(then: MadeWith, now: MadeWith) -> list[str]:
    code = [] if then["code"] == now["code"] else ["code"]
    names = sorted(then["packages"].keys() | now["packages"].keys())
    versions = [(name, then["packages"].get(name, "none"), now["packages"].get(name, "none")) for name in names]
    return code + [f"{name} {before} → {after}" for name, before, after in versions if before != after]
