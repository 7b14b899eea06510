"""Checks of codes and item ids, and numbers for items with the same codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tiger.utils.errors import DataError


def check_codes(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """The codes as int32 [items, levels].

    Raises:
        DataError: no matrix of integers, or a code out of range.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise DataError(f"codes must be integers [items, levels], got {codes.dtype} {codes.shape}.")
    wrong = (codes < 0) | (codes >= codebook_size)
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise DataError(f"row {row}: codes {codes[row].tolist()} are not all within 0..{codebook_size - 1}.")
    return codes.astype(np.int32)


def check_ids(item_ids: Iterable[str], count: int) -> list[str]:
    """The ids as a list.

    Raises:
        DataError: other than ``count``, no text, half a character, or one of them twice.
    """
    item_ids = list(item_ids)
    if len(item_ids) != count:
        raise DataError(f"{len(item_ids)} item ids for {count} rows: there must be one per row.")
    other = next((item for item in item_ids if not isinstance(item, str)), None)
    if other is not None:
        raise DataError(f"item ids must be strings, got {other!r}: turn them into text.")
    try:
        "".join(item_ids).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"item ids hold half a character, {error.object[error.start]!r}: drop it.") from error
    if len(set(item_ids)) < len(item_ids):
        seen: set[str] = set()
        for item in item_ids:
            if item in seen:
                raise DataError(f"item id {item!r} occurs more than once: keep one row per item.")
            seen.add(item)
    return item_ids


def number_within_groups(keys: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
    """int64 [n]: 0, 1, 2, ... within each group of equal keys.

    The order is that of a fixed hash of the item ids: the same for every order of the rows, and without the order of
    the ids themselves, which in product codes tells when an item came to the shop.
    """
    import pandas as pd  # loaded on use: most who recommend don't need it

    hashes = pd.util.hash_array(np.asarray(item_ids, dtype=object), categorize=False)
    order = np.lexsort((hashes, keys))
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[order][1:] != keys[order][:-1]
    at = np.arange(len(keys))
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = at - np.maximum.accumulate(np.where(first, at, 0))
    return numbers


def either_of(embeddings: np.ndarray | None, codes: np.ndarray | None) -> np.ndarray:
    """Return the one that is given.

    Raises:
        ValueError: neither is, or both are.
    """
    if embeddings is not None and codes is None:
        return embeddings
    if codes is not None and embeddings is None:
        return codes
    raise ValueError("give either embeddings or codes")
