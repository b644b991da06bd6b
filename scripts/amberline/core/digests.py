"""Content digests of files and of values."""

import hashlib
import json
from pathlib import Path
from typing import Any

# A file up to this size is digested whole by `sampled_digest`; of a larger one, as many bytes spread over it.
SAMPLED_BYTES = 64 * 2**20
SAMPLES = 256


def file_digest(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """sha256 of a file's size and content, in hexadecimal; of a large file, of evenly spaced pieces of it.

    For noticing, at every `snakemake -n`, that a file is another one, whatever its modification time. The job that
    reads the file verifies all of it.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        if size <= SAMPLED_BYTES:
            digest.update(handle.read())
        else:
            piece = SAMPLED_BYTES // SAMPLES
            for index in range(SAMPLES):
                handle.seek((size - piece) * index // (SAMPLES - 1))
                digest.update(handle.read(piece))
    return digest.hexdigest()


def canonical(value: Any) -> str:
    """A JSON value as the one string that stands for it: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def value_digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
