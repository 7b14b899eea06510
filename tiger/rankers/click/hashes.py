"""Hashes of codes: numbers of 64 bits that stand for tuples of them."""

from __future__ import annotations

import numpy as np

from tiger.utils.errors import DataError


def mix(keys: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every bit of the answer depends on every bit of the key."""
    with np.errstate(over="ignore"):
        keys = keys + np.uint64(0x9E3779B97F4A7C15)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return keys ^ (keys >> np.uint64(31))


def mix_columns(columns: np.ndarray, keys: np.ndarray | None = None) -> np.ndarray:
    """One number for each row of codes, int [columns, ...], from ``keys`` (default 0) on: equal for equal rows."""
    keys = np.zeros(columns.shape[1:], dtype=np.uint64) if keys is None else keys
    for column in columns:
        keys = mix(keys + column.astype(np.uint64))
    return keys


def code_keys(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """A tuple of codes as one number, as a log or a feature store keeps it: int [n, L] to uint64 [n].

    Where the tuple fits into 64 bits, its codes stand side by side, the first one highest. Eight levels of 2048 codes
    (the sizes of Singh et al.) need 88: then the number is a hash, which two of a million tuples share with a chance
    of 3 in 10^8.

    Raises:
        DataError: two different tuples among these have the same hash.
    """
    codes = np.asarray(codes)
    bits = int(codebook_size - 1).bit_length()
    if bits * codes.shape[1] <= 64:
        keys = np.zeros(len(codes), dtype=np.uint64)
        for column in codes.T:
            keys = (keys << np.uint64(bits)) | column.astype(np.uint64)
        return keys
    keys = mix_columns(codes.T)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if not np.array_equal(codes[first][inverse], codes):
        raise DataError("two tuples of codes have the same 64-bit hash: keep the codes themselves.")
    return keys
