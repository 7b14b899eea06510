"""The state of a recommender: all its parts in one frozen dataclass; a change of the catalog makes a new one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from transformers import T5ForConditionalGeneration

from tiger.data.columns import plain_table
from tiger.embeddings.base import ItemEncoder
from tiger.rankers.base import Ranker
from tiger.recommender.filters import CatalogFilters
from tiger.retriever.config import check_pair
from tiger.retriever.layer_weights import MERGE
from tiger.retriever.memory import ItemMemory
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError


@dataclass(frozen=True)
class RecommenderState:
    """The parts of a recommender. Checkpoints, model cards, the Hub and catalog updates read one.

    Args:
        model: a T5 over the tokenizer's tokens.
        tokenizer: items and their semantic IDs.
        encoder: embeds the texts of new items; None: new items come with their vectors.
        items: the item table in the tokenizer's order, with ``item_id``; None: there is none.
        ranker: orders the T5's candidates; None: the T5's own order.
        unseen: bool [n], items whose semantic ID training never saw: added, or with a new ID, since; default: none.
        trie: of the tokenizer's tokens; None: built when it is first needed, see :meth:`trie_on`.
        max_history: items of a history that the model reads.
        training: what is known of the training, any JSON object.
        memory: what followed each item in the log, mixed with the T5's probabilities; None: the T5 alone.
        filters: filters with names, and what filters are compiled to. They are not saved: what may be shown, such as
            what is in stock, changes by the hour, and the program that knows it says it again.
    """

    model: T5ForConditionalGeneration
    tokenizer: SemanticIdTokenizer
    encoder: ItemEncoder | None = None
    items: pa.Table | None = None
    ranker: Ranker | None = None
    unseen: np.ndarray = None  # type: ignore[assignment]  # filled in below, by the number of items
    trie: SemanticIdTrie | None = None
    max_history: int = 20
    training: dict = field(default_factory=dict)
    memory: ItemMemory | None = None
    filters: CatalogFilters = field(default=None, repr=False, compare=False)  # type: ignore[assignment]  # as unseen

    def __post_init__(self) -> None:
        if self.items is not None:
            object.__setattr__(self, "items", plain_table(self.items, "the item table"))
        if self.unseen is None:
            object.__setattr__(self, "unseen", np.zeros(len(self.tokenizer), dtype=bool))
        catalog = self.tokenizer, self.items, self.unseen
        filters = CatalogFilters(*catalog) if self.filters is None else self.filters.of_catalog(*catalog)
        object.__setattr__(self, "filters", filters)

    def check(self) -> None:
        """Raise an error for parts that don't belong together.

        Raises:
            ValueError: other semantic IDs, or other items.
        """
        if self.max_history < 1:
            raise DataError(f"max_history must be at least 1, got {self.max_history}.")
        if not isinstance(self.model, T5ForConditionalGeneration):
            raise DataError(f"the model is a {type(self.model).__name__}, no T5. {MERGE}")
        check_pair(self.model, self.tokenizer)
        count = len(self.tokenizer)
        if self.ranker is not None:
            made_for = self.ranker.fingerprint
            if made_for and made_for != self.tokenizer.fingerprint:
                raise ValueError(
                    f"this ranker was made for semantic IDs {made_for}, not {self.tokenizer.fingerprint}: "
                    "use the tokenizer that it was made with"
                )
            if len(self.ranker) != count:
                raise ValueError(f"this ranker knows {len(self.ranker)} items, the tokenizer {count}")
        if self.items is not None and self.tokenizer.item_ids != self.items["item_id"]:
            raise ValueError("the item table must hold the tokenizer's items in the tokenizer's order")
        for name, part in (("the trie", self.trie), ("unseen", self.unseen), ("the memory", self.memory)):
            if part is not None and len(part) != count:
                raise ValueError(f"{name} is over {len(part)} items, the tokenizer over {count}")

    @property
    def template(self) -> str | None:
        """The columns that make an item's text, see :func:`tiger.embeddings.item_texts`."""
        return self.training.get("template")

    def trie_on(self, device: str | torch.device) -> SemanticIdTrie:
        """The trie on a device. It follows from the tokenizer, so it is kept here once it is built or moved."""
        trie = SemanticIdTrie.build(self.tokenizer.token_table) if self.trie is None else self.trie
        trie = trie.to(device)
        object.__setattr__(self, "trie", trie)
        return trie
