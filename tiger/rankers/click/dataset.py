"""Training and test data of a click model: lists of candidates shown to users, with labels.

Logs of purchases hold no impressions that failed, so those are drawn: some uniformly, some by popularity, always among
items that were there at the time and that the user did not have. Nothing here looks past the event that it is about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tiger._moved import old_arguments, old_names
from tiger.data.sequences import Sequences
from tiger.rankers.click.features import ItemFeatures
from tiger.utils.errors import DataError


@dataclass(frozen=True)
class Impressions:
    """Lists of candidates, each with a history.

    Args:
        histories: sequences that the histories are the beginnings of.
        users: int64 [n], rows of ``histories``.
        ends: int64 [n], where in ``histories.items`` each history ends.
        candidates: int32 [n, C], item rows; -1: none.
        labels: float32 [n, C], 0 or 1; -100 where there is no candidate.
        context: float32 [n, C, k], further numbers of each candidate (a price, the hour); None: there are none.
    """

    histories: Sequences
    users: np.ndarray
    ends: np.ndarray
    candidates: np.ndarray
    labels: np.ndarray
    context: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> int:
        """Return the number itself: the collator reads whole batches at once."""
        return index

    def select(self, rows: np.ndarray) -> Impressions:
        """Return some of the lists."""
        context = None if self.context is None else self.context[rows]
        return Impressions(
            self.histories, self.users[rows], self.ends[rows], self.candidates[rows], self.labels[rows], context
        )

    def history(self, indices: np.ndarray, length: int) -> np.ndarray:
        """int64 [b, at most length]: the last items of some histories, padded on the left with -1."""
        starts = np.maximum(self.histories.offsets[self.users[indices]], self.ends[indices] - length)
        longest = int((self.ends[indices] - starts).max(initial=0))
        at = self.ends[indices][:, None] - np.arange(longest, 0, -1)
        inside = at >= starts[:, None]
        return np.where(inside, self.histories.items[np.where(inside, at, 0)], -1).astype(np.int64)


class ImpressionsCollator:
    """Collator: numbers of impressions to the inputs of :class:`SemanticIdRanker`.

    Args:
        impressions: that the numbers are of.
        rows: int32 [items, width], from :meth:`ItemFeatures.rows`.
        dense: float32 [items, D], where the features read content vectors.
        max_history: items of a history.
    """

    def __init__(
        self, impressions: Impressions, rows: np.ndarray, dense: np.ndarray | None = None, max_history: int = 20
    ):
        self._impressions = impressions
        self._rows = torch.from_numpy(rows)
        self._dense = None if dense is None else torch.from_numpy(np.asarray(dense, dtype=np.float32))
        self._max_history = max_history

    def __call__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        chosen = np.asarray(indices)
        history = torch.from_numpy(self._impressions.history(chosen, self._max_history))
        candidates = torch.from_numpy(self._impressions.candidates[chosen].astype(np.int64))
        items, numbers = torch.unique(torch.cat([history.flatten(), candidates.flatten()]), return_inverse=True)
        if items[0] < 0:
            items, numbers = items[1:], numbers - 1
        split = history.numel()
        batch = {
            "rows": self._rows[items],
            "history": numbers[:split].view(history.shape),
            "candidates": numbers[split:].view(candidates.shape),
            "labels": torch.from_numpy(self._impressions.labels[chosen]),
        }
        if self._dense is not None:
            batch["dense"] = self._dense[items]
        if self._impressions.context is not None:
            batch["context"] = torch.from_numpy(self._impressions.context[chosen].astype(np.float32))
        return batch


def first_seen(sequences: Sequences, num_items: int) -> np.ndarray:
    """int64 [items]: the time of each item's first event; the largest integer where it has none."""
    seen = np.full(num_items, np.iinfo(np.int64).max)
    np.minimum.at(seen, sequences.items, sequences.timestamps)
    return seen


def history_ends(sequences: Sequences, users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int64 [n]: where in ``sequences.items`` the events before a time end, for some of its users.

    Events of the very same time are not before it: where time is a day, the order within it is none.
    """
    # Sorted by user and time, so that one search finds all.
    span = np.int64(max(int(sequences.timestamps.max(initial=0)), int(times.max(initial=0))) + 1)
    keys = sequences.users * span + sequences.timestamps
    ends = np.searchsorted(keys, users.astype(np.int64) * span + times)
    return np.maximum(ends, sequences.offsets[users])


@dataclass(frozen=True)
class NegativeSampling:
    """Number and choice of the negatives of an event.

    Args:
        uniform, popular: how many are drawn uniformly, and by popularity.
        allowed: bool [items], which may be drawn; default: all.
        seed: of the draws.
    """

    uniform: int = 2
    popular: int = 2
    allowed: np.ndarray | None = None
    seed: int = 0


@old_arguments(among="allowed")
def draw_negatives(
    sequences: Sequences,
    events: np.ndarray,
    popularity: np.ndarray,
    available_from: np.ndarray,
    sampling: NegativeSampling | None = None,
    **fields: Any,
) -> np.ndarray:
    """Draw items that a user might have been shown instead.

    Args:
        sequences: all events.
        events: int64 [n], the positives, rows of ``sequences.items``.
        popularity: int [items], training events of each.
        available_from: int64 [items], from :func:`first_seen`.
        sampling: how many, and among which items.
        fields: fields of :class:`NegativeSampling`, over those of ``sampling``.

    Returns:
        int32 [n, uniform + popular]: items that were there at the event's time and that the user had not had by then,
        the event's own among them; -1 where a hundred draws found none.
    """
    sampling = replace(sampling or NegativeSampling(), **fields)
    random, num_items = np.random.default_rng(sampling.seed), len(popularity)
    allowed = np.ones(num_items, dtype=bool) if sampling.allowed is None else sampling.allowed
    times, users = sequences.timestamps[events], sequences.users[events]
    pool = np.flatnonzero(allowed)
    pool = pool[np.argsort(available_from[pool], kind="stable")]
    there = np.searchsorted(available_from[pool], times, side="right")
    weights = np.cumsum(np.where(allowed, popularity, 0).astype(np.float64))
    if sampling.popular and weights[-1] == 0:
        raise DataError("none of the items to draw from has a training event: popularity has nothing to go by.")
    keys, since = _first_interactions(sequences, num_items)

    drawn = np.full((len(events), sampling.uniform + sampling.popular), -1, dtype=np.int64)
    for slot in range(drawn.shape[1]):
        missing = np.arange(len(events))
        for _ in range(100):
            if slot < sampling.uniform:
                missing = missing[there[missing] > 0]
                items = pool[(random.random(len(missing)) * there[missing]).astype(np.int64)]
            else:
                items = np.searchsorted(weights, random.random(len(missing)) * weights[-1], side="right")
            wanted = users[missing] * num_items + items
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            had = (keys[at] == wanted) & (since[at] <= times[missing])
            twice = (drawn[missing, :slot] == items[:, None]).any(axis=1)
            good = ~had & ~twice & (available_from[items] <= times[missing])
            drawn[missing[good], slot] = items[good]
            missing = missing[~good]
            if len(missing) == 0:
                break
    return drawn.astype(np.int32)


def _first_interactions(sequences: Sequences, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of user and item as ``user * num_items + item``, ascending, and the time of each pair's first event."""
    keys = sequences.users.astype(np.int64) * num_items + sequences.items
    order = np.lexsort((sequences.timestamps, keys))
    keys, since = keys[order], sequences.timestamps[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    return keys[first], since[first]


def sampled_impressions(
    sequences: Sequences, events: np.ndarray, negatives: np.ndarray, histories: Sequences | None = None
) -> Impressions:
    """One list per event: it and its negatives. ``histories`` (default: ``sequences``) is what users had before."""
    histories = sequences if histories is None else histories
    users = sequences.users[events]
    candidates = np.concatenate([sequences.items[events][:, None], negatives], axis=1).astype(np.int32)
    labels = np.zeros(candidates.shape, dtype=np.float32)
    labels[:, 0] = 1
    labels[candidates < 0] = -100
    return Impressions(
        histories, users, history_ends(histories, users, sequences.timestamps[events]), candidates, labels
    )


def labeled_impressions(
    sequences: Sequences, events: np.ndarray, labels: np.ndarray, histories: Sequences, together: int = 10
) -> Impressions:
    """Lists of up to ``together`` labeled events of one user that follow each other, over what came before the first.

    Args:
        labels: 0 or 1 for every event of ``sequences``.
        histories: same users, for instance the liked events alone.
    """
    events = np.sort(events)
    if not len(events):
        none = np.empty(0, dtype=np.int64)
        candidates = np.empty((0, together), dtype=np.int32)
        return Impressions(histories, none, none, candidates, np.empty(candidates.shape, dtype=np.float32))
    users = sequences.users[events]
    opens = np.ones(len(events), dtype=bool)
    opens[1:] = (users[1:] != users[:-1]) | (events[1:] != events[:-1] + 1)
    starts = np.flatnonzero(opens)
    place = np.arange(len(events)) - np.repeat(starts, np.diff(np.append(starts, len(events))))
    opens |= place % together == 0
    run = np.cumsum(opens) - 1
    place = np.arange(len(events)) - np.flatnonzero(opens)[run]
    candidates = np.full((run[-1] + 1, together), -1, dtype=np.int32)
    given = np.full(candidates.shape, -100, dtype=np.float32)
    candidates[run, place] = sequences.items[events]
    given[run, place] = labels[events]
    heads = events[opens]
    ends = history_ends(histories, sequences.users[heads], sequences.timestamps[heads])
    return Impressions(histories, sequences.users[heads], ends, candidates, given)


def rows_and_dense(
    features: ItemFeatures, item_ids: list[str], codes: np.ndarray | None, embeddings: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the catalog in the form that a collator reads."""
    if features.uses_dense and embeddings is None:
        raise DataError(f"{features.kind} reads content vectors, and none are given.")
    return features.rows(item_ids, codes), embeddings if features.uses_dense else None


__getattr__ = old_names(__name__)
