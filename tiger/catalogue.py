"""What changes when the catalogue does: a change makes a new catalogue, and the old one stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from transformers import T5ForConditionalGeneration

from tiger.catalogue_ranker import CatalogueRanker
from tiger.data import DataError
from tiger.embeddings import LSAEncoder, SentenceEncoder, item_texts
from tiger.given_items import GivenItems
from tiger.token_starts import grow_vocabulary
from tiger.tokenizer import SemanticIdTokenizer
from tiger.trie import SemanticIdTrie
from tiger.two_stage import TwoStageRanker


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
