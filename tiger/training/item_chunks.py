"""Item tables of many files in pieces of some ten thousand rows, each to be read by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tiger.data.parquet import opened_parquet, row_group_sizes
from tiger.data.readers import ITEM_COLUMNS, check_columns, refuse_nulls
from tiger.embeddings.item_text import item_texts
from tiger.utils.errors import DataError
from tiger.utils.stores import absolute

CHUNK_ITEMS = 50_000  # at least, where a file has as many: whole row groups make a chunk. Not tuned


@dataclass(frozen=True)
class ItemChunk:
    """Rows of one file.

    Args:
        number: of the chunk.
        file: path or URL.
        groups: row groups of it.
        start: of its rows among all of the catalog.
        rows: how many.
    """

    number: int
    file: str
    groups: tuple[int, ...]
    start: int
    rows: int

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, with ``item_id``.

        Args:
            columns: that are read, ``item_id`` among them; None: all.

        Raises:
            DataError: the file is damaged, or an id is null.
        """
        with opened_parquet(self.file) as source:
            table = source.read_row_groups(list(self.groups), columns=None if columns is None else list(columns))
        refuse_nulls(table["item_id"], self.file, "item_id")
        return table


def item_chunks(files: Sequence[str | os.PathLike]) -> list[ItemChunk]:
    """The chunks of a catalog, in the order of the files.

    Raises:
        DataError: no file, one is missing or no parquet file, it lacks ``item_id``, or they differ in their columns.
    """
    places = [absolute(file) for file in files]
    if not places:
        raise DataError("no files: give the items, such as items/*.parquet.")
    chunks: list[ItemChunk] = []
    start, names = 0, None
    for place in places:
        with opened_parquet(place) as source:
            check_columns(source.schema_arrow, ITEM_COLUMNS, place)
            names = names or source.schema_arrow.names
            if source.schema_arrow.names != names:
                raise DataError(f"{place} and {places[0]} differ in their columns. Write both again.")
            sizes = row_group_sizes(source)
        groups: list[int] = []
        for group, size in enumerate(sizes):
            groups.append(group)
            rows = sum(sizes[one] for one in groups)
            if rows >= CHUNK_ITEMS or group == len(sizes) - 1:
                if rows:
                    chunks.append(ItemChunk(len(chunks), place, tuple(groups), start, rows))
                start, groups = start + rows, []
    if not chunks:
        raise DataError(f"{places[0]} holds no items.")
    return chunks


def texts_of_rows(chunks: Sequence[ItemChunk], rows: np.ndarray, template: str | None) -> Iterator[str]:
    """Texts of some rows of the catalog, int [n] in order, chunk after chunk."""
    for chunk in chunks:
        low, high = np.searchsorted(rows, [chunk.start, chunk.start + chunk.rows])
        if low < high:
            yield from item_texts(chunk.read().take(rows[low:high] - chunk.start), template)
