"""Candidates for the next item, from the T5's beams, the log and the texts, with one feature per column for each.

The first stage proposes the T5's beams and the best items of the training-free hybrid. The features of each candidate
(:mod:`tiger.rankers.two_stage.features`) are co-occurrence counts with the items of the history, similarities of texts
and codes, transitions between code prefixes, the time of its last events and the T5's log-probability. A ranker
(:mod:`tiger.rankers.two_stage.ranker`) learns to order the candidates from targets.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import save
from scipy import sparse
from tqdm.auto import tqdm

from tiger.data.cooccurrence import PairTable
from tiger.data.identity import table_digest
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.evaluation.baselines import TRANSITION_WEIGHT, Content, Transition, recency
from tiger.rankers.two_stage.features import DAYS, DECAY, READ, CandidateFeatures, RankingBatch, reads_time
from tiger.rankers.two_stage.saved import read_counts
from tiger.utils.files import write_atomically
from tiger.utils.growing import Growing
from tiger.utils.growing_rows import with_empty

# Of the candidates, the first two thirds are the hybrid's best. The rest are the best by texts plus weighted damped
# counts of followers and normalized counts of co-occurrence. These three numbers were set by hand and not tuned.
HYBRID_SHARE = Fraction(2, 3)
DAMPED_WEIGHT = 0.8
TOGETHER_WEIGHT = 3
_CHUNK = 512
_ROWS = 1 << 16  # rows of a table that are computed at a time
_CHUNK_SCORES = 1 << 22  # scores of all items that are held at once, 16 MiB, a few times over
# Until so large a share of the items has come or gone, word weights, the order of ties and moves between prefixes stay
# those of the fit; then all is fitted anew, as loading does. New items are last among those that tie.
CHANGED_SHARE = 0.01


@dataclass
class Proposals:
    """Candidates and their features.

    Args:
        rows: int32 [n, C], item rows, each at most once per history; -1: none. Best first by the source, which breaks
            the ranker's ties.
        columns: float32 [n, C, F]; NaN: unknown.
    """

    rows: np.ndarray
    columns: np.ndarray


class Candidates:
    """Proposes candidates after a history and computes their features.

    Made by :meth:`fit`.

    Args:
        items: the item table, ``item_id`` first.
        pairs: co-occurrence counts of pairs of items.
        events: int64 [m], ``item row * DAYS + day`` of each event of the log, ascending.
        cooccurrence: float [items, D], see :func:`tiger.embeddings.item_vectors.cooccurrence_vectors`. Only the
            direction is read, of zeros that of the others' mean.
        codes: int [items, levels], the codes of the semantic IDs; None: no features of codes.
        vectors: float [items, D], content vectors; None: no features of them.
        num_proposed: how many are proposed; the T5's beams come on top.
    """

    def __init__(
        self,
        items: pa.Table,
        pairs: PairTable,
        events: np.ndarray,
        cooccurrence: np.ndarray,
        codes: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
        num_proposed: int = 150,
    ):
        self.items, self.pairs, self.events, self.num_proposed = items, pairs, events, num_proposed
        self.codes = None if codes is None else np.asarray(codes, dtype=np.int32)
        self._vectors = None if vectors is None else _unit(np.asarray(vectors, dtype=np.float32))
        self._cooccurrence = np.asarray(cooccurrence, dtype=np.float32)
        self._known_directions, self._elsewhere = _directions(self._cooccurrence)
        size, rows = items.num_rows, events // DAYS
        self._fitted = size
        log = Sequences(np.array([0, len(rows)]), rows.astype(np.int32), events % DAYS)
        # Items that were added by their vectors, or by texts that are in no table, have no words.
        self._content = Content().fit(log, item_texts(items, required=False), required=False)
        known = self._content, self.codes, self.vectors
        self._features = CandidateFeatures(items, pairs, events, self._known_directions.values, *known)
        popularity = self._content.popularity
        soon, together = pairs.matrix("soon"), pairs.matrix("together")
        self._transition = Transition().from_counts(soon, popularity)
        self._damped = Transition(log_counts=True).from_counts(soon, popularity)
        scale = sparse.diags(self._features.totals**-0.5)
        self._together = (scale @ together @ scale).tocsr()[:, popularity.order].astype(np.float32)

    @property
    def vectors(self) -> np.ndarray | None:
        """float32 [items, D], content vectors of unit length; None: none are read."""
        return None if self._vectors is None else self._vectors.values

    @property
    def cooccurrence(self) -> np.ndarray:
        """float32 [items, D], co-occurrence vectors; of items that came after the fit, zeros."""
        later = len(self) - len(self._cooccurrence)
        return np.pad(self._cooccurrence, ((0, later), (0, 0))) if later else self._cooccurrence

    @classmethod
    def fit(cls, train: Sequences, items: pa.Table, **options) -> Candidates:
        """Count events and co-occurrences in a training log."""
        # What is before 1970 is as if it had no day: 0.
        days = np.maximum(train.timestamps // SECONDS_PER_DAY, 0)
        events = np.sort(train.items.astype(np.int64) * DAYS + days)
        cooccurrence = cooccurrence_vectors(train, items.num_rows)
        return cls(items, PairTable.fit(train, items.num_rows, READ), events, cooccurrence, **options)

    def __len__(self) -> int:
        return self.items.num_rows

    @property
    def names(self) -> list[str]:
        """Names of the features, each after its stage: log, text, item, codes, time or t5."""
        return self._features.names

    def propose(
        self,
        histories: Sequences,
        beams: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        exclude_history: bool = True,
        progress: bool = False,
        without: np.ndarray | None = None,
    ) -> Proposals:
        """Candidates of each history, the log's and the texts' first, then what the beams add.

        Args:
            histories: n sequences of item rows. Where neither timestamps nor ``at`` say when one ends, features that
                read it are NaN.
            beams: int [n, K], what the T5 proposes, best first, -1 where nothing; None: no T5.
            scores: float [n, K], its log-probabilities.
            exclude_history: leave out items of the history.
            without: int [m], rows that are not proposed, left out before the best are taken; None: all may be. The
                beams hold none of them.
        """
        if beams is None:
            beams, scores = np.full((len(histories), 0), -1), np.empty((len(histories), 0), dtype=np.float32)
        assert scores is not None  # they come with the beams
        width = min(self.num_proposed, len(self)) + beams.shape[1]
        rows = np.full((len(histories), width), -1, dtype=np.int32)
        columns = np.empty((len(histories), width, len(self.names)), dtype=np.float32)
        for start in tqdm(range(0, len(histories), _CHUNK), desc="candidates", unit="chunk", disable=not progress):
            users = np.arange(start, min(start + _CHUNK, len(histories)))
            part = histories.select(users)
            own = self._search(part, exclude_history, without)
            found = np.concatenate([own, beams[users]], axis=1).astype(np.int32)
            found[_repeated(found)] = -1
            rows[users] = found
            batch = RankingBatch(part, found, len(self), beams[users], scores[users])
            columns[users] = self._features.compute(batch)
        return Proposals(rows, columns)

    def without_beams(self, proposals: Proposals) -> Proposals:
        """Return the candidates as they would be without the T5."""
        own, columns = min(self.num_proposed, len(self)), proposals.columns.copy()
        columns[..., [number for number, name in enumerate(self.names) if name.startswith("t5")]] = np.nan
        return Proposals(proposals.rows[:, :own], columns[:, :own])

    @property
    def last_day(self) -> int:
        """The day of the log's last event, counted from 1970."""
        return int((self.events % DAYS).max(initial=0))

    def without_times(self, proposals: Proposals) -> Proposals:
        """Return the candidates as they would be if no history's times were known."""
        columns = proposals.columns.copy()
        columns[..., [number for number, name in enumerate(self.names) if reads_time(name)]] = np.nan
        return Proposals(proposals.rows, columns)

    def describe(self, histories: Sequences, rows: np.ndarray) -> Proposals:
        """Features of given candidates, int [n, C], -1: none; those of the T5 are unknown."""
        rows, parts = np.asarray(rows, dtype=np.int32), []
        for users, part in histories.in_parts(_CHUNK):
            none = np.empty((len(users), 0))
            parts.append(self._features.compute(RankingBatch(part, rows[users], len(self), none, none)))
        return Proposals(rows, np.concatenate(parts))

    def _search(self, histories: Sequences, exclude_history: bool, without: np.ndarray | None) -> np.ndarray:
        """Rows [n, num_proposed], see :meth:`_best`; users in parts that bound memory."""
        parts = histories.in_parts(_CHUNK_SCORES // len(self))
        return np.concatenate([self._best(part, exclude_history, without) for _, part in parts])

    def _best(self, histories: Sequences, exclude_history: bool, without: np.ndarray | None) -> np.ndarray:
        """Rows [n, num_proposed]: two thirds the hybrid's best, the rest by the same with the log's counts damped."""
        order, place = self._content.popularity.order, self._content.popularity.place
        kin = self._content.scores(histories)
        hybrid = TRANSITION_WEIGHT * self._transition.scores(histories)
        hybrid += kin
        kin += DAMPED_WEIGHT * self._damped.scores(histories)
        kin += TOGETHER_WEIGHT * (recency(histories, READ, DECAY, len(self)) @ self._together).toarray()
        if exclude_history:
            for values in (hybrid, kin):
                values[histories.users, place[histories.items]] = -np.inf
        if without is not None:
            columns = place[without]
            hybrid[:, columns] = kin[:, columns] = -np.inf
        count, found = min(self.num_proposed, len(self)), []
        first = int(count * HYBRID_SHARE)
        for values, wanted in ((hybrid, first), (kin, count - first)):
            best = torch.topk(torch.from_numpy(values), wanted, dim=1)
            # An item of the history may fill up a catalog that is smaller than the list.
            found.append(np.where(best.values.numpy() == -np.inf, -1, order[best.indices.numpy()]))
            np.put_along_axis(kin, best.indices.numpy(), -np.inf, axis=1)
        return np.concatenate(found, axis=1)

    def extended(self, items: pa.Table, codes: np.ndarray | None, new_vectors: np.ndarray) -> Candidates:
        """Return the same counts with items behind the others, which have no events yet.

        Args:
            items: the whole table.
            codes: int [items, levels], of all.
            new_vectors: float [new items, D].
        """
        known, new = len(self), items.num_rows - len(self)
        if items.num_rows > (1 + CHANGED_SHARE) * self._fitted:
            return self.moved(items, np.append(np.arange(known), np.full(new, -1)), codes, new_vectors)
        grown, added = copy.copy(self), items.slice(known)
        grown.items, grown.codes = items, None if codes is None else np.asarray(codes, dtype=np.int32)
        if self._vectors is not None:
            grown._vectors = self._vectors.append(_unit(np.asarray(new_vectors, dtype=np.float32)).values)
        grown._known_directions = self._known_directions.append(self._elsewhere[None].repeat(new, axis=0))
        grown._content = self._content.extended(item_texts(added, required=False))
        known_of_all = grown._content, grown._known_directions.values, grown.codes, grown.vectors
        grown._features = self._features.extended(added, *known_of_all)
        popularity = grown._content.popularity
        grown._transition, grown._damped = (one.extended(popularity) for one in (self._transition, self._damped))
        grown._together = with_empty(self._together, len(grown))
        return grown

    def moved(
        self, items: pa.Table, where: np.ndarray, codes: np.ndarray | None, new_vectors: np.ndarray | None
    ) -> Candidates:
        """Return the same counts over another item table.

        Args:
            where: int [items], the row that each of its items had here; -1: it is new.
            codes: int [items, levels].
            new_vectors: float [new items, D], for the new ones, where content vectors are read.
        """
        pairs, events, cooccurrence = self._counts_at(where)
        vectors = self.vectors
        if vectors is not None:
            vectors = _carried(vectors, where)
            if (where < 0).any():
                vectors[where < 0] = new_vectors
        return Candidates(items, pairs, events, cooccurrence, codes, vectors, self.num_proposed)

    def _counts_at(self, where: np.ndarray) -> tuple[PairTable, np.ndarray, np.ndarray]:
        """The log's counts over other items: int [items], the row here of each, -1: it is new."""
        now = np.full(len(self), -1)
        now[where[where >= 0]] = np.flatnonzero(where >= 0)
        first, second = (now[rows] for rows in np.divmod(self.pairs.keys, self.pairs.size))
        known = (first >= 0) & (second >= 0)
        keys = first[known] * len(where) + second[known]
        values = self.pairs.values[known]
        if (keys[1:] < keys[:-1]).any():  # not where items stay in their order
            order = np.argsort(keys)
            keys, values = keys[order], values[order]
        rows, days = np.divmod(self.events, DAYS)
        events = np.sort(now[rows[now[rows] >= 0]] * DAYS + days[now[rows] >= 0])
        return PairTable(keys, values, len(where)), events, _carried(self.cooccurrence, where)

    def save(self, file: str | os.PathLike) -> None:
        """Write the counts as safetensors; items, codes and vectors are saved with the recommender."""
        pairs, events, cooccurrence = self.counts
        counted = {"keys": pairs.keys, "values": pairs.values, "events": events}
        write_atomically(file, save(counted | {"company": np.ascontiguousarray(cooccurrence)}))

    @property
    def counts(self) -> tuple[PairTable, np.ndarray, np.ndarray]:
        """The log's counts over the items that there are now: pairs, events and co-occurrence vectors, as the class
        takes them."""
        if self.pairs.size == len(self):
            return self.pairs, self.events, self.cooccurrence
        return self._counts_at(np.arange(len(self)))

    def digest(self) -> bytes:
        """Digest of the counts, the items and their codes and vectors, by which candidates and features are made."""
        # Of the items that came after the fit, words have the weights of the fit.
        told = [len(self), self._fitted, self.num_proposed, self.pairs.size, table_digest(self.items)]
        found = hashlib.sha256(json.dumps(told).encode())
        arrays = (self.pairs.keys, self.pairs.values, self.events, self._cooccurrence, self.codes, self.vectors)
        for array in arrays:
            found.update(str(None if array is None else (array.dtype, array.shape)).encode())
            if array is not None:
                found.update(np.ascontiguousarray(array).ravel().data)
        return found.digest()

    @classmethod
    def load(cls, file: str | os.PathLike, items: pa.Table, **options) -> Candidates:
        """Read what :meth:`save` wrote; the rest as for the class.

        Raises:
            DataError: the file is missing, damaged, or of other items.
        """
        counted = read_counts(Path(file), items.num_rows)
        pairs = PairTable(counted["keys"], counted["values"], items.num_rows)
        return cls(items, pairs, counted["events"], counted["company"], **options)


def _carried(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Rows [n, D] of another table, 0 where ``where`` [n] is -1."""
    return np.where(where[:, None] >= 0, values[where], np.float32(0))


def _repeated(rows: np.ndarray) -> np.ndarray:
    """bool, the shape of ``rows`` [n, C]: True where a value stood further left already."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    again = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def _directions(cooccurrence: np.ndarray) -> tuple[Growing[np.ndarray], np.ndarray]:
    """Scale vectors to unit length; zero vectors become the mean direction of the others, which is returned as well.

    A vector's length, or zeros, would reveal that an item has few training events, which on 5-core data means that
    the others are held out.
    """
    total = np.zeros((1, cooccurrence.shape[1]), dtype=np.float32)
    directions = _unit(cooccurrence)
    parts = [slice(start, start + _ROWS) for start in range(0, len(cooccurrence), _ROWS)]
    for part in parts:
        total = np.concatenate([total, directions.values[part]]).sum(axis=0, keepdims=True)
    for part in parts:
        vectors = directions.values[part]
        vectors[:] = _unit(np.where(vectors.any(axis=1, keepdims=True), vectors, total)).values
    return directions, _unit(total).values[0]


def _unit(vectors: np.ndarray) -> Growing[np.ndarray]:
    """Rows [n, D] of length 1, but for zeros."""
    scaled = Growing.empty_like(vectors)
    for start in range(0, len(vectors), _ROWS):
        part = vectors[start : start + _ROWS]
        scaled.values[start : start + _ROWS] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return scaled
