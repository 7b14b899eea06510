"""Names of directories as users give them: whether one can be the Hub's, and the nearest one that there is."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path
from typing import TypeGuard

_MOST = 10_000  # names of a folder that are compared


def is_repo_id(name: str | os.PathLike) -> TypeGuard[str]:
    """Whether ``name`` reads as ``owner/name``; all else is a path of this machine, and the Hub is not asked."""
    from huggingface_hub.errors import HFValidationError  # a tenth of a second, not needed for --help
    from huggingface_hub.utils import validate_repo_id

    if not isinstance(name, str) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def nearest(path: str | os.PathLike) -> Path | None:
    """The path that there is and that reads most like this one, which there is not; None: none is like it.

    Example::

        nearest("runs/dmo/model")  # runs/demo/model
    """
    parts = Path(path).expanduser().parts
    here = Path(parts[0]) if parts and Path(parts[0]).is_absolute() else Path()
    for part in parts[1:] if here.is_absolute() else parts:
        if (here / part).exists():
            here /= part
            continue
        try:
            names = sorted(one.name for one in islice(here.iterdir(), _MOST))
        except OSError:
            return None
        by_lower = {name.lower(): name for name in names}
        found = difflib.get_close_matches(part.lower(), by_lower, n=1)
        if not found:
            return None
        here /= by_lower[found[0]]
    return here


def nearest_hint(path: str | os.PathLike) -> str:
    """`` (is PATH meant?)`` for an error message; empty where no name is like it."""
    found = None if Path(path).exists() else nearest(path)
    return "" if found is None or found == Path() else f" (is {found} meant?)"
