"""What changes when the catalogue does: a change makes a new catalogue, and the old one stays as it is.

What a caller gives for it are ids, and texts, rows of a table or vectors for them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import T5ForConditionalGeneration

from tiger.data.readers import item_table
from tiger.embeddings.item_text import check_texts, item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.rankers.click.ranker import CatalogueRanker
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.retriever.initialization import grow_vocabulary
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer, check_ids
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError


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


@dataclass(frozen=True)
class Catalogue:
    """Items with their semantic IDs, and the parts of a recommender that count them.

    Args:
        tokenizer: items and their semantic IDs.
        encoder: of the texts of new items.
        template: how a row of the item table becomes a text, see :func:`tiger.embeddings.item_texts`.
        items: the item table, in the tokenizer's order.
        model: its vocabulary has a place for every token.
        ranker: what it knows of an item lies in the tokenizer's order.
        unseen: bool [n], whose semantic ID training never saw.
        trie: of the tokenizer's tokens; None where it is still to be built.
    """

    tokenizer: SemanticIdTokenizer
    encoder: SentenceEncoder | LSAEncoder | None
    template: str | None
    items: pa.Table | None
    model: T5ForConditionalGeneration
    ranker: CatalogueRanker | TwoStageRanker | None
    unseen: np.ndarray
    trie: SemanticIdTrie | None

    def with_items(self, given: GivenItems) -> tuple[Catalogue, list[str]]:
        """Those given that are new come to the others, which stay as they are; and the ids of the new ones.

        Raises:
            DataError: see :meth:`tiger.TigerRecommender.add_items`.
        """
        given = given.take(np.flatnonzero(self.tokenizer.rows(given.item_ids, missing=-1) < 0))
        if not given.item_ids:
            return self, []
        if "" in given.item_ids:
            raise DataError("an item id is empty: every item needs one.")
        rows, vectors = self._read(given)
        tokenizer, ranker = copy.copy(self.tokenizer), copy.copy(self.ranker)
        tokenizer.add_items(given.item_ids, vectors)
        items = None if self.items is None else pa.concat_tables([self.items, rows])
        if ranker is not None:
            ranker.add_items(tokenizer, items, vectors)
        larger = replace(
            self,
            tokenizer=tokenizer,
            items=items,
            model=self._model_for(tokenizer),
            ranker=ranker,
            unseen=np.append(self.unseen, np.ones(len(given.item_ids), dtype=bool)),
            trie=None if self.trie is None else self.trie.insert(tokenizer.token_table[len(self.tokenizer) :]),
        )
        return larger, given.item_ids

    def with_news(self, given: GivenItems) -> tuple[Catalogue, list[str]]:
        """Known items get other texts; and the ids of those whose semantic ID is another one now.

        Raises:
            DataError: see :meth:`tiger.TigerRecommender.update_items`.
        """
        at = self.rows(given.item_ids)
        if not given.item_ids:
            return self, []
        rows, vectors = self._read(given, at)
        tokenizer, ranker = copy.copy(self.tokenizer), copy.copy(self.ranker)
        changed = tokenizer.update_items(given.item_ids, vectors, before=self._vectors_of(at))
        items = self.items
        if items is not None:
            order = np.arange(len(items))
            order[at] = len(items) + np.arange(len(at))
            items = pa.concat_tables([items, rows]).take(order)
        if ranker is not None:
            ranker.update_items(at, tokenizer, items, vectors)
        unseen = self.unseen.copy()
        unseen[at[changed]] = True
        newer = replace(
            self,
            tokenizer=tokenizer,
            items=items,
            model=self._model_for(tokenizer),
            ranker=ranker,
            unseen=unseen,
            trie=None if changed.any() else self.trie,
        )
        return newer, [item for item, other in zip(given.item_ids, changed) if other]

    def without_items(self, item_ids: Sequence[str]) -> Catalogue:
        """
        Raises:
            DataError: an item is unknown, or none would be left.
        """
        if len(np.unique(self.rows(item_ids))) == len(self.tokenizer):
            raise DataError("a catalogue can't lose all its items.")
        tokenizer, ranker = copy.copy(self.tokenizer), copy.copy(self.ranker)
        stay = tokenizer.remove_items(item_ids)
        if ranker is not None:
            ranker.keep_items(stay)
        items = None if self.items is None else self.items.take(stay)
        return replace(self, tokenizer=tokenizer, items=items, ranker=ranker, unseen=self.unseen[stay], trie=None)

    def embedded(self, given: GivenItems) -> np.ndarray:
        """The vectors, float32 [m, d], that would be quantised."""
        return self._read(given)[1]

    def rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """Where items stand, int64 [m].

        Raises:
            DataError: one is unknown.
        """
        rows = self.tokenizer.rows(item_ids, missing=-1)
        if (rows < 0).any():
            names = [repr(item) for item, row in zip(item_ids, rows) if row < 0]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise DataError(f"items that the catalogue lacks: {', '.join(names[:5])}{more}.")
        return rows

    def _read(self, given: GivenItems, at: np.ndarray | None = None) -> tuple[pa.Table | None, np.ndarray]:
        """What is given as rows of the item table, see :meth:`GivenItems.rows_of`, and as vectors."""
        rows = given.rows_of(self.items, at)
        return rows, given.vectors(rows, self.encoder, self.template)

    def _vectors_of(self, rows: np.ndarray) -> np.ndarray | None:
        """What the encoder makes of these rows' texts as they are, NaN where the table has none; None where codes come
        from texts alone, or nothing can be said."""
        if self.tokenizer.learned_split is None or self.items is None or self.encoder is None:
            return None
        texts = item_texts(self.items.take(rows), self.template, required=False)
        told = np.array([bool(text) for text in texts])
        vectors = self.encoder.encode([text or "-" for text in texts])
        vectors[~told] = np.nan
        return vectors

    def _model_for(self, tokenizer: SemanticIdTokenizer) -> T5ForConditionalGeneration:
        """The model, or where the catalogue outgrew its vocabulary a copy with room for all tokens."""
        if tokenizer.vocab_size <= self.model.config.vocab_size:
            return self.model
        model = copy.deepcopy(self.model)
        grow_vocabulary(model, tokenizer)
        return model.eval()
