"""Training and test data of a click model: lists of candidates shown to users, with labels.

Logs of purchases hold no impressions that failed, so those are drawn: some uniformly, some by popularity up to the
event, always among items that were there at the time and that the user did not have. Nothing here looks past the event
that it is about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tiger._moved import old_arguments, old_names
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.quantizers.base import Quantizer
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
        times: int64 [n], seconds, when each list was shown, for scores by what was known then; None: unknown.
    """

    histories: Sequences
    users: np.ndarray
    ends: np.ndarray
    candidates: np.ndarray
    labels: np.ndarray
    context: np.ndarray | None = None
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> int:
        """Return the number itself: the collator reads whole batches at once."""
        return index

    def select(self, rows: np.ndarray) -> Impressions:
        """Return some of the lists."""
        context = None if self.context is None else self.context[rows]
        return replace(
            self,
            users=self.users[rows],
            ends=self.ends[rows],
            candidates=self.candidates[rows],
            labels=self.labels[rows],
            context=context,
            times=None if self.times is None else self.times[rows],
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
        counts: float [items], training events of each item, where the ranker has a gate.
    """

    def __init__(
        self,
        impressions: Impressions,
        rows: np.ndarray,
        dense: np.ndarray | None = None,
        max_history: int = 20,
        counts: np.ndarray | None = None,
    ):
        self._impressions = impressions
        self._rows = torch.from_numpy(rows)
        self._dense = None if dense is None else torch.from_numpy(np.asarray(dense, dtype=np.float32))
        self._counts = None if counts is None else torch.from_numpy(np.asarray(counts, dtype=np.float32))
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
        if self._counts is not None:
            batch["counts"] = self._counts[items]
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


def counts_before(sequences: Sequences, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int64, of the shape of ``items``: how many events each item had before a time.

    Args:
        sequences: all events.
        items: int, item rows.
        times: int64 of a shape that broadcasts to that of ``items``, seconds.
    """
    times = np.broadcast_to(times, items.shape)
    span = np.int64(max(int(sequences.timestamps.max(initial=0)), int(times.max(initial=0))) + 1)
    keys = np.sort(sequences.items * span + sequences.timestamps)
    starts = items.astype(np.int64) * span
    return np.searchsorted(keys, starts + times) - np.searchsorted(keys, starts)


@dataclass(frozen=True)
class NegativeSampling:
    """Number and choice of the negatives of an event.

    Args:
        uniform, popular: how many are drawn uniformly, and by popularity.
        days: popularity is an item's count in so many days up to the event, the event's own time among them; None:
            since the log began. With 1, and a log of whole days, items are drawn by what others had on that very day:
            then no score of an item by itself, such as its age or its count, tells the event from its negatives.
        smoothing: added to the count of each item that was there by then.
        allowed: bool [items], which may be drawn; default: all.
        seed: of the draws.

    Raises:
        DataError: ``days`` below 1, or a negative number.
    """

    uniform: int = 2
    popular: int = 2
    days: int | None = None
    smoothing: float = 1.0
    allowed: np.ndarray | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.uniform, self.popular, self.smoothing) < 0:
            raise DataError("the numbers of negatives and the smoothing must be 0 or more.")
        if self.days is not None and self.days < 1:
            raise DataError(f"days must be 1 or more, or None for all events up to the event, got {self.days}.")


@old_arguments(among="allowed")
def draw_negatives(
    sequences: Sequences,
    events: np.ndarray,
    num_items: int,
    sampling: NegativeSampling | None = None,
    **fields: Any,
) -> np.ndarray:
    """Draw items that a user might have been shown instead.

    Args:
        sequences: all events; what is later than an event has no part in its negatives.
        events: int64 [n], the positives, rows of ``sequences.items``.
        num_items: items of the catalog.
        sampling: how many, and among which items.
        fields: fields of :class:`NegativeSampling`, over those of ``sampling``.

    Returns:
        int32 [n, uniform + popular]: items that were there at the event's time and that the user had not had by then,
        the event's own among them; -1 where a hundred draws found none.
    """
    sampling = replace(sampling or NegativeSampling(), **fields)
    random, source = np.random.default_rng(sampling.seed), _Source(sequences, events, num_items, sampling)
    times, users = sequences.timestamps[events], sequences.users[events].astype(np.int64)
    keys, since = _first_interactions(sequences, num_items)

    drawn = np.full((len(events), sampling.uniform + sampling.popular), -1, dtype=np.int64)
    for slot in range(drawn.shape[1]):
        draw = source.uniform if slot < sampling.uniform else source.popular
        missing = np.arange(len(events))
        for _ in range(100):
            missing, items = draw(missing, random)
            wanted = users[missing] * num_items + items
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            had = (keys[at] == wanted) & (since[at] <= times[missing])
            twice = (drawn[missing, :slot] == items[:, None]).any(axis=1)
            good = ~had & ~twice
            drawn[missing[good], slot] = items[good]
            missing = missing[~good]
            if len(missing) == 0:
                break
    return drawn.astype(np.int32)


class _Source:
    """The items that were there at the time of each event, and how often each had been had by then.

    A draw by count needs no table of counts for each time: it is a uniform draw of an event up to that time.
    """

    def __init__(self, sequences: Sequences, events: np.ndarray, num_items: int, sampling: NegativeSampling):
        allowed = np.ones(num_items, dtype=bool) if sampling.allowed is None else sampling.allowed
        times, available_from = sequences.timestamps[events], first_seen(sequences, num_items)
        pool = np.flatnonzero(allowed)
        self._pool = pool[np.argsort(available_from[pool], kind="stable")]
        self._there = np.searchsorted(available_from[self._pool], times, side="right")
        log = np.flatnonzero(allowed[sequences.items])
        log = log[np.argsort(sequences.timestamps[log], kind="stable")]
        self._log = sequences.items[log].astype(np.int64)
        ends = np.searchsorted(sequences.timestamps[log], times, side="right")
        self._starts = np.zeros_like(ends)
        if sampling.days is not None:
            opens = times - sampling.days * SECONDS_PER_DAY
            self._starts = np.searchsorted(sequences.timestamps[log], opens, side="right")
        self._counts, self._smoothing = ends - self._starts, sampling.smoothing

    def uniform(self, rows: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Those of the events ``rows`` that have an item to draw, and one for each."""
        rows = rows[self._there[rows] > 0]
        return rows, self._pool[(random.random(len(rows)) * self._there[rows]).astype(np.int64)]

    def popular(self, rows: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`uniform`, an item's chance being its count and the smoothing."""
        rows = rows[self._counts[rows] + self._smoothing * self._there[rows] > 0]
        counts, there = self._counts[rows], self._there[rows]
        point = random.random(len(rows)) * (counts + self._smoothing * there)
        by_count = point < counts
        items = np.empty(len(rows), dtype=np.int64)
        items[by_count] = self._log[self._starts[rows][by_count] + point[by_count].astype(np.int64)]
        rest = ~by_count
        if rest.any():
            at = ((point[rest] - counts[rest]) / self._smoothing).astype(np.int64)
            items[rest] = self._pool[np.minimum(at, there[rest] - 1)]  # rounding may reach the end
        return rows, items


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
    users, times = sequences.users[events], sequences.timestamps[events]
    candidates = np.concatenate([sequences.items[events][:, None], negatives], axis=1).astype(np.int32)
    labels = np.zeros(candidates.shape, dtype=np.float32)
    labels[:, 0] = 1
    labels[candidates < 0] = -100
    return Impressions(histories, users, history_ends(histories, users, times), candidates, labels, times=times)


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
        return Impressions(histories, none, none, candidates, np.empty(candidates.shape, dtype=np.float32), times=none)
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
    times = sequences.timestamps[heads]
    ends = history_ends(histories, sequences.users[heads], times)
    return Impressions(histories, sequences.users[heads], ends, candidates, given, times=times)


def rows_and_dense(
    features: ItemFeatures,
    item_ids: list[str],
    codes: np.ndarray | None,
    embeddings: np.ndarray | None,
    quantizer: Quantizer | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the catalog in the form that a collator reads.

    Args:
        features: how items are read.
        item_ids, codes: of all items.
        embeddings: float [items, D], content vectors, read by ``dense``.
        quantizer: the tokenizer's, read by ``dense_from_codes``.

    Raises:
        DataError: what the features read is missing.
    """
    if features.uses_dense and embeddings is None:
        raise DataError(f"{features.kind} reads content vectors, and none are given.")
    rows = features.rows(item_ids, codes)
    if features.decodes:
        assert codes is not None  # checked by rows
        return rows, decoder_of(quantizer).decode(codes)
    return rows, embeddings if features.uses_dense else None


def decoder_of(quantizer: Quantizer | None) -> Quantizer:
    """The quantizer that makes vectors of codes.

    Raises:
        DataError: the tokenizer has none.
    """
    if quantizer is None:
        raise DataError(
            "dense_from_codes decodes codes by the tokenizer's quantizer, and it has none: fit a tokenizer to vectors "
            "(SemanticIdTokenizer.fit), or use dense."
        )
    return quantizer


__getattr__ = old_names(__name__)
