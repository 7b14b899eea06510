"""Candidates for the next item, from the T5's beams, the log and the texts, with one feature per column for each.

The first stage proposes the T5's beams and the best items of the training-free hybrid. The features of each candidate
(:mod:`tiger.rankers.two_stage.features`) are co-occurrence counts with the items of the history, similarities of texts
and codes, transitions between code prefixes, the time of its last events and the T5's log-probability. A ranker
(:mod:`tiger.rankers.two_stage.ranker`) learns to order the candidates from targets.
"""

from __future__ import annotations

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
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.evaluation.baselines import Content, Hybrid, Transition, recency
from tiger.rankers.two_stage.features import DAYS, DECAY, READ, CandidateFeatures, RankingBatch, reads_time
from tiger.rankers.two_stage.saved import read_counts
from tiger.utils.files import write_atomically

# Of the candidates, the first two thirds are the hybrid's best. The rest are the best by texts plus weighted damped
# counts of followers and normalized counts of co-occurrence. These three numbers were set by hand and not tuned.
HYBRID_SHARE = Fraction(2, 3)
DAMPED_WEIGHT = 0.8
TOGETHER_WEIGHT = 3
_CHUNK = 512


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
        self.vectors = None if vectors is None else _unit(np.asarray(vectors, dtype=np.float32))
        self.cooccurrence = np.asarray(cooccurrence, dtype=np.float32)
        size, rows = items.num_rows, events // DAYS
        log = Sequences(np.array([0, len(rows)]), rows.astype(np.int32), events % DAYS)
        # Items that were added by their vectors, or by texts that are in no table, have no words.
        self._content = Content().fit(log, item_texts(items, required=False))
        known = self._content, self.codes, self.vectors
        self._features = CandidateFeatures(items, pairs, events, _directions(self.cooccurrence), *known)
        popularity = self._content.popularity
        first, second = np.divmod(pairs.keys, size)
        soon, together = (
            sparse.csr_matrix((pairs.values[:, PairTable.FACTS.index(fact)], (first, second)), shape=(size, size))
            for fact in ("soon", "together")
        )
        self._hybrid = Hybrid(transition=Transition().from_counts(soon, popularity), content=self._content)
        self._damped = Transition(log_counts=True).from_counts(soon, popularity)
        scale = sparse.diags(self._features.totals**-0.5)
        self._together = (scale @ together @ scale).tocsr()[:, popularity.order].astype(np.float32)

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
        allowed: np.ndarray | None = None,
    ) -> Proposals:
        """Candidates of each history, the log's and the texts' first, then what the beams add.

        Args:
            histories: n sequences of item rows. Where neither timestamps nor ``at`` say when one ends, features that
                read it are NaN.
            beams: int [n, K], what the T5 proposes, best first, -1 where nothing; None: no T5.
            scores: float [n, K], its log-probabilities.
            exclude_history: leave out items of the history.
            allowed: bool [items], what may be proposed, left out before the best are taken; None: all. The beams hold
                nothing else.
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
            words = self._words(part)
            own = self._search(part, words, exclude_history, allowed)
            found = np.concatenate([own, beams[users]], axis=1).astype(np.int32)
            found[_repeated(found)] = -1
            rows[users] = found
            columns[users] = self._features.compute(RankingBatch(part, found, words, beams[users], scores[users]))
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
        for start in range(0, len(histories), _CHUNK):
            users = np.arange(start, min(start + _CHUNK, len(histories)))
            part, none = histories.select(users), np.empty((len(users), 0))
            parts.append(self._features.compute(RankingBatch(part, rows[users], self._words(part), none, none)))
        return Proposals(rows, np.concatenate(parts))

    def _words(self, histories: Sequences) -> dict[str, np.ndarray]:
        """Scores [n, items] of the training-free stages, columns in the order of popularity."""
        words = self._content.scores(histories)
        return {"words": words, "hybrid": self._hybrid.scores(histories, content=words)}

    def _search(
        self,
        histories: Sequences,
        words: dict[str, np.ndarray],
        exclude_history: bool,
        allowed: np.ndarray | None,
    ) -> np.ndarray:
        """Rows [n, num_proposed]: two thirds the hybrid's best, the rest by the same with the log's counts damped."""
        order, place = self._content.popularity.order, self._content.popularity.place
        hybrid, kin = words["hybrid"].copy(), words["words"].copy()
        kin += DAMPED_WEIGHT * self._damped.scores(histories)
        kin += TOGETHER_WEIGHT * (recency(histories, READ, DECAY, len(self)) @ self._together).toarray()
        if exclude_history:
            for values in (hybrid, kin):
                values[histories.users, place[histories.items]] = -np.inf
        if allowed is not None:
            left_out = ~allowed[order]
            hybrid[:, left_out] = kin[:, left_out] = -np.inf
        count, found = min(self.num_proposed, len(self)), []
        first = int(count * HYBRID_SHARE)
        for values, wanted in ((hybrid, first), (kin, count - first)):
            best = torch.topk(torch.from_numpy(values), wanted, dim=1)
            # An item of the history may fill up a catalog that is smaller than the list.
            found.append(np.where(best.values.numpy() == -np.inf, -1, order[best.indices.numpy()]))
            np.put_along_axis(kin, best.indices.numpy(), -np.inf, axis=1)
        return np.concatenate(found, axis=1)

    def moved(
        self, items: pa.Table, where: np.ndarray, codes: np.ndarray | None, new_vectors: np.ndarray | None
    ) -> Candidates:
        """Return the same counts over another item table.

        Args:
            where: int [items], the row that each of its items had here; -1: it is new.
            codes: int [items, levels].
            new_vectors: float [new items, D], for the new ones, where content vectors are read.
        """
        now = np.full(len(self), -1)
        now[where[where >= 0]] = np.flatnonzero(where >= 0)
        first, second = (now[rows] for rows in np.divmod(self.pairs.keys, len(self)))
        known = (first >= 0) & (second >= 0)
        keys = first[known] * items.num_rows + second[known]
        order = np.argsort(keys)
        pairs = PairTable(keys[order], self.pairs.values[known][order], items.num_rows)
        rows, days = np.divmod(self.events, DAYS)
        events = np.sort(now[rows[now[rows] >= 0]] * DAYS + days[now[rows] >= 0])
        cooccurrence, vectors = _carried(self.cooccurrence, where), self.vectors
        if vectors is not None:
            vectors = _carried(vectors, where)
            if (where < 0).any():
                vectors[where < 0] = new_vectors
        return Candidates(items, pairs, events, cooccurrence, codes, vectors, self.num_proposed)

    def save(self, file: str | os.PathLike) -> None:
        """Write the counts as safetensors; items, codes and vectors are saved with the recommender."""
        counted = {"keys": self.pairs.keys, "values": self.pairs.values, "events": self.events}
        write_atomically(file, save(counted | {"company": self.cooccurrence}))

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


def _directions(cooccurrence: np.ndarray) -> np.ndarray:
    """Scale vectors to unit length; zero vectors become the mean direction of the others.

    A vector's length, or zeros, would reveal that an item has few training events, which on 5-core data means that
    the others are held out.
    """
    vectors = _unit(cooccurrence)
    return _unit(np.where(vectors.any(axis=1, keepdims=True), vectors, vectors.sum(axis=0)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
