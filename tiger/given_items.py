"""What a caller gives to change a catalogue: ids, and texts, rows of a table or vectors for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tiger.data import DataError, item_table
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
