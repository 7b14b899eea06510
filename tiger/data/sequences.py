"""Users' sequences of items as compact arrays, and lists of rows as one padded array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Sequences:
    """Sequences of items, one per user, stored end to end.

    Args:
        offsets: int64 [users + 1]; user ``u`` owns ``items[offsets[u]:offsets[u + 1]]``.
        items: int32 [events], row numbers of the item table, oldest first.
        timestamps: int64 [events], seconds; 0: unknown.
        user_ids: string array [users], whose sequences they are, null where unknown; None: not known of any.
        at: int64 [users], seconds at which recommendations are wanted, 0 where nobody said; None: 0 for all.
    """

    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    user_ids: pa.Array | None = None
    at: np.ndarray | None = None

    @classmethod
    def from_rows(cls, rows: Sequence[np.ndarray], user_ids: pa.Array | None = None) -> Sequences:
        """One array of item rows per user, oldest first; timestamps are 0, which stands for unknown."""
        offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        items = np.concatenate([*rows, np.empty(0, dtype=np.int64)]).astype(np.int32)
        return cls(offsets, items, np.zeros(len(items), dtype=np.int64), user_ids)

    def without_timestamps(self) -> Sequences:
        """The same items at unknown times."""
        return replace(self, timestamps=np.zeros(len(self.items), dtype=np.int64), at=None)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [users]: the number of events of each."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> np.ndarray:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[user] for user in range(len(self)))

    @property
    def ends(self) -> np.ndarray:
        """int64 [users]: ``at``, or the time of the last event where that is 0; 0: unknown."""
        last = np.where(self.lengths > 0, np.append(self.timestamps, 0)[self.offsets[1:] - 1], 0)
        return last if self.at is None else np.where(self.at > 0, self.at, last)

    @property
    def users(self) -> np.ndarray:
        """int64 [events]: whose event it is."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def ages(self) -> np.ndarray:
        """int64 [events]: how many events of the user came after it, 0 for the newest."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.items))

    def select(self, users: np.ndarray) -> Sequences:
        """The sequences of these users (int [n] or bool [users]) alone, in the order given."""
        users = np.flatnonzero(users) if users.dtype == bool else np.asarray(users, dtype=np.int64)
        user_ids = None if self.user_ids is None else self.user_ids.take(pa.array(users))
        at = None if self.at is None else self.at[users]
        return replace(self._gather(self.offsets[users], self.lengths[users]), user_ids=user_ids, at=at)

    def in_parts(self, size: int) -> Iterator[tuple[np.ndarray, Sequences]]:
        """The numbers of ``size`` users at a time, at least one, int64 [m], and their sequences."""
        size = max(1, size)
        for start in range(0, len(self), size):
            users = np.arange(start, min(start + size, len(self)))
            yield users, self.select(users)

    def drop_last(self, count: int | np.ndarray) -> Sequences:
        """Every sequence without its last ``count`` (int, or int [users]) events, and without ``at``."""
        return self._gather(self.offsets[:-1], np.maximum(self.lengths - count, 0))

    def keep_last(self, count: int) -> Sequences:
        """The last ``count`` events of every sequence."""
        lengths = np.minimum(self.lengths, count)
        return replace(self._gather(self.offsets[1:] - lengths, lengths), at=self.at)

    def shuffle_ties(self, seed: int) -> Sequences:
        """Events of one user and one day in random order; days keep theirs.

        Timestamps of day precision say nothing of the order within a day, and files often hold an order that reveals
        the answer: results are reported with ties as published and with ties shuffled.
        """
        order = np.lexsort(
            (np.random.default_rng(seed).random(len(self.items)), self.timestamps // SECONDS_PER_DAY, self.users)
        )
        return replace(self, items=self.items[order], timestamps=self.timestamps[order])

    def _gather(self, starts: np.ndarray, lengths: np.ndarray) -> Sequences:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Sequences(offsets, self.items[rows], self.timestamps[rows], self.user_ids)


def pad_rows(rows: list[np.ndarray]) -> np.ndarray:
    """Integer arrays of several lengths as one int64 [n, longest, at least 1], padded on the right with -1."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.full((len(rows), max(int(lengths.max(initial=0)), 1)), -1, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows) if len(rows) else []
    return padded


def id_lists(given: Iterable[Iterable[str]], name: str) -> list[list[str]]:
    """Item ids per user as lists: an iterator could be read once only.

    Args:
        name: what error messages call them.

    Raises:
        TypeError: one text in place of a list.
    """
    lists = [] if isinstance(given, str) else list(given)
    if isinstance(given, str) or any(isinstance(ids, str) for ids in lists):
        raise TypeError(f'{name} is a list of {name}: [["item-1", "item-2"]], not ["item-1", "item-2"]')
    return [list(ids) for ids in lists]
