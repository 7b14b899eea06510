"""``semantic_ids.safetensors``: arrays of a tokenizer, its item ids and a header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import save

from tiger.semantic_ids.item_ids import ItemIds
from tiger.semantic_ids.packing import Packing
from tiger.semantic_ids.vocabulary import VOCABULARIES, PrefixVocabulary
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.schema import check_fields, dict_of, one_of, optional, shown, text, whole
from tiger.utils.tensor_files import header_json, read_arrays, read_header

FORMAT = 1
PREFIX_TABLE = "prefix_tokens"
MAX_LEVELS = 64
# Collision tokens go up to the number of items that ever shared their codes: some of them may have left the catalog.
MAX_REMOVED = 1 << 24
_RULES = {"codebook_size": whole(1, 1 << 31), "fingerprint": text(64)}
_OPTIONAL = {
    "tokens": one_of(*VOCABULARIES),
    "collision_size": optional(whole(0, 1 << 31)),
    "num_prefixes": whole(1, 1 << 28),
    "learned_split": optional(dict_of(optional(whole(-(1 << 63), 1 << 63)), 10)),
    "quantizer": optional(dict_of(text(64), 100)),
    "sha256": text(64),
}


def write_semantic_ids(file: Path, arrays: dict[str, np.ndarray], item_ids: ItemIds, header: dict) -> None:
    """Write arrays, item ids (as one text and the places where each ends) and a header of JSON."""
    ids = pa.concat_arrays([item_ids.to_arrow()])  # without an offset into other buffers
    _, places, text = ids.buffers()
    starts = np.frombuffer(places, dtype=np.int64)[: len(ids) + 1]
    joined = np.frombuffer(text or b"", dtype=np.uint8)[starts[0] : starts[-1]]
    arrays = arrays | {"item_id_bytes": joined, "item_id_ends": starts[1:] - starts[0]}
    # One key: a safetensors header with several writes them in an order that differs between processes.
    header = {"format": FORMAT} | header
    header["sha256"] = _digest(arrays, header)
    write_atomically(file, save(arrays, metadata={"tokenizer": json.dumps(header)}))


def read_semantic_ids(file: Path) -> tuple[dict[str, np.ndarray], ItemIds, dict]:
    """Read what :func:`write_semantic_ids` wrote.

    Raises:
        DataError: the file is damaged or of another version: a type, a shape or a value isn't what it should be.
    """
    found = read_header(file)
    header = header_json(file, found, "tokenizer")
    if header.get("format") != FORMAT:
        raise DataError(
            f"{file} has format {shown(header.get('format'))}, this version of tiger reads {FORMAT}: "
            "fit the tokenizer again or install the version that wrote it."
        )
    check_fields(header, _RULES, file, **_OPTIONAL)
    by_prefixes = header.get("tokens") == PrefixVocabulary.kind
    if by_prefixes and "num_prefixes" not in header:
        raise DataError(f"{file} is damaged: it lacks num_prefixes.")
    matrix = ("I32", (None, None))
    wanted = {"semantic_ids": matrix, "item_id_bytes": ("U8", (None,)), "item_id_ends": ("I64", (None,))}
    arrays = read_arrays(file, wanted | ({PREFIX_TABLE: matrix} if by_prefixes else {}))
    if "sha256" in header and header["sha256"] != _digest(arrays, header):
        raise DataError(f"{file} is not as saved, but damaged: restore it, or fit the tokenizer again.")
    item_ids = _item_ids(file, arrays.pop("item_id_bytes"), arrays.pop("item_id_ends"))
    _check_ids(file, arrays["semantic_ids"], len(item_ids), header["codebook_size"])
    if by_prefixes:
        _check_prefixes(file, arrays[PREFIX_TABLE], arrays["semantic_ids"], header)
    return arrays, item_ids, header


def _digest(arrays: dict[str, np.ndarray], header: dict) -> str:
    """SHA-256 of all arrays and of the header: a flipped bit of a code is another valid code."""
    told = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _item_ids(file: Path, joined: np.ndarray, ends: np.ndarray) -> ItemIds:
    if not len(ends) or ends[0] < 0 or (ends[1:] < ends[:-1]).any() or ends[-1] != len(joined):
        raise DataError(f"{file} is damaged: the places where item ids end are not those of their text.")
    places = np.concatenate([[0], ends]).astype(np.int64)
    values = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(places), pa.py_buffer(joined))
    try:
        values.validate(full=True)
        ids = ItemIds(values)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"{file} is damaged: item ids are not UTF-8 ({' '.join(str(error).split())}).") from error
    if (twice := ids.first_repeated) is not None:
        raise DataError(f"{file} is damaged: item id {twice!r} occurs more than once.")
    return ids


def _check_ids(file: Path, semantic_ids: np.ndarray, count: int, codebook_size: int) -> None:
    """Codes in range, IDs distinct."""
    rows, depth = semantic_ids.shape
    if rows != count or not 2 <= depth <= MAX_LEVELS + 1:
        raise DataError(f"{file} is damaged: semantic IDs {[rows, depth]} of {count} items.")
    codes, collisions = semantic_ids[:, :-1], semantic_ids[:, -1]
    if semantic_ids.min() < 0 or codes.max() >= codebook_size or collisions.max() >= count + MAX_REMOVED:
        raise DataError(f"{file} is damaged: a code or a collision token is out of range.")
    try:
        packed = np.sort(Packing(depth - 1, codebook_size).pack(semantic_ids))
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if (packed[1:] == packed[:-1]).any():
        raise DataError(f"{file} is damaged: two items have one semantic ID.")


def _check_prefixes(file: Path, table: np.ndarray, semantic_ids: np.ndarray, header: dict) -> None:
    """One token for each prefix, and one prefix for each token."""
    if table.shape != semantic_ids.shape or table.min() < 1 or table.max() > header["num_prefixes"]:
        raise DataError(f"{file} is damaged: a prefix token is out of range.")
    packing = Packing(table.shape[1] - 1, header["codebook_size"])
    keys = packing.pack(semantic_ids)
    order = np.argsort(keys)
    keys, table, used = keys[order], table[order], []
    for level in range(table.shape[1]):
        prefixes, tokens = keys >> packing.bits_below(level), table[:, level]
        same = prefixes[1:] == prefixes[:-1]
        if (tokens[1:] != tokens[:-1])[same].any():
            raise DataError(f"{file} is damaged: one prefix has two tokens.")
        used.append(tokens[np.append(True, ~same)])
    tokens = np.sort(np.concatenate(used))
    if (tokens[1:] == tokens[:-1]).any():
        raise DataError(f"{file} is damaged: two prefixes have one token.")
