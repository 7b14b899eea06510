"""A tokenizer's directory: semantic IDs and the quantizer that made them, written together and read as a pair."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tiger.quantizers.auto import load_quantizer, save_quantizer
from tiger.quantizers.base import Quantizer
from tiger.semantic_ids.item_ids import ItemIds
from tiger.semantic_ids.storage import read_semantic_ids, write_semantic_ids
from tiger.utils.digests import changed_files, file_digests, leads_out
from tiger.utils.errors import DataError
from tiger.utils.files import put_back, replaced_folder
from tiger.utils.locks import read_unmixed

FILE_NAME = "semantic_ids.safetensors"
QUANTIZER_FOLDER = "quantizer"


def write_directory(
    folder: Path, arrays: dict[str, np.ndarray], item_ids: ItemIds, header: dict, quantizer: Quantizer | None
) -> None:
    """Write semantic IDs and quantizer: both or, where a tokenizer is there already, neither. Other files stay.

    Args:
        folder: a directory that there is.
        arrays, item_ids, header: see :func:`tiger.semantic_ids.storage.write_semantic_ids`.
    """
    put_back(folder)
    if not (folder / FILE_NAME).exists():
        _write(folder, arrays, item_ids, header, quantizer)
        return
    # Between two files that are replaced one after the other, a process may be killed: new IDs, old codebooks.
    with replaced_folder(folder, FILE_NAME, ours=lambda old: (FILE_NAME, QUANTIZER_FOLDER)) as fresh:
        _write(fresh, arrays, item_ids, header, quantizer)


def _write(
    folder: Path, arrays: dict[str, np.ndarray], item_ids: ItemIds, header: dict, quantizer: Quantizer | None
) -> None:
    files = None
    if quantizer is not None:
        save_quantizer(quantizer, folder / QUANTIZER_FOLDER)
        files = file_digests(folder / QUANTIZER_FOLDER)
    # Written last: without it there is no tokenizer, and it says which quantizer is its own.
    write_semantic_ids(folder / FILE_NAME, arrays, item_ids, header | {"quantizer": files})


def read_directory(folder: Path) -> tuple[dict[str, np.ndarray], ItemIds, dict, Quantizer | None]:
    """Read what :func:`write_directory` wrote. What a save replaces meanwhile is read again, never mixed.

    Raises:
        DataError: a file is missing, damaged, of another version, or the quantizer is not that of the semantic IDs.
    """
    return read_unmixed(folder, lambda: _read(folder), _stamp)


def _stamp(folder: Path) -> tuple:
    """Another one after every save."""
    try:
        there, file = os.stat(folder), os.stat(folder / FILE_NAME)
    except OSError:
        return ()
    return there.st_ino, file.st_ino, file.st_mtime_ns


def _read(folder: Path) -> tuple[dict[str, np.ndarray], ItemIds, dict, Quantizer | None]:
    file, place = folder / FILE_NAME, folder / QUANTIZER_FOLDER
    if not file.exists():
        raise DataError(f"{file} is missing: {folder} holds no tokenizer, or a half-written one.")
    arrays, item_ids, header = read_semantic_ids(file)
    # Older versions don't say which quantizer is theirs.
    files = header.get("quantizer", {})
    if files is None or not (files or place.is_dir()):
        return arrays, item_ids, header, None
    if out := [name for name in files if leads_out(name)]:
        raise DataError(f"{file} names {out[0]!r}, outside {place}: don't trust {folder}.")
    if missing := [name for name in files if not (place / name).exists()]:
        raise DataError(f"{place} lacks {', '.join(missing)}: it is half-written or damaged.")
    if changed := changed_files(place, files):
        raise DataError(
            f"{place} is damaged, or of another tokenizer than {file} ({', '.join(changed)} "
            f"{'is' if len(changed) == 1 else 'are'} not as saved)."
        )
    quantizer = load_quantizer(place)
    if quantizer.codebook_size != header["codebook_size"]:
        raise DataError(
            f"{place} has codebooks of {quantizer.codebook_size}, {file} of {header['codebook_size']}: they come from "
            "different tokenizers."
        )
    return arrays, item_ids, header, quantizer
