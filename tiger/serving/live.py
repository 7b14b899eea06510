"""A recommender whose catalog can be updated while it answers.

An update changes a copy, which then replaces the recommender. So a batch of requests sees one catalog from start to
end, and updates don't wait for batches.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from tiger.recommender.manifest import MANIFEST
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search import SearchOptions
from tiger.utils.disk import DiskError
from tiger.utils.errors import DataError
from tiger.utils.locks import locked

LOCK_SECONDS = 10.0  # that an update waits for another process that writes the directory; not tuned


class UnknownItems(DataError):
    """Items that the catalog lacks."""

    def __init__(self, item_ids: Sequence[str]):
        names = ", ".join(map(repr, item_ids[:5])) + (", ..." if len(item_ids) > 5 else "")
        super().__init__(f"items that the catalog lacks: {names}.")


class SaveConflict(DataError):
    """The directory that updates are written to holds another process's update, or is being written."""


class NonFiniteScores(RuntimeError):
    """The model has scored items NaN or infinite: there is no order to serve."""


@dataclass(frozen=True)
class Snapshot:
    """A recommender that is not changed any more.

    Args:
        catalogue: number of updates before it.
    """

    recommender: TigerRecommender
    catalogue: int


@dataclass(frozen=True)
class Update:
    """Result of an update.

    Args:
        items: number of items in the catalog now.
        catalogue: number of updates so far.
        added, known, removed: item ids; ``known`` were to be added and in the catalog already.
    """

    items: int
    catalogue: int
    added: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class LiveRecommender:
    """Holds the current recommender and makes updates.

    Args:
        recommender: must not be changed by anything else from now on.
        save: directory to which each update is written before it takes effect; None: updates stay in memory. What
            another process writes there afterwards is not overwritten. What is there now counts as read: hold its
            lock (:func:`tiger.utils.locks.locked`) from reading the recommender until this object exists.

    Raises:
        DataError: the model's scores are not finite.
    """

    def __init__(self, recommender: TigerRecommender, save: Path | None = None):
        _warm(recommender)
        self.now = Snapshot(recommender, 0)
        self._save = save
        self._saved = None if save is None else _manifest_of(save)
        self._updating = threading.Lock()

    def add(self, item_ids: Sequence[str], texts: Sequence[str]) -> Update:
        """Add items, see :meth:`TigerRecommender.add_items`: all of them or, on an error, none."""
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
        """Remove an item.

        Raises:
            UnknownItems: the item is unknown.
            DataError: it is the last item.
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
            self._write(self._save, successor)
        self.now = Snapshot(successor, self.now.catalogue + 1)
        torch.clear_autocast_cache()  # it may keep the predecessor's weights in memory

    def _write(self, folder: Path, successor: TigerRecommender) -> None:
        try:
            with locked(folder, wait=LOCK_SECONDS):
                if _manifest_of(folder) != self._saved:
                    raise SaveConflict(
                        f"{folder} was changed by another process since this service read or wrote it: restart the "
                        "service to serve what is there, then repeat the update."
                    )
                successor.save_pretrained(folder)
                self._saved = _manifest_of(folder)
        except (SaveConflict, DiskError):
            raise
        except DataError as error:
            raise SaveConflict(str(error)) from error


def _manifest_of(folder: Path) -> bytes | None:
    """The manifest of a saved recommender, which holds the digests of all its files; None: there is none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None


def _warm(recommender: TigerRecommender) -> None:
    """Create what is created on first use, so that no request waits for it and no two threads create it; and look
    whether the scores can be served.

    Raises:
        DataError: some are NaN or infinite.
    """
    item_ids = recommender.tokenizer.item_ids
    histories = [item_ids[:1], [], item_ids[-5:]]
    k = min(10, len(item_ids))
    for rank in {False, recommender.ranker is not None}:
        items, scores = recommender.recommend(histories, k=k, num_beams=k, rank=rank, exclude_history=False)
        if not all(_finite(values[: len(found)]) for found, values in zip(items, scores)):
            raise DataError(
                f"the {'ranker' if rank else 'model'} scores items NaN or infinite: its weights are damaged or its "
                "training diverged. Train it again."
            )


def _finite(scores: Sequence[float] | np.ndarray) -> bool:
    return bool(np.isfinite(scores).all())


@dataclass(frozen=True)
class RecommendCall:
    """Settings of a request; requests with equal settings may share a batch.

    Args:
        alone: unique for a request with a seed, because random numbers are drawn for a whole batch; else None.
    """

    k: int
    rank: bool
    search: SearchOptions
    alone: int | None
    unseen_share: float | None = None


@dataclass(frozen=True)
class Answer:
    """Answer to one request, with one entry per history in each list.

    Args:
        catalogue: number of updates of the snapshot that answered.
        items: item ids, best first.
        scores: one per item.
        unknown: items of the history that the catalog lacks; they were left out.
    """

    catalogue: int
    items: list[list[str]]
    scores: list[list[float]]
    unknown: list[list[str]]


def answer_recommend(
    snapshot: Snapshot, call: RecommendCall, requests: Sequence[tuple[list[list[str]], bool]]
) -> list[Answer | UnknownItems | NonFiniteScores]:
    """Answer requests ``(histories, strict)`` in one batch; if strict, unknown items are an error."""
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
    filled = [values[: len(found)] for values, found in zip(scores.tolist(), items)]  # the rest is -inf
    return _divided(snapshot.catalogue, read, items, filled)


def answer_rank(
    snapshot: Snapshot, requests: Sequence[tuple[list[list[str]], list[list[str]], bool]]
) -> list[Answer | UnknownItems | NonFiniteScores]:
    """Answer requests ``(histories, candidates, strict)`` in one batch; an unknown candidate is an error."""
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


def _divided(updates: int, read: list, items: list[list[str]], scores: list[list[float]]) -> list:
    """Split the answers by request; one with a score that is not finite becomes an error."""
    answers, start = [], 0
    for one in read:
        if not isinstance(one, UnknownItems):
            part = slice(start, start + len(one[0]))
            start = part.stop
            if all(map(_finite, scores[part])):
                one = Answer(updates, items[part], scores[part], one[1])
            else:
                one = NonFiniteScores("scores of a request are NaN or infinite: the model or the ranker is damaged")
        answers.append(one)
    return answers


def _read(recommender: TigerRecommender, histories: list[list[str]], strict: bool):
    """The histories without unknown items, and the unknown ones; an error if strict and there are any."""
    unknown = [_unknown(recommender, history) for history in histories]
    if strict and any(unknown):
        return UnknownItems([item for one in unknown for item in one])
    known = [_without(items, set(out)) if out else items for items, out in zip(histories, unknown)]
    return known, unknown


def _without(items: list[str], out: set[str]) -> list[str]:
    return [item for item in items if item not in out]


def _unknown(recommender: TigerRecommender, item_ids: list[str]) -> list[str]:
    rows = recommender.tokenizer.rows(item_ids, missing=-1)
    return list(dict.fromkeys(item_ids[place] for place in np.flatnonzero(rows < 0)))
