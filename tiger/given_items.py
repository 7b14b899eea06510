"""What a caller gives to change a catalogue: ids, and texts, rows of a table or vectors for them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiger.data import DataError, item_table
from tiger.embeddings import LSAEncoder, SentenceEncoder, check_texts, item_texts
from tiger.tokenizer import check_ids


class GivenItems:
    """New items, or known ones with news, as the caller gave them."""

    def __init__(self, item_ids: Sequence[str], texts, table, embeddings):
        if isinstance(item_ids, str) or isinstance(texts, str):
            raise TypeError('item_ids and texts are lists: ["item-1"], not "item-1"')
        if texts is None and table is None and embeddings is None:
            raise TypeError("give the items' texts, a table to make texts from, or embeddings")
        item_ids = list(item_ids)
        self.item_ids = check_ids(item_ids, len(item_ids))
        self.texts = None if texts is None else list(texts)
        self.table = None if table is None else item_table(table)
        self.embeddings = None if embeddings is None else np.asarray(embeddings)
        for name, part in (("texts", self.texts), ("rows of the table", self.table), ("embeddings", self.embeddings)):
            if part is not None and len(part) != len(item_ids):
                raise DataError(f"{len(part)} {name} for {len(item_ids)} items: there must be one an item.")
        if self.table is not None:
            others = [name for name in self.table.column_names if name != "item_id"]
            self.table = self.table.select(others).add_column(0, "item_id", pa.array(item_ids, pa.large_string()))

    def take(self, rows: np.ndarray) -> GivenItems:
        """Some of them alone."""
        some = copy.copy(self)
        some.item_ids = [self.item_ids[row] for row in rows]
        some.texts = None if self.texts is None else [self.texts[row] for row in rows]
        some.table = None if self.table is None else self.table.take(rows)
        some.embeddings = None if self.embeddings is None else self.embeddings[rows]
        return some

    def rows_of(self, items: pa.Table | None, at: np.ndarray | None = None) -> pa.Table | None:
        """As rows of an item table; what is not given, from its rows ``at``, or null.

        Raises:
            DataError: a column holds other things than the item table's.
        """
        if items is None:
            return self.table
        columns = {"item_id": pa.array(self.item_ids, items["item_id"].type)}
        for field in items.schema:
            if field.name == "item_id":
                continue
            old = pa.nulls(len(self.item_ids), field.type) if at is None else items[field.name].take(at)
            columns[field.name] = old
            if self.table is not None and field.name in self.table.column_names:
                try:
                    columns[field.name] = pc.coalesce(self.table[field.name].cast(field.type), old)
                except pa.ArrowException as error:
                    raise DataError(f"column {field.name!r} does not fit the item table's: {error}.") from error
        return pa.table(columns, items.schema)

    def vectors(
        self, rows: pa.Table | None, encoder: SentenceEncoder | LSAEncoder | None, template: str | None
    ) -> np.ndarray:
        """Embeddings, float32 [m, d]: those given, or of the texts given, or of the texts of ``rows``.

        Args:
            rows: of the item table, see :meth:`rows_of`.
            encoder: of texts.
            template: how a row becomes a text.

        Raises:
            DataError: an empty or an endless text, or no encoder.
        """
        if self.embeddings is not None:
            return self.embeddings
        texts = item_texts(rows, template) if self.texts is None else self.texts
        check_texts(self.item_ids, texts)
        if encoder is None:
            raise DataError("this recommender was saved without a text encoder, so it can't embed new items.")
        vectors = encoder.encode(list(texts))
        empty = [item for item, vector in zip(self.item_ids, vectors) if not vector.any()]
        if empty:
            warnings.warn(
                f"the encoder knows no word of the texts of {len(empty)} items, {empty[0]!r} for one: "
                "their semantic IDs mean nothing",
                stacklevel=5,  # who called the recommender
            )
        return vectors
