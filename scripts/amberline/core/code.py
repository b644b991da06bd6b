"""The code that a program runs: what it imports of ours, what that does, and the packages whose version matters to it.

Code is compared as syntax trees without comments and docstrings, so only a change of what is done counts.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2]

# Packages whose version can change the bytes that a program makes: under which name they are imported, and the
# patterns of their names in a lock. Progress bars, command lines, plots and the like are not among them.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch", "triton", "nvidia-.*", "cuda-.*"),
    "numpy": ("numpy",),
    "transformers": ("transformers",),
    "tokenizers": ("tokenizers",),
    "sentencepiece": ("sentencepiece",),
    "safetensors": ("safetensors",),
    "datasets": ("datasets", "pyarrow"),
    "pyarrow": ("pyarrow",),
    "orjson": ("orjson",),
}


def imported_files(*programs: Path, root: Path = SCRIPTS) -> list[Path]:
    """The programs and every file under `root` that they import, directly or through others, sorted.

    Imports inside functions count; packages' `__init__.py` count. What a program finds by a name in its settings, such
    as an objective, is given beside it.
    """
    found: set[Path] = set()
    waiting = [program.resolve() for program in programs]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            for module in _parsed(file).modules:
                waiting.extend(_files_of(module, root))
    return sorted(found)


@cache
def code_digest(*programs: Path) -> str:
    """sha256 of the syntax trees of programs and of all that they import from here."""
    digest = hashlib.sha256()
    for file in imported_files(*programs):
        digest.update(file.relative_to(SCRIPTS).as_posix().encode())
        digest.update(_parsed(file).tree)
    return digest.hexdigest()


# Asked for each job: thousands of jobs run a handful of programs.
@cache
def package_versions(lock: Path, *programs: Path) -> Mapping[str, str]:
    """Name and version in the lock of each package that can change what the programs make, sorted by name."""
    imported = {module.split(".")[0] for file in imported_files(*programs) for module in _parsed(file).modules}
    patterns = [pattern for name in PACKAGES.keys() & imported for pattern in PACKAGES[name]]
    matching = re.compile("|".join(patterns) or "(?!)").fullmatch
    return {name: version for name, version in sorted(locked(lock).items()) if matching(name)}


class _Parsed:
    """A file's syntax tree as text, and the dotted names of what it imports."""

    def __init__(self, file: Path) -> None:
        tree = ast.parse(file.read_bytes(), filename=str(file))
        self.modules = tuple(_imported_modules(tree))
        for node in ast.walk(tree):
            _remove_docstring(node)
        self.tree = ast.dump(tree).encode()


# Most programs share most files: each is parsed once in a process.
@cache
def _parsed(file: Path) -> _Parsed:
    return _Parsed(file)


def _imported_modules(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError("relative imports are not followed: write the import in full")
            # `from package import module` may name a file too.
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _remove_docstring(node: ast.AST) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            del node.body[0]


@cache
def _files_of(module: str, root: Path) -> tuple[Path, ...]:
    """The files behind a dotted name: each package's `__init__.py` on the way, and the module itself."""
    parts = module.split(".")
    paths = [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return tuple(file for path in paths for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())


@cache
def locked(lock: Path) -> dict[str, str]:
    """Versions by name, the name as package indexes normalise it."""
    pins = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?===?([^\s;#]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}
