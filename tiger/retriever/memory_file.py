"""A memory as one safetensors file, read with care: it may be damaged, or come from a stranger."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from safetensors.numpy import save
from scipy import sparse

from tiger.retriever.memory import AGAIN, AGES, ROUTES, ItemMemory, MemoryTables, MemoryWeights
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.tensor_files import read_arrays

_TABLES, _BORROWED = ("followers", "shared", "neighbors"), "borrowed"
_SETTINGS = 4  # floor, popularity, t5_weight, t5_floor


def write_memory(memory: ItemMemory, file: str | os.PathLike) -> None:
    """Write one file.

    Raises:
        DiskError: the disk is full, read-only or denied.
    """
    write_atomically(file, memory_bytes(memory))


def memory_bytes(memory: ItemMemory) -> bytes:
    """Content of the file of a memory; of equal memories, the same."""
    weights = memory.weights
    settings = [weights.floor, weights.popularity, weights.t5_weight, weights.t5_floor]
    arrays = {"totals": memory.tables.totals, "slots": memory.slots}
    arrays |= {"kernels": weights.kernels, "settings": np.array(settings, dtype=np.float32)}
    for name in (*_TABLES, _BORROWED):
        table = getattr(memory if name == _BORROWED else memory.tables, name)
        arrays |= {f"{name}.values": table.data, f"{name}.columns": table.indices.astype(np.int32)}
        arrays[f"{name}.starts"] = table.indptr.astype(np.int64)
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def read_memory(file: str | os.PathLike, num_items: int) -> ItemMemory:
    """Read what :func:`write_memory` wrote.

    Args:
        num_items: of the catalog.

    Raises:
        DataError: damaged, or of another number of items.
    """
    wanted: dict[str, Any] = {
        "slots": ("I32", (num_items,)),
        "totals": ("F32", (None,)),
        "kernels": ("F32", (None, AGES)),
        "settings": ("F32", (_SETTINGS,)),
    }
    for name in (*_TABLES, _BORROWED):
        wanted |= {f"{name}.values": ("F32", (None,)), f"{name}.columns": ("I32", (None,))}
        wanted[f"{name}.starts"] = ("I64", (None,))
    arrays = read_arrays(file, wanted)
    floor, popularity, t5_weight, t5_floor = (float(value) for value in arrays["settings"])
    slots, totals, kernels = (arrays[name] for name in ("slots", "totals", "kernels"))
    if len(kernels) == AGAIN:  # of a version that didn't know repeats
        kernels = np.pad(kernels, ((0, 1), (0, 0)))
    if len(kernels) != len(ROUTES):
        raise DataError(f"{file} is damaged: weights of {len(kernels)} routes, not {len(ROUTES)}. Restore it.")
    positive = floor > 0 and t5_floor > 0 and popularity >= 0 and t5_weight >= 0
    if not positive or not len(totals) or totals.min() < 1 or kernels.min() < 0:
        raise DataError(f"{file} is damaged: weights or totals below their range. Restore it.")
    followers, shared, neighbors = (_table(file, name, arrays, len(totals), len(totals)) for name in _TABLES)
    borrowed = _table(file, _BORROWED, arrays, len(arrays["borrowed.starts"]) - 1, len(totals))
    if len(slots) and (slots.min() < 0 or slots.max() >= len(totals) + borrowed.shape[0]):
        raise DataError(f"{file} is damaged: slots that there are not. Restore it.")
    weights = MemoryWeights(kernels, floor, popularity, t5_weight, t5_floor)
    return ItemMemory(MemoryTables(followers, shared, neighbors, totals), weights, slots, borrowed)


def _table(
    file: str | os.PathLike, name: str, arrays: dict[str, np.ndarray], rows: int, columns: int
) -> sparse.csr_matrix:
    values, places, starts = (arrays[f"{name}.{part}"] for part in ("values", "columns", "starts"))
    whole = len(starts) == rows + 1 > 0 and len(values) == len(places) == starts[-1] and starts[0] == 0
    if not whole or (np.diff(starts) < 0).any() or (len(places) and (places.min() < 0 or places.max() >= columns)):
        raise DataError(f"{file} is damaged: {name} is no table of {rows:,} and {columns:,} items. Restore it.")
    if len(values) and values.min() < 0:
        raise DataError(f"{file} is damaged: {name} has values below 0. Restore it.")
    return sparse.csr_matrix((values, places, starts), shape=(rows, columns))
