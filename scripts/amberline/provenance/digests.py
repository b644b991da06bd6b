"""Content digests: of files, of values, of the code that a program runs."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2]

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


def imported_files(program: Path, root: Path = SCRIPTS) -> list[Path]:
    """The program and every file under `root` that it imports, directly or through others, sorted.

    Imports inside functions count; packages' `__init__.py` count.
    """
    found: set[Path] = set()
    waiting = [program.resolve()]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            for module in _imported_modules(file):
                waiting.extend(_files_of(module, root))
    return sorted(found)


# Most programs share most files: each is parsed once in a process.
@cache
def _imported_modules(file: Path) -> tuple[str, ...]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            modules += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError("relative imports are not followed: write the import in full")
            # `from package import module` may name a file too.
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(modules)


def _files_of(module: str, root: Path) -> Iterable[Path]:
    """The files behind a dotted name: each package's `__init__.py` on the way, and the module itself."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file


def code_digest(program: Path) -> str:
    """sha256 of what a program and its local imports do: their syntax trees, so comments and layout do not count."""
    digest = hashlib.sha256()
    for file in imported_files(program):
        digest.update(file.relative_to(SCRIPTS).as_posix().encode())
        digest.update(ast.dump(ast.parse(file.read_bytes())).encode())
    return digest.hexdigest()
