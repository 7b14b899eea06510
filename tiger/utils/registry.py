"""Registries: classes by the name in a setting or a saved directory; users can add their own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.json_files import read_json
from tiger.utils.schema import check_fields, text

T = TypeVar("T")
# Names modules that register classes of one's own, with commas between: what loads a saved object may not know them.
MODULES = "TIGER_MODULES"


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

        A file names no module: what a stranger saved imports nothing. Modules that ``$TIGER_MODULES`` names are
        imported where the name is unknown without them.

        Raises:
            DataError: the name is unknown, or a module can't be imported.
        """
        if name not in self:
            for module in filter(None, os.environ.get(MODULES, "").split(",")):
                _imported(module.strip(), f"${MODULES}")
        if name not in self:
            raise DataError(
                f"{file}: unknown kind {name!r}. Import the module that registers it, name it in ${MODULES}, or "
                "update the library."
            )
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered

    def __iter__(self) -> Iterator[str]:
        """All names, the library's own first."""
        return iter([*self._own, *self._registered])

    def __getitem__(self, name: str) -> type[T]:
        """The class of a name, or of the module and class in a setting, ``"mymodule.MyClass"``, which is registered.

        Raises:
            DataError: the name is unknown, or there is no such module or class.
        """
        if name in self._registered:
            return self._registered[name]
        if name not in self._own:
            module, dot, kind = name.rpartition(".")
            if dot:
                found = getattr(_imported(module, f"{self.what} {name}"), kind, None)
                if not isinstance(found, type) or not isinstance(getattr(found, "kind", None), str):
                    raise DataError(f"{self.what} {name}: {module} has no class {kind} with a name in 'kind'.")
                self.register(found.kind, found)  # type: ignore[attr-defined]
                return found
            raise DataError(
                f"{self.what} must be one of {', '.join(self)}, got {name!r}. If it is a class of your own, register "
                "it first, or give module.Class."
            )
        module, _, kind = self._own[name].partition(":")
        return getattr(import_module(module), kind)


def _imported(module: str, where: str) -> ModuleType:
    try:
        return import_module(module)
    except (ImportError, ValueError, TypeError) as error:  # the last two: an empty or relative name
        raise DataError(f"{where}: {error}. Put the folder that holds it into PYTHONPATH.") from error
