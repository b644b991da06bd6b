"""What can be known to be wrong before any job starts, said in a way that fixes it."""

import difflib
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amberline.core.damage import known_digest
from amberline.core.digests import file_digest
from amberline.core.settings import Kind, Settings, leaves
from amberline.recipe import sources_lock
from amberline.recipe.architectures import find_fault
from amberline.recipe.cluster import Cluster
from amberline.recipe.data import Source
from amberline.recipe.edges import find_collisions, find_faults
from amberline.recipe.faults import explain, message
from amberline.recipe.file_patterns import local_matches
from amberline.recipe.files import PUBLISHED, ConfigurationError, find_file, read_recipe
from amberline.recipe.graph import Recipe
from amberline.recipe.nodes import PretrainedModel
from amberline.recipe.resolve import SECTIONS, Nodes, Resolution
from amberline.recipe.sources_lock import SourcesLock, SourcesLockError
from amberline.recipe.variants import with_variants

# A local file up to this size is checked against its sha256 at every start; a larger one by its size here and by
# its sha256 in the job that acquires it.
HASHED_AT_START = 64 * 2**20

# Keys of recipe files that are no part of a recipe without variants.
APART = ("variants", "cluster")


def check_recipe(values: Mapping[str, Any], *, files: bool = True) -> Recipe:
    """Fill in a recipe with its variants and check it, all faults at once.

    With `files`, the local files that it names, too. Raises ConfigurationError.
    """
    recipe = _check_without_variants(values)
    faults: list[str] = []
    if values.get("variants"):
        recipe = with_variants(recipe, values, _check_without_variants)
        faults += find_collisions(recipe)
    if files:
        faults += _file_faults(recipe.nodes)
    if faults:
        raise ConfigurationError(message(faults))
    return recipe


def _check_without_variants(values: Mapping[str, Any]) -> Recipe:
    resolution = Resolution({key: value for key, value in values.items() if key not in APART})
    nodes = resolution.nodes()
    faults = resolution.faults
    if nodes is not None and not faults:
        faults = find_faults(nodes)
    if nodes is None or faults:
        raise ConfigurationError(message(faults))
    return Recipe(nodes)


def check_cluster(values: Mapping[str, Any] | None) -> Cluster:
    """Read what is particular to a cluster. Raises ConfigurationError."""
    try:
        return Cluster.model_validate(values)
    except ValidationError as error:
        lines = "\n".join(f"  - {fault}" for fault in explain(error, Cluster, "cluster"))
        raise ConfigurationError(
            f"the description of the cluster is wrong, nothing was started:\n{lines}\n"
            "Fix: correct slurm/site.yaml (every key is explained there), or the file given with --configfile."
        ) from None


def _file_faults(nodes: Nodes) -> Iterator[str]:
    """Local files that are missing or others than the recipe says."""
    for name, source in nodes.sources.items():
        if source.path is not None:
            path = find_file(source.path)
            faults = [f"sources.{name}.{fault}" for fault in _source_faults(source, path)]
            yield from faults or _lock_faults(name, source, path)
    for name, model in nodes.models.items():
        if not isinstance(model, PretrainedModel) or not (folder := model.folder):
            continue
        if not (folder / "config.json").is_file():
            yield (
                f"models.{name}.pretrained: found {model.pretrained!r}, and there is no Hugging Face model in it (no "
                "config.json); give the folder of a model, or its id on the hub"
            )
        elif fault := find_fault(folder):
            yield f"models.{name}.pretrained: {fault}"


def _source_faults(source: Source, path: Path) -> Iterator[str]:
    if source.files is not None:
        if not path.is_dir():
            yield f"path: found {str(path)!r}, and there is no such folder; give the folder that files names files of"
        elif not local_matches(path, source.files):
            yield f"files: found {source.files!r}, and no file of {path} is named like that; correct the pattern"
        return
    if path.is_dir():
        yield f"path: found {str(path)!r}, a folder; say which files of it by `files`, such as files: '*.jsonl'"
        return
    if not path.is_file():
        yield (
            f"path: found {str(path)!r}, and there is no such file (looked in {os.getcwd()}); "  # noqa: PTH109
            "give the path of the raw file, or null to download it"
        )
        return
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        yield (
            f"bytes: {path} has {size}, but {source.bytes} are expected; restore the file, "
            "or set bytes to its size if you mean to use this one (null: not checked)"
        )
    elif source.sha256 is not None and size <= HASHED_AT_START:
        found = file_digest(path)
        if found != source.sha256:
            yield (
                f"sha256: {path} has {found}, but {source.sha256} is expected; restore the file, "
                "or set sha256 to its own if you mean to use this one (null: not checked)"
            )


def _lock_faults(name: str, source: Source, path: Path) -> Iterator[str]:
    """A local source that is not what `sources.lock` holds it to: told before any job, which would only fail."""
    if source.sha256 is not None:
        return
    names = [path.name] if source.files is None else local_matches(path, source.files)
    files = {each: path if source.files is None else path / each for each in names}
    sizes = {each: file.stat().st_size for each, file in files.items()}
    hashed = sum(sizes.values()) <= HASHED_AT_START
    found = {
        each: {"bytes": sizes[each], **({"sha256": known_digest(file)} if hashed else {})}
        for each, file in files.items()
    }
    try:
        SourcesLock(sources_lock.PLACE).check(name, found)
    except SourcesLockError as error:
        yield f"sources.{name}: {error}"


def check_target(target: str, names: Sequence[str], results: str) -> None:
    """Raise ConfigurationError for a target that is neither a node, a rule nor a file under the results folder."""
    if target in names or os.path.normpath(target).startswith(os.path.normpath(results) + os.sep):
        return
    near = difflib.get_close_matches(target, names, n=3, cutoff=0.5)
    raise ConfigurationError(
        f"there is no target {target!r}, nothing was started. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + "Targets: the name of any source, dataset, model or evaluation of the recipe; evaluation, report, all; "
        f"or any file that a rule makes under {results}/. (After --configfile, put -- before the target.)"
    )


def deviations(recipe: Recipe, among: Container[str] | None = None) -> dict[str, dict[str, Any]]:
    """Keys whose value differs from the published recipe: `{key: {"published": …, "here": …}}`.

    `among` names the nodes that are looked at; None: all. What something runs on, and what is kept and watched on the
    way, does not count.
    """
    found: dict[str, dict[str, Any]] = {}
    for section in SECTIONS:
        here, there = (getattr(nodes, section) for nodes in (recipe.nodes, _published()))
        for name in sorted(here.keys() | there.keys()):
            if among is None or name in among:
                pair = (_said(nodes.get(name)) for nodes in (here, there))
                found |= {f"{section}.{name}.{key}": each for key, each in _different(*pair).items()}
    return found


def _said(node: Settings | None) -> dict[str, Any]:
    """What determines or describes a node, by dotted key."""
    return dict(leaves(node.of(Kind.RESULT, Kind.DESCRIPTION))) if node else {}


def _different(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        key: {"published": there.get(key), "here": here.get(key)}
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    }


@cache
def _published() -> Nodes:
    nodes = Resolution(read_recipe([PUBLISHED])).nodes()
    assert nodes is not None, "tests hold the published recipe to its types"
    return nodes
