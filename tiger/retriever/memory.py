"""Memory of a retriever: what followed each item in the log, as a score of every item of the catalog.

A nearest-neighbor language model (Khandelwal et al., arXiv 1911.00172) adds what it has stored to what it has learned.
Here the store is sparse tables of pairs of items. A history reaches an item by six *routes*:

* ``follows``: it came after an item of the history in other users' histories;
* ``together``: users who had an item of the history had it too;
* ``similar``: its text is like that of an item of the history;
* ``follows similar``: it came after an item that is like one of the history;
* ``similar to follower``: it is like an item that came after one of the history;
* ``again``: it is an item of the history itself, where answers may hold these.

``similar`` and the two after it reach items without any events. Each route has a weight per age of the history's item,
found by :mod:`tiger.retriever.memory_fitting`. The tables are small next to the T5, so the checkpoint stays a plain
one with a table beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from tiger.data.cooccurrence import COUNT_FLOOR, floored_totals, follower_counts, shared_counts
from tiger.data.sequences import Sequences
from tiger.embeddings.item_neighbors import ItemTexts, nearest_items, truncated
from tiger.utils.errors import DataError

ROUTES = ("follows", "together", "similar", "follows similar", "similar to follower", "again")
AGAIN = ROUTES.index("again")
# Chosen on the validation items of Beauty, Toys and Sports together: NDCG@10 is flat from half to twice of either.
T5_WEIGHT, T5_FLOOR = 0.15, 0.003
NEAREST = 20  # neighbors by which a route goes that takes two steps: more cost time; not tuned
_SCORES_AT_ONCE = 1 << 22  # of a route, 16 MiB
AGES = 20  # items of a history that are read, newest first


@dataclass(frozen=True)
class MemoryTables:
    """Pairs of items.

    Args:
        followers: float32 [items, items], how often one came after the other, weighted 1 / steps, up to three.
        shared: float32 [items, items], users of both over the root of both items' totals, which count as 5 or more.
        neighbors: float32 [items, items], similarity of texts, symmetric; see :func:`similar_items`.
        totals: float32 [items], events in the log, at least 5: lower ones reveal what was held out.
    """

    followers: sparse.csr_matrix
    shared: sparse.csr_matrix
    neighbors: sparse.csr_matrix
    totals: np.ndarray

    @classmethod
    def fit(
        cls, train: Sequences, texts: ItemTexts, groups: np.ndarray | None = None, width: int | None = 200
    ) -> MemoryTables:
        """Count the training log and compare the texts.

        Args:
            texts: of all items.
            groups: int [items], see :func:`tiger.embeddings.item_neighbors.nearest_items`.
            width: entries that are kept for an item in either table of the log; None: all.
        """
        return cls.counted(train, similar_items(texts, groups), width)

    @classmethod
    def counted(cls, log: Sequences, neighbors: sparse.csr_matrix, width: int | None = 200) -> MemoryTables:
        """Count a log, beside what is known of the texts already."""
        size = neighbors.shape[0]
        totals = floored_totals(log, size)
        most, root = size if width is None else width, (1 / np.sqrt(totals)).astype(np.float32)
        parts = [
            truncated((sparse.diags(root[rows]) @ counts @ sparse.diags(root)).tocsr(), most)
            for rows, counts in shared_counts(log, size)
        ]
        shared = sparse.vstack(parts, format="csr", dtype=np.float32)
        followers = truncated(follower_counts(log, size), most)
        return cls(followers.astype(np.float32), shared, neighbors, totals)

    def __len__(self) -> int:
        return len(self.totals)

    @cached_property
    def near(self) -> sparse.csr_matrix:
        """The nearest of ``neighbors``, squared, so that the nearest count most; each row divided by its sum."""
        nearest = truncated(self.neighbors, NEAREST)
        return row_shares(nearest.power(2))

    @cached_property
    def near_to(self) -> sparse.csr_matrix:
        """:attr:`near`, transposed: of each item, the items that it is near to."""
        return self.near.T.tocsr()


def similar_items(texts: ItemTexts, groups: np.ndarray | None = None, count: int = 50) -> sparse.csr_matrix:
    """Similarities of each item and its ``count`` nearest, symmetric: half where only one is the other's neighbor."""
    found = nearest_items(texts, count, groups)
    return ((found + found.T) / 2).tocsr().astype(np.float32)


@dataclass(frozen=True)
class MemoryWeights:
    """Weights of a memory's parts.

    Args:
        kernels: float32 [routes, ages], the weight of a route from the history's item of an age, newest first.
        floor: what each item has without any history.
        popularity: how much more of it popular items have, see :meth:`ItemMemory.prior`.
        t5_weight: how much the T5's log-probability counts beside the memory's.
        t5_floor: what an item's probability under the T5 is raised by where the item has 5 events or fewer; where it
            has n, by (5 / n)^2 of that. The T5 gives next to nothing to items that it has hardly seen: so what it
            can't know isn't held against them.
    """

    kernels: np.ndarray
    floor: float = 0.1
    popularity: float = 1.0
    t5_weight: float = T5_WEIGHT
    t5_floor: float = T5_FLOOR


@dataclass(frozen=True)
class ItemMemory:
    """Score every item after a history: a mass above 0.

    Items that the tables don't know borrow from others: one has the mean of its nearest items' masses, and counts in a
    history as they do. So a change of the catalog leaves the tables as they are.

    Args:
        tables: pairs of items that were there when it was fitted.
        weights: of the routes between them.
        slots: int32 [items], of each item of the catalog: its row in the tables, or the number of rows and its row in
            ``borrowed``; None: the tables' items.
        borrowed: float32 [new, rows of the tables], shares of other items, each row's sum being 1 or, where none is
            known to be near, 0.
    """

    tables: MemoryTables
    weights: MemoryWeights
    slots: np.ndarray = None  # type: ignore[assignment]  # filled in below, by the number of items
    borrowed: sparse.csr_matrix = None  # as slots

    def __post_init__(self) -> None:
        if self.slots is None:
            object.__setattr__(self, "slots", np.arange(len(self.tables), dtype=np.int32))
        if self.borrowed is None:
            object.__setattr__(self, "borrowed", sparse.csr_matrix((0, len(self.tables)), dtype=np.float32))
        self._drop_unused()

    def _drop_unused(self) -> None:
        """Drop rows of ``borrowed`` whose items are gone, also those in files that earlier versions wrote."""
        known, new = len(self.tables), self.borrowed.shape[0]
        used = np.zeros(new, dtype=bool)
        used[self.slots[self.slots >= known] - known] = True
        if used.all():
            return
        places = np.arange(known + new, dtype=np.int32)
        places[known:] = known + np.cumsum(used) - 1
        object.__setattr__(self, "slots", places[self.slots])
        object.__setattr__(self, "borrowed", self.borrowed[np.flatnonzero(used)])

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def size(self) -> int:
        """Number of pairs of items that are stored."""
        tables = self.tables
        return tables.followers.nnz + tables.shared.nnz + tables.neighbors.nnz

    @cached_property
    def totals(self) -> np.ndarray:
        """float32 [items]: events of each, at least 5."""
        new = np.full(self.borrowed.shape[0], COUNT_FLOOR, dtype=np.float32)
        return np.append(self.tables.totals, new)[self.slots]

    @cached_property
    def prior(self) -> np.ndarray:
        """float32 [items]: the mass of an item after no history, ``floor * (1 + popularity * log(1 + share))``, its
        share of the events being relative to the mean."""
        share = self.totals / self.tables.totals.mean()
        return (self.weights.floor * (1 + self.weights.popularity * np.log1p(share))).astype(np.float32)

    @cached_property
    def t5_floors(self) -> np.ndarray:
        """float32 [items]: what the probability of each under the T5 is raised by."""
        return (self.weights.t5_floor * (COUNT_FLOOR / self.totals) ** 2).astype(np.float32)

    def mass(self, histories: Sequences) -> np.ndarray:
        """Mass of every item after each of n histories of rows: float32 [n, items]."""
        tables = self.tables
        follows, together, similar, of_similar, to_follower = self._reads(histories)
        total = (follows + of_similar @ tables.near) @ tables.followers
        total = total + together @ tables.shared + similar @ tables.neighbors
        total = total + (to_follower @ tables.followers) @ tables.near_to
        mass = self._with_borrowed(total)
        if not self._is_as_fitted:
            mass = mass[:, self.slots]
        mass += self.prior
        if self.weights.kernels[AGAIN].any():
            again = self._again(histories)
            mass[again.row, again.col] += again.data
        return mass

    def mass_of(self, histories: Sequences, rows: np.ndarray) -> np.ndarray:
        """The mass of given items by each route alone, float32 [n, C, routes]; without :attr:`prior`.

        Args:
            histories: n sequences of rows.
            rows: int [n, C], rows of the catalog; -1: none, which has 0.
        """
        slots = np.where(rows < 0, 0, self.slots[rows])
        found = np.zeros((*rows.shape, len(ROUTES)), dtype=np.float32)
        size = _SCORES_AT_ONCE // (len(self.tables) + self.borrowed.shape[0])
        for users, part in histories.in_parts(size):
            for place, table in enumerate(self._routes(part)):
                found[users, :, place] = np.take_along_axis(self._with_borrowed(table), slots[users], axis=1)
            if self.weights.kernels[AGAIN].any():
                again = self._again(part).toarray()
                found[users, :, AGAIN] = np.take_along_axis(again, np.maximum(rows[users], 0), axis=1)
        found[rows < 0] = 0
        return found

    def parts(self, histories: Sequences, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The parts of scores of a search with this memory, float32 [n, C, routes + 2].

        Args:
            histories: n sequences of rows.
            rows, scores: [n, C], answers of the search; -1: none, which has zeros.

        Returns:
            The mass by each route, the prior, and the logarithm of the T5's probability, raised by its floor; zeros
            where the T5 has no weight.
        """
        masses, prior = self.mass_of(histories, rows), self.prior[np.maximum(rows, 0)]
        weight = self.weights.t5_weight
        rest = np.where(rows < 0, 0, scores) - np.log(masses.sum(axis=-1) + prior)
        t5 = rest / weight if weight else np.zeros_like(rest)
        found = np.concatenate([masses, prior[..., None], t5[..., None]], axis=-1)
        return np.where(rows[..., None] < 0, 0, found).astype(np.float32)

    def mixed(self, histories: Sequences, rows: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        """Scores of given items, as a search with this memory gives them: float32 [n, C].

        Args:
            histories: n sequences of rows.
            rows: int [n, C], rows of the catalog.
            log_probs: float [n, C], of the items under the T5.
        """
        mass = self.mass_of(histories, rows).sum(axis=-1) + self.prior[rows]
        t5 = np.log(np.exp(log_probs) + self.t5_floors[rows])
        return (np.log(mass) + self.weights.t5_weight * t5).astype(np.float32)

    def _with_borrowed(self, mass: sparse.csr_matrix) -> np.ndarray:
        """Mass [n, rows of the tables] and, behind it, what new items borrow of it: float32 [n, slots]."""
        found = mass.toarray()
        if not self.borrowed.shape[0]:
            return found
        return np.concatenate([found, (mass @ self.borrowed.T).toarray()], axis=1)

    def _again(self, histories: Sequences) -> sparse.coo_matrix:
        """The mass of a history's own items by the route ``again``: float32 [n, items of the catalog]."""
        recent = histories.keep_last(AGES)
        values = self.weights.kernels[AGAIN][recent.ages]
        found = sparse.csr_matrix((values, recent.items, recent.offsets), shape=(len(recent), len(self)))
        found.sum_duplicates()
        return found.tocoo()

    def _routes(self, histories: Sequences) -> Iterator[sparse.csr_matrix]:
        """The masses by each route but ``again``, of the tables' items: float32 [n, rows of the tables]."""
        tables = self.tables
        follows, together, similar, of_similar, to_follower = self._reads(histories)
        yield follows @ tables.followers
        yield together @ tables.shared
        yield similar @ tables.neighbors
        yield (of_similar @ tables.near) @ tables.followers
        yield (to_follower @ tables.followers) @ tables.near_to

    @cached_property
    def _is_as_fitted(self) -> bool:
        return np.array_equal(self.slots, np.arange(len(self.tables)))

    def _reads(self, histories: Sequences) -> list[sparse.csr_matrix]:
        """Weights of the tables' items in each history, float32 [n, rows of the tables], by route but ``again``."""
        recent = histories.keep_last(AGES)
        slots, ages = self.slots[recent.items], recent.ages
        known, new = len(self.tables), self.borrowed.shape[0]
        reads = []
        for kernel in self.weights.kernels[:AGAIN]:
            read = sparse.csr_matrix((kernel[ages], slots, recent.offsets), shape=(len(recent), known + new))
            reads.append(read[:, :known] + read[:, known:] @ self.borrowed if new else read)
        return reads

    def extended(self, borrowed: sparse.csr_matrix) -> ItemMemory:
        """With new items at the catalog's end.

        Args:
            borrowed: float32 [new, items], shares of the catalog's items so far; from those that are new themselves,
                nothing is borrowed.
        """
        count, known, new = borrowed.shape[0], len(self.tables), self.borrowed.shape[0]
        entries = borrowed.tocoo()
        slot = self.slots[entries.col]
        kept = slot < known
        cells = entries.data[kept], (entries.row[kept], slot[kept])
        rows = row_shares(sparse.csr_matrix(cells, shape=(count, known), dtype=np.float32))
        slots = np.append(self.slots, np.arange(known + new, known + new + count, dtype=np.int32))
        return replace(self, slots=slots, borrowed=sparse.vstack([self.borrowed, rows]).tocsr())

    def recounted(self, log: Sequences) -> ItemMemory:
        """With counts of another log over the same items, and the weights as they are.

        Raises:
            DataError: items were added or removed since it was fitted.
        """
        if not self._is_as_fitted or self.borrowed.shape[0]:
            raise DataError(
                "items were added or removed since the memory was fitted, so that it can't be counted anew: train the "
                "recommender on the catalog as it is now."
            )
        return ItemMemory(MemoryTables.counted(log, self.tables.neighbors), self.weights)

    def keep(self, rows: np.ndarray) -> ItemMemory:
        """Of these rows of the catalog alone, in this order."""
        return replace(self, slots=self.slots[rows])


def row_shares(table: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide each row by its sum."""
    sums = np.asarray(table.sum(axis=1)).ravel()
    return (sparse.diags(1 / np.where(sums > 0, sums, 1)).astype(np.float32) @ table).tocsr()
