"""Co-occurrence counts: which item follows which in users' histories, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy import sparse

from tiger.data.sequences import SECONDS_PER_DAY, Sequences

# Totals below it are not distinguished: they would reveal held-out events, see tiger.evaluation.baselines.
COUNT_FLOOR = 5
NEAR = 3  # steps within which an item counts as a follower, with weight 1 / steps; not tuned


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


class PairTable:
    """Features of pairs of items (or of groups of items), found by a pair's key.

    Args:
        keys: int64 [m], ``first * size + second``, ascending.
        values: float32 [m, F].
    """

    FACTS = ("next", "soon", "before", "together", "same day")

    def __init__(self, keys: np.ndarray, values: np.ndarray, size: int):
        self.keys, self.values, self.size = keys, values, size

    @classmethod
    def fit(cls, train: Sequences, size: int, max_gap: int = 20) -> PairTable:
        """Count pairs of one user's events up to ``max_gap`` apart.

        Facts of (i, j): how often j was next after i; within three, weighted 1 / gap; the same backwards; how often
        both occurred in either order; how often on one day.
        """
        items = train.items.astype(np.int64)
        days = train.timestamps // SECONDS_PER_DAY
        keys = np.empty(0, dtype=np.int64)
        values = np.empty((0, len(cls.FACTS)), dtype=np.float32)
        for gap, earlier in pairs_by_gap(train, max_gap):
            first, second = items[earlier], items[earlier + gap]
            one_day = (days[earlier] == days[earlier + gap]).astype(np.float32)
            near = np.full(len(first), 1 / gap if gap <= NEAR else 0, dtype=np.float32)
            none, each = np.zeros_like(near), np.ones_like(near)
            onward = np.stack([each if gap == 1 else none, near, none, each, one_day], axis=1)
            back = np.stack([none, none, near, each, one_day], axis=1)
            keys = np.concatenate([keys, first * size + second, second * size + first])
            values = np.concatenate([values, onward, back])
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            keys, values = keys[starts], np.add.reduceat(values[order], starts)
        return cls(keys, values, size)

    def find(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """int64 of the broadcast shape: where a pair's values are, or ``len(values)``, where :meth:`padded` has 0."""
        wanted = first.astype(np.int64) * self.size + second
        if not len(self.keys):
            return np.zeros(wanted.shape, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, at, len(self.keys))

    def grouped(self, groups: np.ndarray) -> PairTable:
        """The same features of groups of items: int [items], the group of each."""
        size = int(groups.max(initial=-1)) + 1
        first, second = np.divmod(self.keys, self.size)
        keys, inverse = np.unique(groups[first].astype(np.int64) * size + groups[second], return_inverse=True)
        values = np.zeros((len(keys), self.values.shape[1]), dtype=np.float32)
        np.add.at(values, inverse, self.values)
        return PairTable(keys, values, size)

    @cached_property
    def leaving(self) -> np.ndarray:
        """float32 [size]: ``soon`` summed over all that comes after, at least 5."""
        soon = self.values[:, self.FACTS.index("soon")]
        return np.maximum(np.bincount(self.keys // self.size, soon, self.size), COUNT_FLOOR).astype(np.float32)

    @cached_property
    def padded(self) -> np.ndarray:
        """``values`` and a last row of zeros."""
        return np.concatenate([self.values, np.zeros((1, self.values.shape[1]), dtype=np.float32)])
