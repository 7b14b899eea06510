"""The manifest ``tiger.json``: the files of a recommender's directory and their digests."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tiger import __version__
from tiger.utils.digests import changed_files, file_digests, leads_out
from tiger.utils.errors import DataError
from tiger.utils.json_files import read_json
from tiger.utils.schema import check_fields, optional, shown, text, whole

MANIFEST = "tiger.json"
MODEL = "model"  # of a run's folder, the recommender
DEMO, DEMO_MODEL = "demo", Path(__file__).parents[1] / "demo_model"  # written by data/demo_model.py
# 2: config.json nests the retriever's settings; a version that reads format 1 only would take T5's defaults for them.
# 5: a memory may know repeats.
# 4: there may be a memory, without which answers are others.
# 3: config.json has a type of its own, which a version that knows plain T5s only can't read.
FORMAT = 5
READABLE = (1, 2, 3, 4, 5)
_KEYS = {"format", "semantic_ids", "max_history", "training", "parts"}
# All that a load opens, whether the manifest names it or not.
_READ = (
    *("config.json", "generation_config.json", "model.safetensors", "semantic_ids.safetensors", "trie.safetensors"),
    *("unseen.safetensors", "memory.safetensors", "items.parquet", "quantizer", "encoder", "ranker", MANIFEST),
)
_SUFFIXES = (".json", ".parquet", ".safetensors")  # of files that a load reads
_RULES = {
    "semantic_ids": text(64),
    "max_history": whole(1, 1 << 20),
    "training": lambda value: isinstance(value, dict) and optional(text(10_000))(value.get("template")),
}


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
        "files": file_digests(folder),
    }
    manifest["settings_sha256"] = _settings_digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def find_folder(name: str | os.PathLike) -> Path:
    """The directory that a name stands for, whether there is one or not.

    A run's folder stands for the ``model`` in it; ``demo`` for the recommender that comes with the library, where the
    working directory has none of that name.
    """
    folder = Path(name)
    if folder.is_dir():
        within = folder / MODEL
        return within if (within / MANIFEST).exists() and not (folder / MANIFEST).exists() else folder
    return DEMO_MODEL if str(name) == DEMO else folder


def writable_folder(name: str | os.PathLike) -> Path:
    """As :func:`find_folder`, but for changes: the recommender that comes with the library stays as it is."""
    folder = find_folder(name)
    return Path(name) if folder == DEMO_MODEL else folder


def read_manifest(folder: str | os.PathLike) -> dict:
    """A directory's manifest.

    Raises:
        DataError: there is none, it is damaged, of another version, or names files elsewhere.
    """
    file = Path(folder) / MANIFEST
    if not file.exists():
        if all((Path(folder) / part).exists() for part in ("tokenizer.json", "tokenizer")):
            raise DataError(
                f"{folder} holds a training that is not finished: give the same tiger train command again, which goes "
                "on where it was."
            )
        within = next((part.parent for part in sorted(Path(folder).glob(f"*/{MANIFEST}"))), None)
        meant = "" if within is None else f" (is {within} meant?)"
        raise DataError(
            f"{folder} has no {MANIFEST}{meant}: it is half-written or no saved recommender. Save it again."
        )
    manifest = read_json(file)
    if not _KEYS <= manifest.keys():
        raise DataError(f"{file} is not that of a recommender: {folder} belongs to something else.")
    if type(manifest["format"]) is not int or manifest["format"] not in READABLE:
        raise DataError(
            f"{folder} has format {shown(manifest['format'])} (written by tiger {shown(manifest.get('tiger'))}), this "
            f"is tiger {__version__}, which reads formats {READABLE[0]} to {READABLE[-1]}: install that version, or "
            "train again."
        )
    check_fields(manifest, _RULES, file)
    parts, files = manifest["parts"], manifest.get("files", {})
    listed = isinstance(parts, list) and isinstance(files, dict)
    if not listed or not all(isinstance(name, str) for name in [*parts, *files, *files.values()]):
        raise DataError(f"{file} is damaged (its lists of files are none): save the recommender again.")
    for name in [*parts, *files]:
        if not Path(name).parts:
            raise DataError(f"{file} is damaged: it names {name!r}, no file. Save the recommender again.")
        # It may come from a stranger, and files that it names are read and, in a cache, removed.
        if leads_out(name):
            raise DataError(f"{file} names {name!r}, outside its directory: don't trust {folder}.")
    return manifest


def own_files(folder: Path) -> set[str]:
    """Names in a directory that belong to its recommender, whatever its manifest says: it may be damaged, or a
    stranger's who calls ``.git`` a part."""
    return {name for name in _READ if os.path.lexists(folder / name)}


def check_own_files(folder: str | os.PathLike, manifest: dict) -> None:
    """Refuse what a load would read and is no regular file of the directory. A snapshot in the Hub's cache has links
    to the blobs beside it.

    Raises:
        DataError: a pipe or a device, which would keep the load waiting, or a link that leads elsewhere.
    """
    folder = Path(folder)
    within = [folder.resolve()]
    for place in (within[0], *within[0].parents):  # the folder may be one within a repository
        if place.parent.name == "snapshots" and (place == within[0] or place.parents[1].name.startswith("models--")):
            within.append(place.parents[1] / "blobs")
    names = {Path(name).parts[0] for name in [*manifest["parts"], *manifest.get("files", {}), *_READ] if name}
    for name in sorted(names):
        top = folder / name
        for path in [top, *(top.rglob("*") if top.is_dir() and not top.is_symlink() else ())]:
            if path.is_symlink():
                try:
                    target = path.resolve()
                except (OSError, RuntimeError) as error:  # a link to itself
                    raise DataError(f"{path} is a link that leads nowhere: put the file itself there.") from error
                if not any(target.is_relative_to(place) for place in within) or target.is_dir():
                    raise DataError(f"{path} is a link that leads out of {folder}: put the file itself there.")
            if path.exists() and not path.is_file() and not path.is_dir():
                raise DataError(f"{path} is no regular file: don't trust {folder}.")


def check_files(folder: str | os.PathLike, manifest: dict) -> None:
    """Compare a directory with its manifest; one from before digests were kept is only checked for completeness.

    Raises:
        DataError: a file is missing, cut short, changed, or one too many.
    """
    folder = Path(folder)
    if manifest.get("settings_sha256", _settings_digest(manifest)) != _settings_digest(manifest):
        raise DataError(
            f"{folder / MANIFEST}: its max_history or training is not as saved, but damaged. Save the recommender "
            "again. If you changed it yourself, remove its settings_sha256."
        )
    if stray := _strays(folder, manifest):
        raise DataError(
            f"{folder} holds {', '.join(stray[:5])}, which its {MANIFEST} does not name: of another recommender. "
            "Remove it."
        )
    missing = [name for name in manifest.get("files", manifest["parts"]) if not (folder / name).exists()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}: it is half-written. Save the recommender again.")
    if changed := changed_files(folder, manifest.get("files", {})):
        raise DataError(
            f"{folder}: {', '.join(changed)} {'is' if len(changed) == 1 else 'are'} not as saved, but damaged, cut "
            "short or tampered with. Save the recommender again."
        )


def _settings_digest(manifest: dict) -> str:
    """SHA-256 of what is written nowhere else: a flipped bit of a number is another valid number."""
    told = {name: manifest[name] for name in ("max_history", "training")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _strays(folder: Path, manifest: dict) -> list[str]:
    """Files that a load would read and no save of this recommender wrote."""
    named = {*manifest["parts"], MANIFEST}
    stray = [name for name in _READ if name not in named and os.path.lexists(folder / name)]
    files = manifest.get("files")
    if files is None:
        return stray
    for part in sorted(named & set(_READ)):
        for path in sorted((folder / part).rglob("*")) if (folder / part).is_dir() else ():
            name = path.relative_to(folder).as_posix()
            if path.suffix in _SUFFIXES and path.is_file() and name not in files:
                stray.append(name)
    return stray
