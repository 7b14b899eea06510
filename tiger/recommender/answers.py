"""Answers of a recommender's state to histories: search, filters, the ranker, and a quota of unseen items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiger.data.sequences import Sequences, pad_rows
from tiger.rankers.base import Ranker, reads_memory
from tiger.recommender.filters import MAX_TOGETHER, ChosenFilters, CompiledFilter, warn_of
from tiger.recommender.state import RecommenderState
from tiger.retriever.memory import ItemMemory
from tiger.retriever.search import CatalogPart, SearchOptions, beams_of_users, merge_with_quota
from tiger.retriever.search_options import MAX_BEAMS, check_value
from tiger.utils.errors import DataError

Found = tuple[np.ndarray, np.ndarray]  # rows and scores


@dataclass(frozen=True)
class AnswerOptions:
    """Options of an answer, see :meth:`tiger.TigerRecommender.recommend`.

    Raises:
        DataError: a number is out of range.
    """

    search: SearchOptions
    k: int = 10
    rank: bool = True
    both_scores: bool = False
    unseen_share: float | None = None

    def __post_init__(self) -> None:
        check_value("k", self.k, int, 1, MAX_BEAMS)
        if self.search.num_beams < self.k:
            raise DataError(f"num_beams ({self.search.num_beams}) must be at least k ({self.k})")
        if self.unseen_share is not None and not 0 <= self.unseen_share <= 1:
            raise DataError(f"unseen_share must be from 0 to 1, got {self.unseen_share}")


def answer_histories(
    state: RecommenderState, histories: Sequences, options: AnswerOptions, chosen: ChosenFilters | None
) -> Found:
    """Rows int64 [users, k] and scores float32 [users, k], or [users, k, 2] with both scores; -1 and ``-inf``: none.

    Warns, as if the caller's caller did, of filters that allow nothing and of ids in them that the catalog lacks.

    Args:
        chosen: the filters; None: everything may be recommended.

    Raises:
        ValueError: both scores are wanted, and no ranker ranks.
        DataError: a filter can't be compiled.
    """
    if options.both_scores and (state.ranker is None or not options.rank):
        raise ValueError("both_scores needs a ranker that ranks: train one with recipes/ranker.py")
    if chosen is None:
        everybody = np.zeros(len(histories), dtype=np.int64)
        return _Answering(state, options, [None]).quota(histories, everybody)
    shape = (len(histories), options.k)
    rows = np.full(shape, -1, dtype=np.int64)
    scores = np.full((*shape, 2) if options.both_scores else shape, -np.inf, dtype=np.float32)
    new: dict[int, CompiledFilter] = {}
    for start in range(0, len(chosen.filters), MAX_TOGETHER):
        some = chosen.filters[start : start + MAX_TOGETHER]
        compiled = [None if one is None else state.filters.compile(one) for one in some]
        new |= {
            start + place: _without_mask(now)
            for place, (one, now) in enumerate(zip(some, compiled))
            if now is not None and now is not one
        }
        users = np.flatnonzero(chosen.of // MAX_TOGETHER == start // MAX_TOGETHER)
        answering = _Answering(state, options, compiled)
        rows[users], scores[users] = answering.quota(histories.select(users), chosen.of[users] - start)
    warn_of(new, chosen, stacklevel=3)
    return rows, scores


def _without_mask(compiled: CompiledFilter) -> CompiledFilter:
    return CompiledFilter(compiled.mask[:0], compiled.count, compiled.unknown)


@dataclass(frozen=True)
class _Answering:
    """Answers with a few filters; None among them: everything may be recommended."""

    state: RecommenderState
    options: AnswerOptions
    filters: list[CompiledFilter | None]

    def quota(self, histories: Sequences, of: np.ndarray) -> Found:
        """The best items; with ``unseen_share``, those that training saw and the others by their shares.

        Args:
            of: int64 [users], which of the filters each history has.
        """
        unseen, share, k = self.state.unseen, self.options.unseen_share, self.options.k
        if share is None or not 0 < unseen.sum() < len(unseen):
            return self._best(histories, of, "all")
        known, new = (self._best(histories, of, part) for part in ("seen", "unseen"))
        return merge_with_quota(known, new, k, quota=math.ceil(share * k - 1e-9))

    def _best(self, histories: Sequences, of: np.ndarray, part: str) -> Found:
        """The best items of a part of the catalog."""
        if part == "all" and all(one is None for one in self.filters):
            return self._ordered(histories, of, CatalogPart(), part)
        prepared, counts = zip(*(self._allowed(one, part) for one in self.filters))
        # Collision tokens, or whole IDs as tokens, of items that training never saw mean nothing.
        levels = self.state.tokenizer.num_codebooks if part == "unseen" else None
        some = np.flatnonzero(np.array(counts)[of] > 0)  # a filter that allows nothing needs no search
        searched = CatalogPart(prepared, levels, of[some])
        rows, scores = self._ordered(histories.select(some), of[some], searched, part)
        if len(some) == len(of):
            return rows, scores
        everybody = np.full((len(of), *rows.shape[1:]), -1, dtype=np.int64)
        all_scores = np.full((len(of), *scores.shape[1:]), -np.inf, dtype=np.float32)
        everybody[some], all_scores[some] = rows, scores
        return everybody, all_scores

    def _allowed(self, compiled: CompiledFilter | None, part: str):
        trie = self.state.trie_on(self.state.model.device)
        return self.state.filters.allowed(compiled, trie, part)

    def _ordered(self, histories: Sequences, of: np.ndarray, searched: CatalogPart, part: str) -> Found:
        """The T5's beams, in the ranker's order where it ranks."""
        state, options = self.state, self.options
        ranker = state.ranker if options.rank else None
        trie = state.trie_on(state.model.device)
        count = options.k if ranker is None else options.search.num_beams
        memory = state.memory if options.search.memory else None
        beams, log_probs = beams_of_users(
            state.model, state.tokenizer, trie, histories, count, options.search, state.max_history, searched, memory
        )
        if ranker is None:
            return beams, log_probs
        rows = np.full((len(histories), options.k), -1, dtype=np.int64)
        t5, logits = (np.full(rows.shape, -np.inf, dtype=np.float32) for _ in range(2))
        for number in np.unique(of):
            users = np.flatnonzero(of == number)
            some = histories if len(users) == len(of) else histories.select(users)
            mask = state.filters.mask(self.filters[number], part)
            rows[users], t5[users], logits[users] = ranker_order(
                ranker,
                memory,
                some,
                (beams[users], log_probs[users]),
                options.k,
                options.search.exclude_history,
                None if mask is None else np.flatnonzero(mask),
            )
        return rows, np.stack([t5, logits], axis=-1) if options.both_scores else logits


def ranker_order(
    ranker: Ranker,
    memory: ItemMemory | None,
    histories: Sequences,
    found: Found,
    k: int,
    exclude_history: bool = True,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ranker's order of what a search found, see :meth:`tiger.rankers.base.Ranker.order`.

    Args:
        memory: that the search had; rankers that read it are given it.
        found: the search's rows and scores.

    Raises:
        DataError: the ranker learned from searches with a memory, and this one had none, or the reverse.
    """
    known: dict[str, Any] = {} if allowed is None else {"allowed": allowed}
    if reads_memory(ranker, memory is not None):
        known["memory"] = memory
    return ranker.order(histories, *found, k, exclude_history, **known)


def rank_candidates(
    state: RecommenderState,
    histories: Sequences,
    candidates: Sequence[Sequence[str]],
    chosen: ChosenFilters | None,
) -> tuple[list[list[str]], list[np.ndarray]]:
    """The ranker's order of the candidates that the filters allow: ids, best first, and logits, of each history.

    Warns as :func:`answer_histories` does.

    Raises:
        DataError: there is no ranker, a candidate is unknown, or a filter can't be compiled.
    """
    if state.ranker is None:
        raise DataError("this recommender has no ranker: train one with recipes/ranker.py.")
    rows = [state.tokenizer.rows(given, missing=-1) for given in candidates]
    unknown = [item for given, found in zip(candidates, rows) for item, row in zip(given, found) if row < 0]
    if unknown:
        raise DataError(f"candidates that the catalog lacks: {', '.join(map(repr, unknown[:5]))}.")
    if chosen is not None:
        compiled = [None if one is None else state.filters.compile(one) for one in chosen.filters]
        kept = [
            np.arange(len(found)) if one is None else np.flatnonzero(one.mask[found])
            for found, one in ((found, compiled[number]) for found, number in zip(rows, chosen.of))
        ]
        rows = [found[places] for found, places in zip(rows, kept)]
        candidates = [[given[int(place)] for place in places] for given, places in zip(candidates, kept)]
        new = {
            place: one for place, one in enumerate(compiled) if one is not None and one is not chosen.filters[place]
        }
        warn_of(new, chosen, stacklevel=3)
    logits = state.ranker.score_sequences(histories, pad_rows(rows))
    ids, scores = [], []
    for given, values in zip(candidates, logits):
        order = np.argsort(-values[: len(given)], kind="stable")
        ids.append([given[place] for place in order])
        scores.append(values[order])
    return ids, scores
