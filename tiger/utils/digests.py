"""Digests of a folder's files, kept in the folder: whether they still are what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
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
    files = file_digests(folder, lambda name: name != DIGESTS and wanted(name))
    write_atomically(Path(folder) / DIGESTS, json.dumps({"files": files}, indent=1) + "\n")


def file_digests(folder: str | os.PathLike, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, str]:
    """The SHA-256 of each file of a folder, by its path within it."""
    folder = Path(folder)
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: sha256(path) for name, path in names.items() if wanted(name)}


def changed_files(folder: str | os.PathLike, files: Mapping[str, str]) -> list[str]:
    """Names of files that are there, but not with these digests."""
    paths = {name: Path(folder) / name for name in files}
    return [name for name, path in paths.items() if path.exists() and sha256(path) != files[name]]


def leads_out(name: str) -> bool:
    """Whether a path within a folder, which a stranger may have written, leads out of it."""
    return Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name


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
    for name in saved["files"]:
        if leads_out(name):
            raise DataError(f"{folder / DIGESTS} names {name!r}, outside its folder.")
        if not (folder / name).exists():
            raise DataError(f"{folder} lacks {name}: it is half-written or damaged.")
    if changed := changed_files(folder, saved["files"]):
        verb = "is" if len(changed) == 1 else "are"
        raise DataError(f"{folder}: {', '.join(changed)} {verb} not as saved, but damaged or cut short.")
    return True
