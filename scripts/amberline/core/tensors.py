"""Digests of tensors: what weights are, whatever the files and shards that hold them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from amberline.core.digests import value_digest


def tensor_digest(dtype: str, shape: Sequence[int], data: bytes | memoryview) -> str:
    """sha256 of a tensor: its dtype as safetensors calls it ("F32"), its shape, its values in little-endian order."""
    digest = hashlib.sha256(f"{dtype} {list(shape)}\n".encode())
    digest.update(data)
    return digest.hexdigest()


def weights_digest(tensors: Mapping[str, str]) -> str:
    """sha256 of many tensors, from the digest of each by its name; their order does not matter."""
    return value_digest(dict(tensors))


def digest_of_safetensors(files: Iterable[Path]) -> str:
    """`weights_digest` of all tensors in these files, which must be valid. One tensor is in memory at a time."""
    tensors: dict[str, str] = {}
    for file in files:
        with open(file, "rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
            start = handle.tell()
            for name, entry in header.items():
                if name != "__metadata__":
                    first, end = entry["data_offsets"]
                    handle.seek(start + first)
                    tensors[name] = tensor_digest(entry["dtype"], entry["shape"], handle.read(end - first))
    return weights_digest(tensors)
