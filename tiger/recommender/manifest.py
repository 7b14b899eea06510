"""The manifest ``tiger.json``: the files of a recommender's directory and their digests."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tiger import __version__
from tiger.utils.errors import DataError

MANIFEST = "tiger.json"
# 2: config.json nests the retriever's settings; a version that reads format 1 only would take T5's defaults for them.
FORMAT = 2
READABLE = (1, 2)
_KEYS = {"format", "semantic_ids", "max_history", "training", "parts"}


def write_manifest(folder: str | os.PathLike, semantic_ids: str, max_history: int, training: dict) -> None:
    """Record a directory's files as they are now. Written last: a directory without it is half-written.

    Args:
        folder: whose files are all the recommender's.
        semantic_ids: the tokenizer's fingerprint.
        max_history: how many items of a history the model reads.
        training: what is known of the training, any JSON object.
    """
    folder = Path(folder)
    manifest = {
        "format": FORMAT,
        "tiger": __version__,
        "semantic_ids": semantic_ids,
        "max_history": max_history,
        "training": training,
        "parts": sorted(path.name for path in folder.iterdir()),
        "files": {
            path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def read_manifest(folder: str | os.PathLike) -> dict:
    """A directory's manifest.

    Raises:
        DataError: there is none, it is damaged, of another version, or names files elsewhere.
    """
    file = Path(folder) / MANIFEST
    if not file.exists():
        raise DataError(f"{folder} has no {MANIFEST}: it is half-written or no saved recommender. Save it again.")
    try:
        manifest = json.loads(file.read_text())
    except ValueError as error:  # no JSON, or no text at all
        raise DataError(f"{file} is damaged ({error}): save the recommender again.") from error
    if not isinstance(manifest, dict) or not _KEYS <= manifest.keys():
        raise DataError(f"{file} is not that of a recommender: {folder} belongs to something else.")
    if manifest["format"] not in READABLE:
        raise DataError(
            f"{folder} has format {manifest['format']} (written by tiger {manifest.get('tiger')}), this is "
            f"tiger {__version__}, which reads formats {READABLE[0]} to {READABLE[-1]}: install that version, or "
            "train again."
        )
    parts, files = manifest["parts"], manifest.get("files", {})
    listed = isinstance(parts, list) and isinstance(files, dict)
    if not listed or not all(isinstance(name, str) for name in [*parts, *files, *files.values()]):
        raise DataError(f"{file} is damaged (its lists of files are none): save the recommender again.")
    for name in [*parts, *files]:
        # It may come from a stranger, and files that it names are read and, in a cache, removed.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{file} names {name!r}, outside its directory: don't trust {folder}.")
    return manifest


def own_files(folder: Path) -> set[str]:
    """Names in a directory that a save of its recommender wrote; where the manifest can't say, all."""
    try:
        return {MANIFEST, *read_manifest(folder)["parts"]}
    except DataError:
        return {path.name for path in folder.iterdir()}


def check_files(folder: str | os.PathLike, manifest: dict) -> None:
    """Compare a directory with its manifest; one from before digests were kept is only checked for completeness.

    Raises:
        DataError: a file is missing, cut short or changed.
    """
    folder = Path(folder)
    missing = [name for name in manifest.get("files", manifest["parts"]) if not (folder / name).exists()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}: it is half-written. Save the recommender again.")
    if changed := changed_files(folder, manifest):
        raise DataError(
            f"{folder}: {', '.join(changed)} {'is' if len(changed) == 1 else 'are'} not as saved, but damaged, cut "
            "short or tampered with. Save the recommender again."
        )


def changed_files(folder: str | os.PathLike, manifest: dict) -> list[str]:
    """Names of files that are there, but not as they were when the manifest was written."""
    files = {name: Path(folder) / name for name in manifest.get("files", {})}
    return [name for name, file in files.items() if file.exists() and _sha256(file) != manifest["files"][name]]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
