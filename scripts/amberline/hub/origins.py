"""Whether a raw file or model that was acquired is what the configuration asks for now.

Where a copy was fetched and what is expected of it are no part of what is made. When they are changed, what is there
is held against them, and only what no longer fits is acquired again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amberline.core.damage import known_digest
from amberline.core.digests import sampled_digest, value_digest
from amberline.core.files import expanded
from amberline.hub.model_names import PICKLED, ModelError, wanted_files
from amberline.recipe.data import Pretrained, Source
from amberline.recipe.file_patterns import local_matches
from amberline.recipe.sources_lock import Contents, digest_of


def origin(source: Source) -> dict[str, Any]:
    """Where a raw file comes from, for its manifest; of a local copy nothing is said, for its path is no matter."""
    if source.path is not None:
        return {"local": True}
    named = {"files": source.files} if source.files else {"file": source.file}
    return {"repository": source.repository, "revision": source.revision, **named}


def sampled(place: Path, pattern: str | None) -> str:
    """`sampled_digest` of a file; with a pattern, of those files of a folder, and of their names. Raises OSError."""
    if pattern is None:
        return sampled_digest(place)
    return value_digest({name: sampled_digest(place / name) for name in local_matches(place, pattern)})


def find_misfit(source: Source, manifest: Mapping[str, Any], held: Contents | None = None) -> str | None:
    """Why a raw file with this manifest is not what is asked for, as a clause; None if it is.

    `held` is what `sources.lock` holds a source to whose sha256 the recipe does not say.
    """
    facts, read_as = manifest["facts"], manifest["settings"].get("format")
    if read_as != source.format:
        return f"its rows were verified as {read_as}, and are to be read as {source.format}"
    for key in ("bytes", "sha256", "rows"):
        wanted = getattr(source, key)
        if wanted is not None and facts[key] != wanted:
            return f"its {key} must be {wanted}, not {facts[key]}"
    if held is not None and facts["sha256"] != digest_of(held):
        return "sources.lock holds it to another content"
    if source.path is not None:
        same = sampled(expanded(source.path), source.files) == facts["sampled"]
        return None if same else "the local file has another content"
    if source.sha256 is None and origin(source) != facts["origin"]:
        return "it comes from elsewhere, and no sha256 tells that it is the same"
    return None


def model_origin(source: Pretrained) -> dict[str, Any]:
    """Where a model comes from, for its manifest. Raises ModelError for a local folder that is no model."""
    folder = source.folder
    if folder is None:
        place = {"repository": source.pretrained, "revision": source.revision}
        return place | ({"code": True} if source.trust_remote_code else {})
    names = wanted_files((path.name for path in folder.iterdir()), str(folder), code=source.trust_remote_code)
    # Of the others the manifest has the content: they are linked to.
    return {"files": {name: sampled_digest(folder / name) if PICKLED.fullmatch(name) else None for name in names}}


def find_model_misfit(source: Pretrained, manifest: Mapping[str, Any]) -> str | None:
    """Why a model with this manifest is not what is asked for, as a clause; None if it is."""
    facts, folder = manifest["facts"], source.folder
    if "origin" not in facts:
        return "it was made here, and is to be acquired"
    try:
        found = model_origin(source)
        if folder is not None and found == facts["origin"]:
            return _other_content(folder, manifest["files"])
    except (ModelError, OSError) as error:
        return str(error)
    same_commit = folder is None and found == {**facts["origin"], "revision": facts["commit"]}
    if found == facts["origin"] or same_commit:
        return None
    return "it comes from elsewhere" if folder is None else "the local folder holds other files"


def _other_content(folder: Path, files: Mapping[str, Any]) -> str | None:
    """The first file of a local model that is another than the one that was verified, wherever that lay."""
    for name, described in files.items():
        if (folder / name).is_file() and known_digest(folder / name) != described["sha256"]:
            return f"the local {name} has another content"
    return None
