"""Co-occurrence counts: which item follows which in users' histories, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import sparse

from tiger.data.sequences import SECONDS_PER_DAY, Sequences

# Totals below it are not distinguished: they would reveal held-out events, see tiger.evaluation.baselines.
COUNT_FLOOR = 5
NEAR = 3  # steps within which an item counts as a follower, with weight 1 / steps; not tuned
# A user with more items is left out where all pairs of a user's items count: they would be 25 million pairs and more.
MOST_TOGETHER = 5000
_PAIRS_AT_ONCE = 1 << 23  # pairs that are sorted at a time: some 500 MB


def floored_totals(train: Sequences, num_items: int) -> np.ndarray:
    """Events of each item in the log, those below :data:`COUNT_FLOOR` being alike: float32 [num_items]."""
    return np.maximum(np.bincount(train.items, minlength=num_items), COUNT_FLOOR).astype(np.float32)


def pairs_by_gap(train: Sequences, max_gap: int) -> Iterator[tuple[int, np.ndarray]]:
    """For each gap from 1 to ``max_gap``, the events that have one of the same user so many places later: int64 [m],
    places in ``train.items``. Ends with the first gap that no pair of events has."""
    users = train.users
    for gap in range(1, max_gap + 1):
        earlier = np.flatnonzero(users[gap:] == users[:-gap])
        if not len(earlier):
            return
        yield gap, earlier


def follower_counts(train: Sequences, num_items: int, max_gap: int = NEAR) -> sparse.csr_matrix:
    """Count how often item j came after item i, each time weighted 1 / gap: float32 [num_items, num_items]."""
    counts = sparse.csr_matrix((num_items, num_items), dtype=np.float32)
    for gap, earlier in pairs_by_gap(train, max_gap):
        weights = np.full(len(earlier), 1 / gap, dtype=np.float32)
        pairs = train.items[earlier], train.items[earlier + gap]
        counts = counts + sparse.csr_matrix((weights, pairs), shape=counts.shape)
    return counts


def shared_counts(train: Sequences, num_items: int) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Count the users who had both items, in either order: rows of a matrix [num_items, num_items] that is 0 on the
    diagonal, a part of the items after the other, as a slice of these and float32 [items of the part, num_items].

    Where users have many items the whole would be far larger than what is kept of it. Users with more than
    :data:`MOST_TOGETHER` items, robots for the most part, are left out.
    """
    cells = np.ones(len(train.items), dtype=np.float32), (train.users, train.items)
    had = sparse.csr_matrix(cells, shape=(len(train), num_items))
    had.sum_duplicates()
    had.data[:] = 1
    had = had[np.flatnonzero(np.diff(had.indptr) <= MOST_TOGETHER)]
    of_items = had.T.tocsr()
    pairs = np.cumsum(of_items @ np.diff(had.indptr))
    cuts = np.searchsorted(pairs, np.arange(_PAIRS_AT_ONCE, pairs[-1] if num_items else 0, _PAIRS_AT_ONCE)) + 1
    for start, stop in pairwise(np.unique([0, *cuts, num_items])):
        counts = (of_items[start:stop] @ had).tocoo()
        apart = counts.row + start != counts.col
        cells = counts.data[apart], (counts.row[apart], counts.col[apart])
        yield slice(start, stop), sparse.csr_matrix(cells, shape=counts.shape)


class PairTable:
    """Features of pairs of items (or of groups of items), found by a pair's key.

    Args:
        keys: int64 [m], ``first * size + second``, ascending.
        values: float32 [m, F].
        size: number of items. Those from it on, which came later, have no pairs.

    Attributes:
        facts: names of the columns of ``values``, by default :attr:`FACTS`.
        padded: float32 [m + 1, F], ``values`` and a row of zeros.
    """

    FACTS = ("next", "soon", "before", "together", "same day")

    def __init__(self, keys: np.ndarray, values: np.ndarray, size: int, facts: tuple[str, ...] = FACTS):
        self._set(keys, np.concatenate([values, np.zeros((1, len(facts)), dtype=np.float32)]), size, facts)

    def _set(self, keys: np.ndarray, padded: np.ndarray, size: int, facts: tuple[str, ...]) -> None:
        self.keys, self.size, self.facts = keys, size, facts
        self.padded, self.values = padded, padded[:-1]

    @classmethod
    def _of_parts(
        cls, keys: list[np.ndarray], values: list[np.ndarray], size: int, facts: tuple[str, ...] = FACTS
    ) -> PairTable:
        """A table of parts whose keys ascend from one to the next; both lists are emptied, so that little is held
        twice."""
        table = object.__new__(cls)
        joined = np.concatenate(keys)
        keys.clear()
        padded = np.zeros((len(joined) + 1, len(facts)), dtype=np.float32)
        start = 0
        while values:
            part = values.pop(0)
            padded[start : start + len(part)] = part
            start += len(part)
        table._set(joined, padded, size, facts)
        return table

    @classmethod
    def fit(cls, train: Sequences, size: int, max_gap: int = 20) -> PairTable:
        """Count pairs of one user's events up to ``max_gap`` apart.

        Facts of (i, j): how often j was next after i; within three, weighted 1 / gap; the same backwards; how often
        both occurred in either order; how often on one day.
        """
        count = 2 * sum(len(earlier) for _, earlier in pairs_by_gap(train, max_gap))
        ends = _shares(train.items, size, -(-count // _PAIRS_AT_ONCE))
        keys, values = [], []
        for start, stop in zip(ends[:-1], ends[1:]):
            own, facts = cls._counted(train, size, max_gap, start, stop)
            keys.append(own)
            values.append(facts)
        return cls._of_parts(keys, values, size)

    @classmethod
    def _counted(
        cls, train: Sequences, size: int, max_gap: int, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of the pairs whose first item is from ``start`` to ``stop`` - 1."""
        items, days = train.items, train.timestamps // SECONDS_PER_DAY
        keys = np.empty(0, dtype=np.int64)
        values = np.empty((0, len(cls.FACTS)), dtype=np.float32)
        wanted = (items >= start) & (items < stop)
        for gap, earlier in pairs_by_gap(train, max_gap):
            near = 1 / gap if gap <= NEAR else 0.0
            sides = []
            for onward in (True, False):
                at = earlier[wanted[earlier if onward else earlier + gap]]
                first, second = (at, at + gap) if onward else (at + gap, at)
                facts = np.zeros((len(at), len(cls.FACTS)), dtype=np.float32)
                facts[:, 0] = onward and gap == 1
                facts[:, 1 if onward else 2] = near
                facts[:, 3] = 1
                facts[:, 4] = days[at] == days[at + gap]
                sides.append((items[first].astype(np.int64) * size + items[second], facts))
            keys = np.concatenate([keys, *(side[0] for side in sides)])
            values = np.concatenate([values, *(side[1] for side in sides)])
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            if len(keys):
                keys, values = keys[starts], np.add.reduceat(values[order], starts)
        return keys, values

    def find(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """int64 of the broadcast shape: where a pair's values are, or ``len(values)``, where :attr:`padded` has 0."""
        wanted = first.astype(np.int64) * self.size + second
        if not len(self.keys):
            return np.zeros(wanted.shape, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        known = (self.keys[at] == wanted) & (first < self.size) & (second < self.size)
        return np.where(known, at, len(self.keys))

    def only(self, fact: str) -> PairTable:
        """One of the facts alone, of the pairs that have it."""
        values = self.values[:, self.facts.index(fact)]
        some = np.flatnonzero(values)
        return PairTable(self.keys[some], values[some, None], self.size, (fact,))

    def grouped(self, groups: np.ndarray) -> PairTable:
        """The same features of groups of items: int [items], the group of each."""
        size = int(groups.max(initial=-1)) + 1
        source = groups[self.keys // self.size]
        ends = _shares(source, size, -(-len(source) // _PAIRS_AT_ONCE))
        keys, values = [], []
        for start, stop in zip(ends[:-1], ends[1:]):
            part = np.flatnonzero((source >= start) & (source < stop)) if len(ends) > 2 else slice(None)
            own = source[part].astype(np.int64) * size + groups[self.keys[part] % self.size]
            found, inverse = np.unique(own, return_inverse=True)
            keys.append(found)
            values.append(np.zeros((len(found), self.values.shape[1]), dtype=np.float32))
            np.add.at(values[-1], inverse, self.values[part])
        return self._of_parts(keys, values, size, self.facts)

    def matrix(self, fact: str) -> sparse.csr_matrix:
        """One of the facts as a matrix, float32 [size, size]."""
        values = self.values[:, self.facts.index(fact)]
        some = np.flatnonzero(values)
        starts = np.searchsorted(self.keys[some], self.size * np.arange(self.size + 1, dtype=np.int64))
        columns = (self.keys[some] % self.size).astype(np.int32)
        return sparse.csr_matrix((values[some], columns, starts), shape=(self.size, self.size))

    def leaving(self, first: np.ndarray) -> np.ndarray:
        """float32 of the shape of ``first``: ``soon`` summed over all that comes after, at least 5."""
        return np.where(first < self.size, self._leaving[np.minimum(first, self.size - 1)], np.float32(COUNT_FLOOR))

    @cached_property
    def _leaving(self) -> np.ndarray:
        soon = self.values[:, self.facts.index("soon")]
        return np.maximum(np.bincount(self.keys // self.size, soon, self.size), COUNT_FLOOR).astype(np.float32)


def _shares(numbers: np.ndarray, size: int, count: int) -> np.ndarray:
    """Divide numbers below ``size`` into ``count`` ranges, or fewer, that occur about as often in ``numbers``: where
    each begins, int64 [ranges + 1], and ``size``."""
    events = np.cumsum(np.bincount(numbers, minlength=size))
    inner = np.searchsorted(events, len(numbers) * np.arange(1, count) / max(count, 1)) + 1
    return np.unique(np.concatenate([[0], np.minimum(inner, size), [size]])).astype(np.int64)
