"""Registries: classes by the name in a setting or a saved directory; users can add their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Generic, TypeVar

from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.json_files import read_json
from tiger.utils.schema import check_fields, text

T = TypeVar("T")


class Registry(Generic[T]):
    """The library's own classes, imported when they are first asked for, and those that users register.

    Args:
        what: what the classes are, for error messages.
        own: ``"module:Class"`` of the library's own classes, by name.
    """

    def __init__(self, what: str, own: Mapping[str, str]):
        self.what, self._own, self._registered = what, dict(own), dict[str, type[T]]()

    def register(self, name: str, kind: type[T]) -> None:
        """Register a class under a name, for settings and saved directories.

        Raises:
            ValueError: another class has this name.
        """
        if name in self._own or self._registered.get(name, kind) is not kind:
            raise ValueError(f"{self.what} {name!r} is another class already: choose another name")
        self._registered[name] = kind

    def write_kind(self, file: Path, name: str) -> None:
        """Write the file that names a saved object's class."""
        write_atomically(file, json.dumps({"kind": name}) + "\n")

    def read_kind(self, file: Path) -> str:
        """Read what :meth:`write_kind` wrote.

        Raises:
            DataError: damaged.
        """
        saved = read_json(file)
        check_fields(saved, {"kind": text(100)}, file)
        return saved["kind"]

    def saved(self, name: str, file: Path) -> type[T]:
        """The class of a saved object whose file names it.

        Raises:
            DataError: the name is unknown.
        """
        if name not in self:
            raise DataError(
                f"{file}: unknown kind {name!r}. Import the module that registers it, or update the library."
            )
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered

    def __iter__(self) -> Iterator[str]:
        """All names, the library's own first."""
        return iter([*self._own, *self._registered])

    def __getitem__(self, name: str) -> type[T]:
        """
        Raises:
            DataError: the name is unknown.
        """
        if name in self._registered:
            return self._registered[name]
        if name not in self._own:
            raise DataError(
                f"{self.what} must be one of {', '.join(self)}, got {name!r}. If it is a class of your own, register "
                "it first."
            )
        module, _, kind = self._own[name].partition(":")
        return getattr(import_module(module), kind)
