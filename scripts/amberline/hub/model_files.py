"""The folder of a pretrained model: what belongs into it, fetched or linked, its weights as safetensors."""

import json
import os
import shutil
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo
from safetensors import SafetensorError, safe_open

from amberline.core.progress import progress
from amberline.hub.downloads import HubFile, download, endpoint, explained, retrying
from amberline.hub.model_names import PICKLED, SAFETENSORS, ModelError, wanted_files

LFS_POINTER = b"version https://git-lfs"


def link_model(source: Path, folder: Path) -> None:
    """Link to the files of a local model from `folder`, so that they are neither copied nor owned by the results.

    Raises ModelError.
    """
    if not source.is_dir():
        raise ModelError(f"{source}: there is no such folder. Check `pretrained`.")
    for name in wanted_files((path.name for path in source.iterdir()), str(source)):
        # The original, for the hub's cache is made of links.
        (folder / name).symlink_to((source / name).resolve())


def download_model(repository: str, revision: str, working: Path, folder: Path) -> str:
    """Fetch a model's files to `working`, where an interrupted download goes on, and put them into `folder`.

    Returns the commit. Files that are complete in `working` are checked and not fetched again; the caller removes it
    when the model is finished. Raises HubError or ModelError.
    """
    info = _model_info(repository, revision)
    commit = info.sha or revision
    names = wanted_files((file.rfilename for file in info.siblings or ()), f"{repository} @ {revision}")
    for name in names:
        download(HubFile(repository, commit, name, "model"), working / name)
    for name in names:
        _put(working / name, folder / name)
    return commit


def _put(downloaded: Path, target: Path) -> None:
    """A second name for a downloaded file where that is possible, a copy elsewhere."""
    try:
        os.link(downloaded, target)
    except OSError:
        shutil.copyfile(downloaded, target)


def _model_info(repository: str, revision: str) -> ModelInfo:
    asked = HubFile(repository, revision, "(list of files)", "model")
    with explained(asked):
        return retrying(lambda: 0)(HfApi(endpoint=endpoint()).model_info, repository, revision=revision)


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
            raise ModelError(f"{path.name}: it cannot be read as weights ({found}). Get it again.") from None
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


def check_weights(folder: Path) -> int:
    """Check that every weights file is there and whole, write the index of several; return the number of parameters.

    Raises ModelError.
    """
    shards = sorted(path for path in folder.iterdir() if SAFETENSORS.fullmatch(path.name))
    places: dict[str, str] = {}
    parameters = total = 0
    for number, shard in enumerate(shards, 1):
        # "model-00002-of-00005.safetensors"
        if "-of-" in shard.stem and shard.stem != f"model-{number:05d}-of-{len(shards):05d}":
            raise ModelError(
                f"{folder.name}: of its weights, {shard.stem[-5:]} files, some are missing. Get them again."
            )
        for key, (count, size) in _tensors(shard).items():
            places[key] = shard.name
            parameters += count
            total += size
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return parameters


def _tensors(shard: Path) -> dict[str, tuple[int, int]]:
    """Elements and bytes of each tensor of a safetensors file, from its header. Raises ModelError."""
    with open(shard, "rb") as handle:
        head = handle.read(8)
        if LFS_POINTER.startswith(head):
            raise ModelError(f"{shard.name}: it is a git-LFS pointer, not the weights. Fetch them (git lfs pull).")
        try:
            with safe_open(shard, framework="np"):
                pass  # It checks that header and length agree.
        except SafetensorError as error:
            raise ModelError(f"{shard.name}: it is damaged or cut short ({error}). Get it again.") from None
        header = json.loads(handle.read(int.from_bytes(head, "little")))
    return {
        key: (prod(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
        for key, entry in header.items()
        if key != "__metadata__"
    }
