"""Add, update and remove items: each change makes a new :class:`RecommenderState` and leaves the old one as it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiger._moved import old_names
from tiger.data.columns import is_text
from tiger.data.readers import item_table
from tiger.embeddings.base import ItemEncoder, encode_items
from tiger.embeddings.item_text import check_texts, item_texts
from tiger.recommender.borrowing import lenders
from tiger.recommender.state import RecommenderState
from tiger.retriever.initialization import with_new_tokens
from tiger.semantic_ids.tokenizer import check_ids
from tiger.utils.errors import DataError, first_line

_MAX_CHUNKS = 256  # pieces of an item table; not tuned
_NO_LIST = 'item_ids and texts are lists: ["item-1"], not "item-1"'


class ItemBatch:
    """Items to add or update: their ids, and texts, rows of a table or vectors of them.

    Args:
        item_ids: the items' own ids, distinct.
        texts: one per item, or None.
        table: a row per item, an Arrow table or a list of dicts, or None.
        embeddings: float [m, d], or None.
    """

    def __init__(self, item_ids: Sequence[str], texts, table, embeddings):
        if isinstance(item_ids, str) or isinstance(texts, str):
            raise TypeError(_NO_LIST)
        if texts is None and table is None and embeddings is None:
            raise TypeError("give the items' texts, a table to make texts from, or embeddings")
        item_ids = list(item_ids)
        self.item_ids = check_ids(item_ids, len(item_ids))
        self.texts = None if texts is None else list(texts)
        self.table = None if table is None else item_table(table)
        self.embeddings = None if embeddings is None else np.asarray(embeddings)
        for name, part in (("texts", self.texts), ("rows of the table", self.table), ("embeddings", self.embeddings)):
            if part is not None and len(part) != len(item_ids):
                raise DataError(f"{len(part)} {name} for {len(item_ids)} items: there must be one per item.")
        if self.table is not None:
            others = [name for name in self.table.column_names if name != "item_id"]
            self.table = self.table.select(others).add_column(0, "item_id", pa.array(item_ids, pa.large_string()))

    def take(self, rows: np.ndarray) -> ItemBatch:
        """The items at these positions."""
        some = copy.copy(self)
        some.item_ids = [self.item_ids[row] for row in rows]
        some.texts = None if self.texts is None else [self.texts[row] for row in rows]
        some.table = None if self.table is None else self.table.take(rows)
        some.embeddings = None if self.embeddings is None else self.embeddings[rows]
        return some

    def rows_of(self, items: pa.Table | None, at: np.ndarray | None = None) -> pa.Table | None:
        """Rows for an item table. Missing values are taken from its rows ``at``, else they are null.

        Raises:
            DataError: a column doesn't fit the item table's type.
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
                columns[field.name] = self._fitting(field, old)
        self._warn_of_unknown(items.schema)
        return pa.table(columns, items.schema)

    def _fitting(self, field: pa.Field, old: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
        """A column of the table in the item table's type; where it is null, ``old``."""
        assert self.table is not None  # the caller has looked
        new = self.table[field.name]
        if is_text(new.type) and (pa.types.is_list(field.type) or pa.types.is_large_list(field.type)):
            # A CSV file has no lists: what it says is one entry.
            new = pa.chunked_array([pa.array([None if one is None else [one] for one in new.to_pylist()])])
        try:
            return pc.coalesce(new.cast(field.type), old)
        except pa.ArrowException as error:
            row = _first_misfit(new, field.type)
            where = "" if row is None else f", first at item {self.item_ids[row]!r}"
            raise DataError(
                f"column {field.name!r} does not fit the item table's, which is {field.type}{where}: "
                f"{first_line(error)}."
            ) from error

    def _warn_of_unknown(self, schema: pa.Schema) -> None:
        unknown = [] if self.table is None else [name for name in self.table.column_names if name not in schema.names]
        if unknown:
            warnings.warn(
                f"columns that the item table lacks, left out: {', '.join(map(repr, unknown))} "
                f"(it has {', '.join(schema.names)})",
                stacklevel=6,  # who called the recommender
            )

    def vectors(self, rows: pa.Table | None, encoder: ItemEncoder | None, template: str | None) -> np.ndarray:
        """Embeddings, float32 [m, d]: those given, or of the texts given, or of the texts of ``rows``.

        Args:
            rows: of the item table, see :meth:`rows_of`.
            encoder: of texts.
            template: the columns that make an item's text.

        Raises:
            DataError: an empty or an endless text, or no encoder.
        """
        if self.embeddings is not None:
            return self.embeddings
        texts = item_texts(rows, template) if self.texts is None else self.texts
        check_texts(self.item_ids, texts)
        if encoder is None:
            raise DataError("this recommender was saved without a text encoder, so it can't embed new items.")
        vectors = encode_items(encoder, texts)
        empty = [item for item, vector in zip(self.item_ids, vectors) if not vector.any()]
        if empty:
            warnings.warn(
                f"the encoder knows no word of the texts of {len(empty)} items, {empty[0]!r} for one: "
                "their semantic IDs mean nothing",
                stacklevel=5,  # who called the recommender
            )
        return vectors

    def texts_of(self, rows: pa.Table | None, template: str | None) -> list[str] | None:
        """The texts given, or those of ``rows`` of the item table, empty where a row has none; None: there are
        neither."""
        if self.texts is not None or rows is None:
            return self.texts
        return item_texts(rows, template, required=False)


def with_items(state: RecommenderState, batch: ItemBatch) -> tuple[RecommenderState, list[str]]:
    """Add the items that are new; known ones stay as they are. Also return the ids of the new ones.

    Raises:
        DataError: see :meth:`tiger.TigerRecommender.add_items`.
    """
    batch = batch.take(np.flatnonzero(state.tokenizer.rows(batch.item_ids, missing=-1) < 0))
    if not batch.item_ids:
        return state, []
    if "" in batch.item_ids:
        raise DataError("an item id is empty: every item needs one.")
    rows, vectors = _read(state, batch)
    tokenizer, ranker = copy.copy(state.tokenizer), copy.copy(state.ranker)
    tokenizer.add_items(batch.item_ids, vectors)
    items = None if state.items is None else _in_few_chunks(pa.concat_tables([state.items, rows]))
    memory = state.memory
    if memory is not None:
        memory = memory.extended(lenders(state, tokenizer, batch.texts_of(rows, state.template)))
    if ranker is not None:
        ranker.add_items(tokenizer, items, vectors)
    larger = replace(
        state,
        tokenizer=tokenizer,
        items=items,
        model=with_new_tokens(state.model, tokenizer).eval(),
        ranker=ranker,
        memory=memory,
        unseen=np.append(state.unseen, np.ones(len(batch.item_ids), dtype=bool)),
        trie=None if state.trie is None else state.trie.insert(tokenizer.token_table[len(state.tokenizer) :]),
    )
    return larger, batch.item_ids


def with_updated_items(state: RecommenderState, batch: ItemBatch) -> tuple[RecommenderState, list[str]]:
    """Update item texts; also return the ids whose semantic ID changed.

    Raises:
        DataError: see :meth:`tiger.TigerRecommender.update_items`.
    """
    at = known_rows(state, batch.item_ids)
    if not batch.item_ids:
        return state, []
    rows, vectors = _read(state, batch, at)
    tokenizer, ranker = copy.copy(state.tokenizer), copy.copy(state.ranker)
    changed = tokenizer.update_items(batch.item_ids, vectors, before=_previous_vectors(state, at))
    items = state.items
    if items is not None:
        order = np.arange(len(items))
        order[at] = len(items) + np.arange(len(at))
        items = pa.concat_tables([items, rows]).take(order)
    if ranker is not None:
        ranker.update_items(at, tokenizer, items, vectors)
    unseen = state.unseen.copy()
    unseen[at[changed]] = True
    updated = replace(
        state,
        tokenizer=tokenizer,
        items=items,
        model=with_new_tokens(state.model, tokenizer).eval(),
        ranker=ranker,
        unseen=unseen,
        trie=None if changed.any() else state.trie,
    )
    return updated, [item for item, other in zip(batch.item_ids, changed) if other]


def without_items(state: RecommenderState, item_ids: Sequence[str]) -> RecommenderState:
    """Remove items.

    Raises:
        DataError: an item is unknown, or none would be left.
    """
    if isinstance(item_ids, str):
        raise TypeError(_NO_LIST)
    item_ids = list(item_ids)
    gone = np.unique(known_rows(state, item_ids))
    if len(gone) == len(state.tokenizer):
        raise DataError("a catalog can't lose all its items.")
    tokenizer, ranker = copy.copy(state.tokenizer), copy.copy(state.ranker)
    kept = tokenizer.remove_items(item_ids)
    if ranker is not None:
        ranker.keep_items(kept)
    stays = np.ones(len(state.tokenizer), dtype=bool)
    stays[gone] = False
    return replace(
        state,
        tokenizer=tokenizer,
        items=None if state.items is None else _without_rows(state.items, gone),
        ranker=ranker,
        memory=None if state.memory is None else state.memory.keep(kept),
        unseen=state.unseen[kept],
        trie=None if state.trie is None else state.trie.keep(stays),
    )


def embed_items(state: RecommenderState, batch: ItemBatch) -> np.ndarray:
    """Vectors, float32 [m, d], that would be quantized; nothing is added."""
    return _read(state, batch)[1]


def known_rows(state: RecommenderState, item_ids: Sequence[str]) -> np.ndarray:
    """Rows of items of the catalog, int64 [m].

    Raises:
        DataError: an item is unknown.
    """
    rows = state.tokenizer.rows(item_ids, missing=-1)
    if (rows < 0).any():
        names = [repr(item) for item, row in zip(item_ids, rows) if row < 0]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise DataError(f"items that the catalog lacks: {', '.join(names[:5])}{more}.")
    return rows


def _read(
    state: RecommenderState, batch: ItemBatch, at: np.ndarray | None = None
) -> tuple[pa.Table | None, np.ndarray]:
    """A batch as rows of the item table, see :meth:`ItemBatch.rows_of`, and as vectors."""
    rows = batch.rows_of(state.items, at)
    return rows, batch.vectors(rows, state.encoder, state.template)


def _without_rows(items: pa.Table, gone: np.ndarray) -> pa.Table:
    """A table without a few rows, int [m], ascending: slices of it, which copy nothing."""
    if len(gone) > _MAX_CHUNKS:
        return items.take(np.delete(np.arange(len(items)), gone))
    edges = zip([0, *(gone + 1).tolist()], [*gone.tolist(), len(items)])
    return _in_few_chunks(pa.concat_tables([items.slice(start, stop - start) for start, stop in edges]))


def _in_few_chunks(items: pa.Table) -> pa.Table:
    """The same table, laid out anew where many changes have left many pieces: each makes every look-up slower."""
    return items.combine_chunks() if max(column.num_chunks for column in items.columns) > _MAX_CHUNKS else items


def _first_misfit(column: pa.ChunkedArray, kind: pa.DataType) -> int | None:
    """The first row that can't be cast; None: each can."""
    for row in range(len(column)):
        try:
            column.slice(row, 1).cast(kind)
        except pa.ArrowException:
            return row
    return None


def _previous_vectors(state: RecommenderState, rows: np.ndarray) -> np.ndarray | None:
    """Encode the present texts of these rows: float32 [m, d], NaN for items without text.

    None where codes come from texts alone, so that they needn't be known, or where there is no table or encoder.
    """
    if state.tokenizer.learned_split is None or state.items is None or state.encoder is None:
        return None
    texts = item_texts(state.items.take(rows), state.template, required=False)
    has_text = np.array([bool(text) for text in texts])
    vectors = encode_items(state.encoder, [text or "-" for text in texts])
    vectors[~has_text] = np.nan
    return vectors


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
