"""Names of a package that are imported on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tiger._moved import old_names


def lazy_names(package: str, homes: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its ``__name__``.
        homes: public names and the modules that define them.
    """

    old = old_names(package, stacklevel=3)

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        return old(name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names, sorted(homes)
