"""The folder of a pretrained model: what belongs into it, fetched or linked, its weights as safetensors."""

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from amberline.core.progress import progress
from amberline.hub.downloads import HubFile, download, list_files, put, reuse
from amberline.hub.model_names import PICKLED, SAFETENSORS, ModelError, wanted_files
from amberline.recipe.architectures import DERIVED

Shapes = Mapping[str, tuple[int, ...]]

LFS_POINTER = b"version https://git-lfs"
FLOATS = ("F64", "F32", "F16", "BF16")
TIED_ROWS = 4096  # compared at a time
ONE_PLACE = "Fix: get config.json and weights again, from one place, or correct config.json in a copy of the folder."


def link_model(source: Path, folder: Path, *, code: bool) -> None:
    """Link to the files of a local model from `folder`, so that they are neither copied nor owned by the results.

    With `code`, its Python files are taken, too. Raises ModelError.
    """
    if not source.is_dir():
        raise ModelError(f"{source}: there is no such folder. Fix: check `pretrained`.")
    for name in wanted_files((path.name for path in source.iterdir()), str(source), code=code):
        # The original, for the hub's cache is made of links.
        (folder / name).symlink_to((source / name).resolve())


def download_model(
    repository: str,
    revision: str,
    working: Path,
    folder: Path,
    check: Callable[[Path], None],
    *,
    code: bool,
    earlier: Path,
) -> str:
    """Fetch a model's files to `working`, where an interrupted download goes on, and put them into `folder`.

    Returns the commit. All but the weights come first, and `check` looks at them in `folder`: what is refused should
    not cost gigabytes. With `code`, its Python files are taken, too. Files that are complete in `working`, and weights
    that are in the folder `earlier` already, are checked and not fetched again; the caller removes `working` when the
    model is finished. Raises HubError or ModelError, and what `check` raises.
    """
    commit, listed = list_files(HubFile(repository, revision, "(list of files)", "model"))
    names = wanted_files(listed, f"{repository} @ {revision}", code=code)

    def fetch(wanted: Iterable[str]) -> None:
        for name in wanted:
            download(HubFile(repository, commit, name, "model"), working / name)
            put(working / name, folder / name)

    weights = [name for name in names if SAFETENSORS.fullmatch(name) or PICKLED.fullmatch(name)]
    fetch(name for name in names if name not in weights)
    check(folder)
    for name in weights:
        reuse(earlier / name, HubFile(repository, commit, name, "model"), working / name)
    fetch(weights)
    return commit


def convert_pickled(folder: Path) -> None:
    """Turn pytorch_model*.bin into safetensors, one file at a time, and remove them.

    Only tensors are unpickled (`weights_only`), and mapped rather than read, so memory is that of one file at most.
    Raises ModelError.
    """
    pickled = sorted(path for path in folder.iterdir() if PICKLED.fullmatch(path.name))
    if not pickled:
        return
    import torch
    from safetensors.torch import save_file

    for path in progress(pickled, desc="converting to safetensors", unit=" files"):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            found = " ".join(str(error).split())[:200]
            raise ModelError(f"{path.name}: it cannot be read as weights ({found}). Fix: get it again.") from None
        # safetensors takes no tensors that share memory; their copies are equal.
        tensors = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
        name = path.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        try:
            save_file(tensors, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:  # of its own class, whatever the system said
            raise ModelError(
                f"{folder / name}: the weights cannot be written ({error}). Fix: free some space there (as much "
                f"again as {path.name} has), or set `results` to a folder elsewhere."
            ) from None
        del state, tensors
        path.unlink()


def check_weights(folder: Path, expected: Shapes, tied: Mapping[str, str]) -> int:
    """Check that every weight that config.json implies is there, whole and of its shape; return their parameters.

    `expected` are the shapes by name. `tied` are further names of some of these, which may be there beside them if
    they hold the same. Of several files the index is written. Raises ModelError.
    """
    expected = {**expected, **{name: expected[original] for name, original in tied.items()}}
    shards = sorted(path for path in folder.iterdir() if SAFETENSORS.fullmatch(path.name))
    places: dict[str, str] = {}
    parameters = total = 0
    for number, shard in enumerate(shards, 1):
        # "model-00002-of-00005.safetensors"
        if "-of-" in shard.stem and shard.stem != f"model-{number:05d}-of-{len(shards):05d}":
            raise ModelError(
                f"{folder.name}: of its weights, {shard.stem[-5:]} files, some are missing. Fix: get them again."
            )
        for key, tensor in _tensors(shard).items():
            places[key] = shard.name
            total += tensor["data_offsets"][1] - tensor["data_offsets"][0]
            if not key.endswith(DERIVED):
                _check_tensor(shard.name, key, tensor, expected)
            parameters += 0 if key in tied else prod(tensor["shape"])
    if missing := sorted(expected.keys() - places.keys() - tied.keys()):
        raise ModelError(f"the weights lack {missing[0]}{_and_more(missing)}, which config.json implies. {ONE_PLACE}")
    for name in sorted(tied.keys() & places.keys()):
        _check_tied(folder, places, name, tied[name])
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return parameters


def _check_tensor(file: str, name: str, tensor: Mapping[str, Any], expected: Shapes) -> None:
    """Hold a tensor against what config.json implies. Raises ModelError."""
    if name not in expected:
        raise ModelError(f"{file} has {name}, which no model with this config.json has. {ONE_PLACE}")
    if tuple(tensor["shape"]) != expected[name]:
        raise ModelError(
            f"{file}: {name} has the shape {tensor['shape']}, but config.json implies {list(expected[name])}. "
            f"{ONE_PLACE}"
        )
    if tensor["dtype"] not in FLOATS:
        raise ModelError(
            f"{file}: {name} is {tensor['dtype']}, a quantised weight, and training needs one of {', '.join(FLOATS)}. "
            "Fix: take the model before it was quantised."
        )


def _check_tied(folder: Path, places: Mapping[str, str], name: str, original: str) -> None:
    """Raise ModelError unless two tensors that are one in the model are equal. Some rows are in memory at a time."""
    with (
        safe_open(folder / places[name], framework="pt") as its,
        safe_open(folder / places[original], framework="pt") as others,
    ):
        one, other = its.get_slice(name), others.get_slice(original)
        for start in range(0, one.get_shape()[0], TIED_ROWS):
            rows = slice(start, start + TIED_ROWS)
            if not one[rows].equal(other[rows]):
                raise ModelError(
                    f"{places[name]}: {name} differs from {original}, but config.json ties them "
                    "(tie_word_embeddings). Fix: set tie_word_embeddings to false in a copy of the folder, if they "
                    "were trained apart, or get the model again."
                )


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _tensors(shard: Path) -> dict[str, Mapping[str, Any]]:
    """Shape, dtype and place of each tensor of a safetensors file, from its header. Raises ModelError."""
    with open(shard, "rb") as handle:
        head = handle.read(8)
        if LFS_POINTER.startswith(head):
            raise ModelError(f"{shard.name}: it is a git-LFS pointer, not the weights. Fix: fetch them (git lfs pull).")
        try:
            with safe_open(shard, framework="np"):
                pass  # It checks that header and length agree.
        except SafetensorError as error:
            raise ModelError(f"{shard.name}: it is damaged or cut short ({error}). Fix: get it again.") from None
        header = json.loads(handle.read(int.from_bytes(head, "little")))
    return {key: entry for key, entry in header.items() if key != "__metadata__"}
