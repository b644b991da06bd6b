"""Manifests: a small JSON file beside everything that a stage makes, saying what it is and where it came from.

Stages hand each other manifests. Because a manifest holds the sha256 of every data file, comparing manifests by
content compares the data, however large. What is only said of the data, such as a licence, is not in it.

The manifest of a file `x.json` is `x.json.manifest.json`, and so for a folder of files that others named, `x.files`;
that of any other folder `x` is `x/manifest.json`. There are no
times and no absolute paths in it: the same work gives the same bytes.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amberline.core.damage import checksum, is_whole, note_digests
from amberline.core.digests import file_digest, value_digest
from amberline.core.files import whole_file
from amberline.core.tensors import digest_of_safetensors

Manifest = dict[str, Any]

# Files of a model folder that say nothing of the model: how tensors are spread over files, the weights in another form,
# what people read, and what describes the folder.
NO_CONTENT = {"model.safetensors.index.json", "policy.pt", "README.md", "README.md.manifest.json", "manifest.json"}


class ManifestError(Exception):
    """Something handed to a stage is not what its manifest says."""


def manifest_path(made: Path) -> Path:
    """Where the manifest of a file or folder lies: inside a folder, unless all files in that are data (`x.files`)."""
    inside = made.is_dir() and made.suffix != ".files"
    return made / "manifest.json" if inside else made.with_name(f"{made.name}.manifest.json")


def write_manifest(
    made: Path,
    *,
    kind: str,
    files: Iterable[Path],
    inputs: Mapping[str, Path],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    beside: Iterable[Path] = (),
    digest: str | None = None,
) -> Manifest:
    """Describe what was made, and write that beside it, atomically, last.

    `files` are the data files, inside or beside `made`, and `beside` further files, such as funnels, that are described
    but no part of the content. `inputs` are what it was made from, each with a manifest of its own, `settings` those
    that determine it, `facts` counts and the like.

    `digest` is that of the content; None: of all `files`. `recipe` digests what the content was asked to be, settings
    and inputs, whatever code made it: equal recipes with different digests are the work of different code or packages.
    """
    parents = {name: read_manifest(path) for name, path in inputs.items()}
    base = manifest_path(made).parent
    content, others = _described(files, base), _described(beside, base)
    digest = digest or value_digest(content)
    asked = {"kind": kind, "settings": settings, "inputs": {name: each["recipe"] for name, each in parents.items()}}
    manifest = {
        "kind": kind,
        "program": Path(sys.argv[0]).name,
        "settings": dict(settings),
        "inputs": {
            name: {"kind": each["kind"], "digest": each["digest"], "recipe": each["recipe"]}
            for name, each in parents.items()
        },
        "facts": dict(facts),
        "files": content,
        **({"beside": others} if others else {}),
        "digest": digest,
        # What was made from nothing is its own recipe.
        "recipe": value_digest(asked) if inputs else digest,
    }
    save_manifest(manifest_path(made), manifest)
    note_digests({base / name: each["sha256"] for name, each in (content | others).items()})
    return manifest


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest with its checksum, atomically."""
    with whole_file(path) as partial:
        partial.write_text(
            json.dumps(manifest | {"checksum": checksum(manifest)}, indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )


def model_content(folder: Path) -> str:
    """The `digest` of a model folder: of its tensors, whatever files hold them, and of configuration and tokenizer."""
    weights = sorted(folder.glob("*.safetensors"))
    others = [file for file in folder.iterdir() if file.suffix != ".safetensors" and file.name not in NO_CONTENT]
    files = {file.name: file_digest(file) for file in others}
    return value_digest({**files, "tensors": digest_of_safetensors(weights)})


def _described(files: Iterable[Path], base: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of each file, by its path from `base`."""
    return {
        os.path.relpath(file, base): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(files)
    }


def read_manifest(made: Path) -> Manifest:
    """Read the manifest of a file or folder. Raises ManifestError if there is none that can be read."""
    path = manifest_path(made)
    try:
        manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
        if not is_whole(manifest):
            raise ValueError("it is not as it was written")
    except FileNotFoundError:
        raise ManifestError(
            f"{path} is missing: it is written when {made} is complete; make that stage again"
        ) from None
    except ValueError as error:
        raise ManifestError(f"{path} is damaged ({error}): delete it and make that stage again") from None
    return manifest


def verify(made: Path) -> Manifest:
    """Read the manifest of a file or folder and check every data file's size and sha256 against it.

    Files that are described beside the content, such as funnels, are not looked at. Raises ManifestError naming the
    first file that is missing or another.
    """
    manifest = read_manifest(made)
    base = manifest_path(made).parent
    for name, expected in manifest["files"].items():
        file = base / name
        if not file.is_file():
            raise ManifestError(f"{file} is missing, though {manifest_path(made)} lists it: make that stage again")
        if file.stat().st_size != expected["bytes"] or file_digest(file) != expected["sha256"]:
            raise ManifestError(
                f"{file} is not the file that {manifest_path(made)} describes (its sha256 differs): {_why(file)}"
            )
    return manifest


def _why(file: Path) -> str:
    if file.is_symlink():
        return (
            f"{file.resolve()}, which it links to, was changed after it was verified. Fix: restore that file, or start "
            "the pipeline again to verify and use the changed one"
        )
    return "it was changed or damaged; make that stage again"
