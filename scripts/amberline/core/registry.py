"""Registries: things of one kind, each a file of a package, found by the file's name."""

import importlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Registry(Generic[Thing]):
    """The files of a folder that say `CONSTANT = …`; those in `shared` are what they have in common."""

    def __init__(
        self, folder: Path, what: str, constant: str, shared: Iterable[str] = (), error: type[KeyError] = KeyError
    ) -> None:
        self._folder, self._what, self._constant, self._error = folder, what, constant, error
        self._shared = {"__init__", "base", "registry", *shared}

    @cached_property
    def _names(self) -> list[str]:
        return sorted(file.stem for file in self._folder.glob("*.py") if file.stem not in self._shared)

    def names(self) -> list[str]:
        """Names of all, sorted."""
        return list(self._names)

    def file(self, name: str) -> Path:
        """The file of one: its code is part of what determines what is made with it. Raises `error`."""
        if name not in self._names:
            raise self._error(f"there is no {self._what} {name!r}; there are: {', '.join(self._names)}")
        return self._folder / f"{name}.py"

    def load(self, name: str) -> Thing:
        """One by its name. Raises `error`."""
        self.file(name)
        found: Thing = getattr(importlib.import_module(f"amberline.{self._folder.name}.{name}"), self._constant)
        return found
