"""What lies in a results folder, and of which recipe it is: for those who want to know what may be deleted."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amberline.recipe import nodes as kinds
from amberline.recipe import paths
from amberline.recipe.graph import Recipe

# Folders in which everything is of a node, or of an artefact that nodes share.
OF_NODES = ("raw", "data", "models", "tokens", "scores", "training", "evaluations", "funnels", "rejects")
RUN_DIRECTORY = re.compile(r"(.+)-[0-9a-f]{16}")


@dataclass(frozen=True)
class Unused:
    """A file or folder that is of no recipe."""

    path: Path
    bytes: int


def find_unused(results: Path, recipes: Iterable[Recipe]) -> list[Unused]:
    """Files and folders of a results folder that none of the recipes names, largest first."""
    recipes = list(recipes)
    known = {entry for recipe in recipes for entry in entries(recipe)}
    # Of a removed variant the run is still there, and names its run directory; it does not count.
    left = [entry for entry in _there(results) if entry not in known]
    runs = {name for recipe in recipes for name in recipe.runs.values()}
    left += [f"checkpoints/{folder}" for folder in _run_directories(results, runs)]
    return sorted((Unused(results / entry, _size(results / entry)) for entry in left), key=lambda each: -each.bytes)


def models_of_no_node(results: Path, recipe: Recipe) -> list[str]:
    """Models in a results folder that a recipe does not name, as of a variant that was removed."""
    there = (folder.name for folder in (results / "models").glob("*") if (folder / "manifest.json").is_file())
    return sorted(set(there) - set(recipe.nodes.models))


def entries(recipe: Recipe) -> Iterator[str]:
    """The files and folders of a recipe, relative to the results folder; manifests belong to what they describe."""
    yield from map(recipe.raw, recipe.nodes.sources)
    yield from (path for path, _ in recipe.data_files())
    yield from (paths.row_sources(name, part) for name in recipe.datasets(kinds.Mix) for part in ("", "heldout"))
    yield from map(paths.model, recipe.nodes.models)
    yield from map(paths.tokens, recipe.all_tokens)
    yield from map(paths.scores, recipe.all_scores)
    yield from (paths.run(name).removesuffix("/run.json") for name in recipe.runs.values())
    yield from (paths.evaluation(name, model) for name in recipe.nodes.evaluations for model in recipe.evaluated(name))
    for stage, name in _data_stages(recipe):
        yield paths.funnel(stage, name)
        yield paths.rejects(stage, name)
        if stage == "chunk":
            yield paths.both_modes(name)


def _data_stages(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The rule and the name of each account."""
    for name in recipe.datasets(kinds.Mix):
        yield "mix", name
    for stage, kind in (("chunk", kinds.Chunk), ("select_pairs", kinds.Pairs)):
        for name in recipe.datasets(kind):
            for part in recipe.parts(name):
                yield stage, paths.part_name(name, part)
    for name in recipe.all_tokens:
        yield "tokenize", name


def _there(results: Path) -> Iterator[str]:
    """What lies in the folders of nodes: files, and folders that are one thing."""
    for top in OF_NODES:
        deep = top in {"evaluations", "funnels", "rejects"}
        for path in sorted((results / top).glob("*/*" if deep else "*")):
            if not path.name.endswith(".manifest.json") and not path.name.startswith("."):
                yield path.relative_to(results).as_posix()


def _run_directories(results: Path, runs: set[str]) -> Iterator[str]:
    """Run directories that no training of the recipes uses, or may go on in."""
    used = set()
    for name in runs:
        try:
            summary = json.loads((results / paths.run(name)).read_text(encoding="utf-8"))
            used.add(Path(os.path.normpath(Path(paths.run(name)).parent / summary["final_weights"])).parent.name)
        except (OSError, ValueError, KeyError):
            continue
    for folder in sorted((results / "checkpoints").glob("*-*")):
        found = RUN_DIRECTORY.fullmatch(folder.name)
        unfinished = not (folder / "final/checkpoint.json").exists()
        if found and folder.is_dir() and folder.name not in used and not (unfinished and found[1] in runs):
            yield folder.name


def _size(path: Path) -> int:
    """Bytes of a file with its manifest, or of a folder; links count as what they are, not as what they lead to."""
    manifest = path.with_name(f"{path.name}.manifest.json")
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in [*files, manifest] if file.is_symlink() or file.is_file())
