"""Manifests: a small JSON file beside everything that a stage makes, saying what it is and where it came from.

Stages hand each other manifests. Because a manifest holds the sha256 of every data file, comparing manifests by
content compares the data, however large.

The manifest of a file `x.json` is `x.json.manifest.json`; that of a folder `x` is `x/manifest.json`. There are no
times and no absolute paths in it: the same work gives the same bytes.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amberline.provenance.digests import file_digest, value_digest
from amberline.records.files import whole_file

Manifest = dict[str, Any]


class ManifestError(Exception):
    """Something handed to a stage is not what its manifest says."""


def manifest_path(made: Path) -> Path:
    """Where the manifest of a file or folder lies."""
    return made / "manifest.json" if made.is_dir() else made.with_name(f"{made.name}.manifest.json")


def write_manifest(
    made: Path,
    *,
    kind: str,
    files: Iterable[Path],
    inputs: Mapping[str, Path],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    sources: Iterable[Mapping[str, Any]] = (),
) -> Manifest:
    """Describe what was made, and write that beside it, atomically, last.

    `files` are the data files, inside or beside `made`; `inputs` are what it was made from, each with a manifest of
    its own, whose sources (dataset, revision, licence) are carried along; `facts` are counts and the like.
    """
    parents = {name: read_manifest(path) for name, path in inputs.items()}
    base = made if made.is_dir() else made.parent
    described = {
        file.relative_to(base).as_posix(): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(files)
    }
    carried = {value_digest(source): dict(source) for source in sources}
    for parent in parents.values():
        carried.update({value_digest(source): source for source in parent["sources"]})
    manifest = {
        "kind": kind,
        "program": Path(sys.argv[0]).name,
        "settings": dict(settings),
        "inputs": {name: {"kind": parent["kind"], "digest": parent["digest"]} for name, parent in parents.items()},
        "sources": sorted(carried.values(), key=lambda source: json.dumps(source, sort_keys=True)),
        "facts": dict(facts),
        "files": described,
        "digest": value_digest(described),
    }
    with whole_file(manifest_path(made)) as partial:
        partial.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def read_manifest(made: Path) -> Manifest:
    """Read the manifest of a file or folder. Raises ManifestError if there is none that can be read."""
    path = manifest_path(made)
    try:
        manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"{path} is missing: it is written when {made} is complete; make that stage again"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} is damaged ({error}): delete it and make that stage again") from None
    return manifest


def verify(made: Path) -> Manifest:
    """Read the manifest of a file or folder and check every data file's size and sha256 against it.

    Raises ManifestError naming the first file that is missing or another.
    """
    manifest = read_manifest(made)
    base = made if made.is_dir() else made.parent
    for name, expected in manifest["files"].items():
        file = base / name
        if not file.is_file():
            raise ManifestError(f"{file} is missing, though {manifest_path(made)} lists it: make that stage again")
        if file.stat().st_size != expected["bytes"] or file_digest(file) != expected["sha256"]:
            raise ManifestError(
                f"{file} is not the file that {manifest_path(made)} describes (its sha256 differs): "
                "it was changed or damaged; make that stage again"
            )
    return manifest
