"""A made catalog of any size: items with words, a log, semantic IDs and a T5, all drawn from a seed.

Words and popularity follow Zipf's law. Users buy near each other's items, so that the log has pairs that recur.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa

from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.embeddings.item_text import item_texts
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.config import t5_config
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.catalog_size import CatalogSize

WORDS = 30_000
EVENTS = 10  # per item, and per user


class MadeCatalog:
    """Items, a log and what is made of them, each drawn when it is first read.

    Args:
        size: number of items.
        seed: of all draws.
    """

    def __init__(self, size: int, seed: int = 0):
        self.size, self.seed = size, seed

    def _random(self, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, part])

    @cached_property
    def item_ids(self) -> list[str]:
        return [f"item-{row}" for row in range(self.size)]

    @cached_property
    def items(self) -> pa.Table:
        random = self._random(0)
        words = np.array([f"w{index}" for index in range(WORDS)])
        titles = [
            " ".join(row)
            for start in range(0, self.size, 50_000)
            for row in words[np.minimum(random.zipf(1.3, (min(50_000, self.size - start), 8)) - 1, WORDS - 1)].tolist()
        ]
        brands = np.char.add("brand ", np.minimum(random.zipf(1.5, self.size), 999).astype(str))
        groups = random.integers(0, 40, (2, self.size))
        categories = [f"group {one} > part {two}" for one, two in groups.T.tolist()]
        columns = {"item_id": self.item_ids, "title": titles, "brand": brands, "categories": categories}
        return pa.table(columns | {"price": random.lognormal(2, 1, self.size).astype(np.float32)})

    @cached_property
    def texts(self) -> list[str]:
        return item_texts(self.items)

    @cached_property
    def train(self) -> Sequences:
        random, events = self._random(1), EVENTS * self.size
        center = np.repeat(random.integers(0, self.size, self.size), EVENTS)
        step = np.minimum(random.zipf(1.4, events), self.size) * random.choice([-1, 1], events)
        popular = np.minimum(random.zipf(1.2, events), self.size) - 1
        rows = np.where(random.random(events) < 0.1, popular, (center + step) % self.size).astype(np.int32)
        days = np.sort(random.integers(0, 1000, (self.size, EVENTS)), axis=1).ravel()
        return Sequences(EVENTS * np.arange(self.size + 1), rows, (15_000 + days) * SECONDS_PER_DAY)

    @cached_property
    def codes(self) -> np.ndarray:
        """int32 [size, levels]: on each level some codes are several times as frequent as others."""
        sizes, random = CatalogSize.of(self.size), self._random(2)
        drawn = random.random((self.size, sizes.num_codebooks)) ** 1.3
        return (sizes.codebook_size * drawn).astype(np.int32)

    def tokenizer(self, tokens: str) -> SemanticIdTokenizer:
        return SemanticIdTokenizer(self.codes, self.item_ids, CatalogSize.of(self.size).codebook_size, tokens=tokens)

    def recommender(self, tokens: str) -> TigerRecommender:
        """With a T5 of the default recipe's sizes, its weights random."""
        tokenizer = self.tokenizer(tokens)
        sizes = {"d_model": 256, "num_layers": 2, "d_ff": 512, "dropout_rate": 0.15}
        return TigerRecommender(TigerT5(t5_config(tokenizer, **sizes)), tokenizer, None, self.items)
