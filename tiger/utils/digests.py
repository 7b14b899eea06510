"""Digests of a folder's files, kept in the folder: whether they still are what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.json_files import check_regular, read_json
from tiger.utils.schema import check_fields, dict_of, text

DIGESTS = "files.json"


def sha256(path: str | os.PathLike) -> str:
    """Of a regular file, in hexadecimal.

    Raises:
        DataError: it is none.
    """
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_digests(folder: str | os.PathLike, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Write ``files.json``: the SHA-256 of each file as it is now.

    Args:
        wanted: of a path within the folder, whether it is listed.
    """
    folder = Path(folder)
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: sha256(path) for name, path in names.items() if name != DIGESTS and wanted(name)}
    write_atomically(folder / DIGESTS, json.dumps({"files": files}, indent=1) + "\n")


def check_digests(folder: str | os.PathLike) -> bool:
    """Compare a folder with its ``files.json``.

    Returns:
        False where it has none: it was written before digests were.

    Raises:
        DataError: a file is missing, cut short or changed.
    """
    folder = Path(folder)
    if not (folder / DIGESTS).exists():
        return False
    saved = read_json(folder / DIGESTS)
    check_fields(saved, {"files": dict_of(text(64), 100_000)}, folder / DIGESTS)
    for name, digest in saved["files"].items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{folder / DIGESTS} names {name!r}, outside its folder.")
        if not (folder / name).exists():
            raise DataError(f"{folder} lacks {name}: it is half-written or damaged.")
        if sha256(folder / name) != digest:
            raise DataError(f"{folder}: {name} is not as saved, but damaged or cut short.")
    return True
