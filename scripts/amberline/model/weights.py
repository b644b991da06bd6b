"""Weights from one form into another, a file's worth in memory at a time.

Forms: Hugging Face folders; the weights that a training leaves (torch's distributed checkpoint, by the names of the
parameters) and those in its checkpoints (the same, with the optimizer and more beside them); and `policy.pt` of the DPO
reference implementation: {"step_idx", "state", "metrics"}, `state` by transformers' names.
"""

import errno
import json
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from amberline.core.tensors import tensor_digest
from amberline.hub.model_names import ModelError
from amberline.recipe.architectures import DERIVED

SHARD_BYTES = 5_000_000_000
POLICY = "Fix: give a file of the DPO reference implementation: a dict whose entry 'state' maps names to tensors."

# As safetensors calls them.
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class Weights(Protocol):
    """Tensors by name."""

    def shapes(self) -> Mapping[str, torch.Size]:
        """Every tensor's name and shape."""

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Some of the tensors, whole, on the CPU."""


class DigestedWeights:
    """Weights of which each tensor's digest is taken as it is read."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.digests: dict[str, str] = {}  # by name, of what was read so far

    def shapes(self) -> Mapping[str, torch.Size]:
        """Every tensor's name and shape."""
        return self._weights.shapes()

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Some of the tensors."""
        tensors = self._weights.read(names)
        for name, tensor in tensors.items():
            values = tensor.contiguous().flatten().view(torch.uint8).numpy()
            self.digests[name] = tensor_digest(DTYPES[tensor.dtype], tensor.shape, values.data)
        return tensors


class CheckpointWeights:
    """Weights in a distributed checkpoint, alone or in the whole state of a training. Raises ModelError.

    It does not matter how many processes wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            metadata = FileSystemReader(folder).read_metadata()
        except (CheckpointException, OSError, pickle.UnpicklingError, EOFError) as error:
            raise ModelError(
                f"{folder} holds no weights that can be read ({error}). Fix: start the pipeline again; the training "
                "continues from its last checkpoint"
            ) from None
        stored = metadata.state_dict_metadata
        paths = (metadata.planner_data or {}).items()
        inside = {path[1]: flat for flat, path in paths if len(path) == 2 and path[0] == "model"}
        # By the name of each parameter, the one that it is stored under: the same, where weights are all that there is.
        self._stored = inside or {name: name for name in stored}
        found = {name: stored[place] for name, place in self._stored.items()}
        self._tensors = {name: each for name, each in found.items() if isinstance(each, TensorStorageMetadata)}

    def shapes(self) -> Mapping[str, torch.Size]:
        """Every tensor's name and shape."""
        return {name: each.size for name, each in self._tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Some of the tensors, put together from the shards."""
        tensors = {
            name: torch.empty(self._tensors[name].size, dtype=self._tensors[name].properties.dtype) for name in names
        }
        state = {self._stored[name]: tensor for name, tensor in tensors.items()}
        try:
            with warnings.catch_warnings():
                # That one process reads what several wrote is meant.
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                load(state, checkpoint_id=self.folder, no_dist=True)
        except (CheckpointException, OSError, RuntimeError) as error:
            raise ModelError(
                f"{self.folder} is damaged ({error}). Fix: delete it, and start the pipeline again; the training "
                "continues from its last checkpoint"
            ) from None
        return tensors


class PolicyWeights:
    """Weights in a `policy.pt`, mapped into memory and not copied. Raises ModelError."""

    def __init__(self, path: Path) -> None:
        try:
            policy = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except FileNotFoundError:
            raise ModelError(f"{path} is missing. Fix: check the path.") from None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ModelError(f"{path} is no policy.pt that can be loaded safely ({error}). {POLICY}") from None
        state = policy.get("state") if isinstance(policy, dict) else None
        if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
            raise ModelError(f"{path} is no policy.pt. {POLICY}")
        self._state = {name: each for name, each in state.items() if not name.endswith(DERIVED)}

    def shapes(self) -> Mapping[str, torch.Size]:
        """Every tensor's name and shape."""
        return {name: each.shape for name, each in self._state.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Some of the tensors."""
        return {name: self._state[name] for name in names}


def write_safetensors(
    weights: Weights,
    folder: Path,
    dtype: torch.dtype,
    names: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write weights as Hugging Face does: `model.safetensors`, or several of `shard_bytes` at most and their index.

    `names` are those that are written, each with its name in the files; None: all, as they are called. Returns the
    files written.
    """
    shapes = weights.shapes()
    called = {in_file: name for name, in_file in (names or {name: name for name in shapes}).items()}
    outline = {name: torch.empty(shapes[called[name]], dtype=dtype, device="meta") for name in sorted(called)}
    plan = split_torch_state_dict_into_shards(outline, max_shard_size=shard_bytes)
    for file, inside in plan.filename_to_tensors.items():
        read = weights.read([called[name] for name in inside])
        tensors = {name: read[called[name]].to(dtype).contiguous() for name in inside}
        with _as_of_the_system(folder / file):
            save_file(tensors, folder / file, metadata={"format": "pt"})
    files = [folder / file for file in plan.filename_to_tensors]
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        files.append(folder / "model.safetensors.index.json")
        files[-1].write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return files


@contextmanager
def _as_of_the_system(path: Path) -> Iterator[None]:
    """Raise OSError for what the system refuses to writers that have errors of their own."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        number = re.search(r"os error (\d+)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        if re.search("inline_container|PytorchStreamWriter|iostream", str(error)):
            # torch does not say why; it is what a full disk does.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise


def write_policy(
    weights: Weights, path: Path, step: int, metrics: Mapping[str, Any], tied: Mapping[str, str] | None = None
) -> None:
    """Write `policy.pt` in float32. It is one object, so all weights are in memory at once.

    `tied` are further names of some weights, which a state of transformers has beside the first ones.
    """
    state = {name: tensor.float() for name, tensor in weights.read(sorted(weights.shapes())).items()}
    state |= {name: state[original] for name, original in (tied or {}).items()}
    with _as_of_the_system(path):
        torch.save({"step_idx": step, "state": state, "metrics": dict(metrics)}, path)
