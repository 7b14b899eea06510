"""A recommender that changes while it answers.

An update is made on a copy, which takes the recommender's place when it is whole: a batch of requests sees one
catalogue from its beginning to its end, and no update waits for it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search import SearchOptions
from tiger.utils.errors import DataError


class UnknownItems(DataError):
    """Items that the catalogue lacks."""

    def __init__(self, item_ids: Sequence[str]):
        names = ", ".join(map(repr, item_ids[:5])) + (", ..." if len(item_ids) > 5 else "")
        super().__init__(f"items that the catalogue lacks: {names}.")


@dataclass(frozen=True)
class Snapshot:
    """A recommender that nobody changes any more.

    Args:
        catalogue: how many updates came before it.
    """

    recommender: TigerRecommender
    catalogue: int


@dataclass(frozen=True)
class Update:
    """What an update did.

    Args:
        added, known, removed: item ids; known: were to be added and there already.
        items: how many the catalogue holds now.
        catalogue: how many updates it has seen now.
    """

    items: int
    catalogue: int
    added: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class LiveRecommender:
    """The recommender that answers now, and how the next follows it.

    Args:
        recommender: from now on changed by nobody else.
        save: a folder that each successor is written to before it takes over; None: updates live in memory alone.
    """

    def __init__(self, recommender: TigerRecommender, save: Path | None = None):
        _warm(recommender)
        self.now = Snapshot(recommender, 0)
        self._save = save
        self._updating = threading.Lock()

    def add(self, item_ids: Sequence[str], texts: Sequence[str]) -> Update:
        """Add items, see :meth:`TigerRecommender.add_items`: all of them or, after an error, none."""
        with self._updating:
            rows = self.now.recommender.tokenizer.rows(item_ids, missing=-1)
            known = [item for item, row in zip(item_ids, rows) if row >= 0]
            added = [item for item, row in zip(item_ids, rows) if row < 0]
            if added:
                successor = copy.copy(self.now.recommender)
                successor.add_items(item_ids, texts)
                self._follow(successor)
            return Update(len(self.now.recommender.tokenizer), self.now.catalogue, added=added, known=known)

    def remove(self, item_id: str) -> Update:
        """Take an item out.

        Raises:
            UnknownItems: it is unknown.
            DataError: it is the last.
        """
        with self._updating:
            if unknown := _unknown(self.now.recommender, [item_id]):
                raise UnknownItems(unknown)
            successor = copy.copy(self.now.recommender)
            successor.remove_items([item_id])
            self._follow(successor)
            return Update(len(self.now.recommender.tokenizer), self.now.catalogue, removed=[item_id])

    def _follow(self, successor: TigerRecommender) -> None:
        _warm(successor)
        if self._save is not None:
            successor.save_pretrained(self._save)
        self.now = Snapshot(successor, self.now.catalogue + 1)
        torch.clear_autocast_cache()  # it may hold on to the predecessor's weights


def _warm(recommender: TigerRecommender) -> None:
    """Make what is made on first use, so that no request waits for it and no two threads make it."""
    recommender.recommend([recommender.tokenizer.item_ids[:1]], k=1, num_beams=1)


@dataclass(frozen=True)
class RecommendCall:
    """What requests must agree in to share a beam search.

    Args:
        alone: tells apart requests with a seed: random numbers are drawn for a batch as a whole.
    """

    k: int
    rank: bool
    search: SearchOptions
    alone: int | None
    unseen_share: float | None = None


@dataclass(frozen=True)
class Answer:
    """One request's: an entry a history in each list.

    Args:
        catalogue: of the snapshot that answered.
        items: ids, best first.
        scores: as many.
        unknown: items of the history that the catalogue lacks, left out.
    """

    catalogue: int
    items: list[list[str]]
    scores: list[list[float]]
    unknown: list[list[str]]


def answer_recommend(
    snapshot: Snapshot, call: RecommendCall, requests: Sequence[tuple[list[list[str]], bool]]
) -> list[Answer | UnknownItems]:
    """Answer requests ``(histories, strict)`` in one go; strict: unknown items are an error."""
    read = [_read(snapshot.recommender, histories, strict) for histories, strict in requests]
    histories = [history for one in read if not isinstance(one, UnknownItems) for history in one[0]]
    if not histories:
        return read
    items, scores = snapshot.recommender.recommend(
        histories,
        call.k,
        rank=call.rank,
        unseen_share=call.unseen_share,
        **asdict(call.search),
    )
    scores = [values[: len(found)] for values, found in zip(scores.tolist(), items)]  # the rest is -inf
    return _divided(snapshot.catalogue, read, items, scores)


def answer_rank(
    snapshot: Snapshot, requests: Sequence[tuple[list[list[str]], list[list[str]], bool]]
) -> list[Answer | UnknownItems]:
    """Answer requests ``(histories, candidates, strict)`` in one go; an unknown candidate is an error."""
    read, candidates = [], []
    for histories, given, strict in requests:
        one = _read(snapshot.recommender, histories, strict)
        unknown = _unknown(snapshot.recommender, [item for wanted in given for item in wanted])
        if unknown:
            one = UnknownItems(unknown)
        if not isinstance(one, UnknownItems):
            candidates += given
        read.append(one)
    if not candidates:
        return read
    histories = [history for one in read if not isinstance(one, UnknownItems) for history in one[0]]
    items, scores = snapshot.recommender.rank(histories, candidates)
    return _divided(snapshot.catalogue, read, items, [values.tolist() for values in scores])


def _divided(catalogue: int, read: list, items: list[list[str]], scores: list[list[float]]) -> list:
    """Each request's part of the answers."""
    answers, start = [], 0
    for one in read:
        if not isinstance(one, UnknownItems):
            part = slice(start, start + len(one[0]))
            start = part.stop
            one = Answer(catalogue, items[part], scores[part], one[1])
        answers.append(one)
    return answers


def _read(recommender: TigerRecommender, histories: list[list[str]], strict: bool):
    """The histories without their unknown items, and these; or what is wrong, where there must be none."""
    unknown = [_unknown(recommender, history) for history in histories]
    if strict and any(unknown):
        return UnknownItems([item for one in unknown for item in one])
    known = [[i for i in items if i not in out] if out else items for items, out in zip(histories, unknown)]
    return known, unknown


def _unknown(recommender: TigerRecommender, item_ids: list[str]) -> list[str]:
    rows = recommender.tokenizer.rows(item_ids, missing=-1)
    return list(dict.fromkeys(item_ids[place] for place in np.flatnonzero(rows < 0)))
