"""Candidates without a few of the items, of which nothing is counted anew."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa

from tiger.data.cooccurrence import PairTable
from tiger.data.sequences import Sequences
from tiger.rankers.two_stage.candidates import CHANGED_SHARE, Candidates, Proposals


def kept(candidates: Candidates, rows: np.ndarray) -> Candidates:
    """Return the same counts over the items at these rows alone, int [m], ascending."""
    if isinstance(candidates, KeptCandidates):
        return kept(candidates._whole, candidates._rows[rows])
    if len(candidates) - len(rows) <= CHANGED_SHARE * len(candidates) and len(rows) >= candidates.num_proposed:
        return KeptCandidates(candidates, rows)
    codes = None if candidates.codes is None else candidates.codes[rows]
    return candidates.moved(candidates.items.take(rows), rows, codes, None)


class KeptCandidates(Candidates):
    """Candidates over nearly all items of others, which stay as they are: nothing is counted anew.

    Args:
        whole: the others.
        rows: int [items], the row of each there, ascending.
    """

    def __init__(self, whole: Candidates, rows: np.ndarray):
        self.__dict__.update(whole.__dict__)
        self._whole, self._rows = whole, rows
        self.codes = None if whole.codes is None else whole.codes[rows]
        self._numbers = np.full(len(whole) + 1, -1)  # the last one: no item
        self._numbers[rows] = np.arange(len(rows))
        self._gone = np.flatnonzero(self._numbers[:-1] < 0)

    @property
    def items(self) -> pa.Table:
        return self._whole.items.take(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def vectors(self) -> np.ndarray | None:
        return None if self._whole.vectors is None else self._whole.vectors[self._rows]

    @property
    def cooccurrence(self) -> np.ndarray:
        return self._whole.cooccurrence[self._rows]

    def propose(
        self,
        histories: Sequences,
        beams: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        exclude_history: bool = True,
        progress: bool = False,
        without: np.ndarray | None = None,
    ) -> Proposals:
        """As of any candidates; see :meth:`Candidates.propose`."""
        without = self._gone if without is None else np.append(self._gone, self._rows[without])
        beams = None if beams is None else self._in_whole(beams)
        found = self._whole.propose(self._read(histories), beams, scores, exclude_history, progress, without)
        return Proposals(self._numbers[found.rows].astype(np.int32), found.columns)

    def describe(self, histories: Sequences, rows: np.ndarray) -> Proposals:
        """As of any candidates; see :meth:`Candidates.describe`."""
        found = self._whole.describe(self._read(histories), self._in_whole(rows))
        return Proposals(np.asarray(rows, dtype=np.int32), found.columns)

    def _read(self, histories: Sequences) -> Sequences:
        return replace(histories, items=self._rows[histories.items].astype(np.int32))

    def _in_whole(self, rows: np.ndarray) -> np.ndarray:
        return np.where(rows < 0, -1, self._rows[rows])

    def extended(self, items: pa.Table, codes: np.ndarray | None, new_vectors: np.ndarray) -> Candidates:
        """As of any candidates; see :meth:`Candidates.extended`."""
        known, whole = len(self), self._whole
        table = pa.concat_tables([whole.items, items.slice(known)])
        if whole.codes is not None and codes is not None:
            codes = np.concatenate([whole.codes, codes[known:]])
        grown = whole.extended(table, codes, new_vectors)
        return kept(grown, np.append(self._rows, np.arange(len(whole), len(grown))))

    def moved(
        self, items: pa.Table, where: np.ndarray, codes: np.ndarray | None, new_vectors: np.ndarray | None
    ) -> Candidates:
        """As of any candidates; see :meth:`Candidates.moved`."""
        return self._whole.moved(items, self._in_whole(where), codes, new_vectors)

    def digest(self) -> bytes:
        """As of any candidates; see :meth:`Candidates.digest`."""
        return hashlib.sha256(self._whole.digest() + np.asarray(self._rows, dtype=np.int64).tobytes()).digest()

    @property
    def counts(self) -> tuple[PairTable, np.ndarray, np.ndarray]:
        return self._whole._counts_at(self._rows)
