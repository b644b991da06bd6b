"""Whether a raw file or base model that was acquired is what the configuration asks for now.

Where a copy was fetched and what is expected of it are no part of what is made. When they are changed, what is there
is held against them, and only what no longer fits is acquired again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amberline.core.digests import sampled_digest
from amberline.hub.model_names import PICKLED, ModelError, wanted_files
from amberline.recipe.data import BaseModelSource, Source


def origin(source: Source) -> dict[str, Any]:
    """Where a raw file comes from, for its manifest; of a local copy nothing is said, for its path is no matter."""
    if source.path is not None:
        return {"local": True}
    return {"repository": source.repository, "revision": source.revision, "file": source.file}


def find_misfit(source: Source, facts: Mapping[str, Any]) -> str | None:
    """Why a raw file with these facts is not what is asked for, as a clause; None if it is."""
    for key in ("bytes", "sha256", "rows"):
        wanted = getattr(source, key)
        if wanted is not None and facts[key] != wanted:
            return f"its {key} must be {wanted}, not {facts[key]}"
    if source.path is not None:
        return None if sampled_digest(Path(source.path)) == facts["sampled"] else "the local file has another content"
    if source.sha256 is None and origin(source) != facts["origin"]:
        return "it comes from elsewhere, and no sha256 tells that it is the same"
    return None


def model_origin(source: BaseModelSource) -> dict[str, Any]:
    """Where a base model comes from, for its manifest. Raises ModelError for a local folder that is no model."""
    if source.path is None:
        return {"repository": source.repository, "revision": source.revision}
    folder = Path(source.path)
    names = wanted_files((path.name for path in folder.iterdir()), source.path)
    # Of the others the manifest has the content: they are linked to.
    return {"files": {name: sampled_digest(folder / name) if PICKLED.fullmatch(name) else None for name in names}}


def find_model_misfit(source: BaseModelSource, facts: Mapping[str, Any]) -> str | None:
    """Why a base model with these facts is not what is asked for, as a clause; None if it is."""
    try:
        found = model_origin(source)
    except (ModelError, OSError) as error:
        return str(error)
    same_commit = source.path is None and found == {**facts["origin"], "revision": facts["commit"]}
    if found == facts["origin"] or same_commit:
        return None
    return "it comes from elsewhere" if source.path is None else "the local folder holds other files"
