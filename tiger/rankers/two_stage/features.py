"""Features of a candidate after a history, in stages called log, text, item, codes, time and t5.

Four rules keep the features honest; a test guards each:

* *No item order.* Row numbers never enter a feature: item tables are often sorted by a product code.
* *No count below 5.* Where every item was filtered to have five events, a lower count in training reveals that an
  event was held out, so totals enter as ``max(count, 5)``, items of 5 events or fewer have no days, and co-occurrence
  vectors, which are short where events are few, have unit length.
* *Training log only.* A history is read up to its end; everything else is counted in the training log.
* *Days and totals end with the history.* A log that is split by leaving out each user's last items continues after
  most histories. A deployed system would not know those events, so features of days and totals of items don't count
  them: days and the whole log's total would together tell how much was bought later. Pairs of items are counted in the
  whole log, as the baselines and the T5 learn from all of it.

Features of a history's end (:func:`reads_time`) are unknown, NaN, where nobody says when that was.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse

from tiger._moved import old_names
from tiger.data.cooccurrence import COUNT_FLOOR, PairTable
from tiger.data.sequences import SECONDS_PER_DAY, Sequences, pad_rows
from tiger.evaluation.baselines import TRANSITION_WEIGHT, Content
from tiger.rankers.two_stage.prefixes import PrefixGroups
from tiger.utils.growing import Growing

READ = 20  # items of a history that features are made of: as many as the T5 reads
DECAY = 0.8  # weight of an item relative to the next newer one, as the transition baseline has it
# Days after the history's last: about a year, a season, a month, a week and the day itself. Not tuned.
WINDOWS = ((-365, -90), (-90, -30), (-30, -7), (-7, 0), (0, 1))
# Besides the stage ``time``, these read the day on which a history ends.
TOTALS = ("log: soon a total, 5", f"log: together a root of totals, {READ}", "item: total")
DAYS = 2_000_000  # more than the days that a log may have: an event is item row * DAYS + day

LABELS = {"same brand": "brand", "same category": "categories"}  # features, and the columns that they compare

Feature = tuple[str, np.ndarray]


@dataclass
class RankingBatch:
    """Histories and their candidates, with the scores of the first stages.

    Args:
        histories: n sequences of item rows.
        rows: int [n, C], candidates per history; -1: none.
        size: number of items.
        beams, scores: int and float [n, K], the T5's proposals.
    """

    histories: Sequences
    rows: np.ndarray
    size: int
    beams: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        self.wanted = np.maximum(self.rows, 0)
        self.read = self.histories.keep_last(READ)
        self.soon = np.zeros((len(self.read), 0), dtype=np.float32)  # followers, as the features of the log leave it
        self.users, self.empty = self.read.users, self.read.lengths == 0
        # An empty history has no last item: row -1, of which nothing is known.
        self.last = np.where(self.empty, -1, np.append(self.read.items, -1)[self.read.offsets[1:] - 1])
        self.ages = self.read.ages
        weights = {"last": self.ages == 0, "5": (self.ages < 5) * DECAY**self.ages, f"{READ}": np.ones(len(self.ages))}
        self.weights = {span: weight.astype(np.float32) for span, weight in weights.items()}

    def aggregate(self, values: np.ndarray, span: str, reduce=np.add) -> np.ndarray:
        """Sum over each history with a span's weights: [events, C] to [n, C]."""
        values = values * self.weights[span][:, None]
        # reduceat gives an empty history the next one's first value.
        padding = np.zeros((1, values.shape[1]), dtype=values.dtype)
        summed = reduce.reduceat(np.concatenate([values, padding]), self.read.offsets[:-1], axis=0)
        summed[self.empty] = 0
        return summed

    def broadcast(self, values: np.ndarray) -> np.ndarray:
        """Repeat a value per history for each candidate: [n] to [n, C]."""
        return np.broadcast_to(values[:, None], self.rows.shape)

    @cached_property
    def profiles(self) -> dict[str, sparse.csr_matrix]:
        """Histories as weighted sums of items, [n, items], for each span."""
        # In float64, scipy would copy the table of vectors to float64 for each batch.
        recent = (self.ages < 3) * np.power(0.6, self.ages, dtype=np.float32)
        spans = {"last": self.weights["last"], "3": recent, f"{READ}": self.weights[f"{READ}"]}
        shape = len(self.read), self.size
        return {
            span: sparse.csr_matrix((weights, self.read.items, self.read.offsets), shape=shape)
            for span, weights in spans.items()
        }


def reads_time(name: str) -> bool:
    """Whether the feature of this name is unknown where a history's end is."""
    return name.startswith("time: ") or name in TOTALS


class CandidateFeatures:
    """Computes the features of candidates.

    Args:
        items: the item table, ``item_id`` first.
        pairs: what the log says about pairs of items.
        events: int64 [m], ``item row * DAYS + day`` of each event of the log, ascending.
        cooccurrence: float32 [items, D], co-occurrence vectors of unit length.
        content: the words of the items' texts.
        codes: int32 [items, levels], the codes of the semantic IDs; None: no features of codes.
        vectors: float32 [items, D], content vectors of unit length; None: no features of them.

    Attributes:
        totals: float32 [items], events of the log, at least 5.
    """

    def __init__(
        self,
        items: pa.Table,
        pairs: PairTable,
        events: np.ndarray,
        cooccurrence: np.ndarray,
        content: Content,
        codes: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
    ):
        self._size, self._pairs, self._events, self._cooccurrence = items.num_rows, pairs, events, cooccurrence
        self._content, self._codes, self._vectors = content, codes, vectors
        rows = events // DAYS
        counts = np.bincount(rows, minlength=self._size)
        self.totals = np.maximum(counts, COUNT_FLOOR).astype(np.float32)
        self._has_days = counts > COUNT_FLOOR
        self._starts = Growing(np.searchsorted(rows, np.arange(self._size)))
        # The shortest two say where users go, the longest how many share all codes.
        lengths = [] if codes is None else sorted({1, min(2, codes.shape[1]), codes.shape[1]})
        self._prefixes = [] if codes is None else [PrefixGroups(codes, length) for length in lengths]
        soon = pairs.only("soon") if self._prefixes else pairs
        self._moves = [soon.grouped(prefixes.groups) for prefixes in self._prefixes[:2]]
        self._labels = {name: Growing(_labels(items, column)) for name, column in LABELS.items()}
        self._branches = Growing(_branches(items, "categories"))
        self._price = Growing(_logarithms(items, "price"))

    def extended(
        self,
        items: pa.Table,
        content: Content,
        cooccurrence: np.ndarray,
        codes: np.ndarray | None,
        vectors: np.ndarray | None,
    ) -> CandidateFeatures:
        """With more items behind the others, that have no events: ``items`` is their table, the rest is of all. Where
        users go from prefix to prefix stays as it was."""
        grown, known, new = copy.copy(self), self._size, items.num_rows
        grown._size, grown._content, grown._cooccurrence = known + new, content, cooccurrence
        grown._codes, grown._vectors = codes, vectors
        grown.totals = np.append(self.totals, np.full(new, COUNT_FLOOR, dtype=np.float32))
        grown._has_days = np.append(self._has_days, np.zeros(new, dtype=bool))
        grown._starts = self._starts.append(np.full(new, len(self._events)))
        if codes is not None:
            grown._prefixes = [prefixes.extended(codes[known:]) for prefixes in self._prefixes]
        grown._labels = {name: old.append(_labels(items, LABELS[name])) for name, old in self._labels.items()}
        grown._branches = self._branches.append(_branches(items, "categories"))
        grown._price = self._price.append(_logarithms(items, "price"))
        return grown

    def days(self, batch: RankingBatch) -> np.ndarray:
        """The day on which each history ends, int64 [n, 1]; 0 where it is unknown."""
        return batch.histories.ends.astype(np.int64)[:, None] // SECONDS_PER_DAY

    def totals_until(self, rows: np.ndarray, days: np.ndarray) -> np.ndarray:
        """float32 of the broadcast shape: events of items ``rows`` up to and on ``days``, at least 5."""
        end = np.searchsorted(self._events, rows * np.int64(DAYS) + days + 1)
        return np.maximum(end - self._starts.values[rows], COUNT_FLOOR).astype(np.float32)

    @cached_property
    def names(self) -> list[str]:
        """Names of the features, each after its stage."""
        nobody = Sequences(np.zeros(2, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64))
        nothing = np.empty((1, 0), dtype=np.int64)
        return [name for name, _ in self._features(RankingBatch(nobody, nothing, self._size, nothing, nothing))]

    def compute(self, batch: RankingBatch) -> np.ndarray:
        """float32 [n, C, F], in the order of :attr:`names`; NaN: unknown."""
        return np.stack([values for _, values in self._features(batch)], axis=-1).astype(np.float32)

    def _features(self, batch: RankingBatch) -> Iterator[Feature]:
        stages = {"log": self._of_log, "text": self._of_text, "item": self._of_item}
        stages |= {"codes": self._of_codes, "time": self._of_time, "t5": self._of_t5}
        unknown = (batch.histories.ends <= 0)[:, None]
        some = bool(unknown.any())
        for stage, features in stages.items():
            for feature, values in features(batch):
                name = f"{stage}: {feature}"
                yield name, np.where(unknown, np.nan, values) if some and reads_time(name) else values

    def _of_log(self, batch: RankingBatch) -> Iterator[Feature]:
        facts = self._pairs.padded[self._pairs.find(batch.read.items[:, None], batch.wanted[batch.users])]
        batch.soon = batch.aggregate(facts[..., PairTable.FACTS.index("soon")], "5")
        by_fact = {fact: facts[..., place] for place, fact in enumerate(PairTable.FACTS)}
        for fact, values in by_fact.items():
            for span in batch.weights:
                yield f"{fact}, {span}", batch.aggregate(values, span)
        days = self.days(batch)
        own = self.totals_until(batch.read.items[:, None], days[batch.users])
        yield "soon a total, 5", batch.aggregate(by_fact["soon"] / own, "5")
        roots = np.sqrt(own * self.totals_until(batch.wanted, days)[batch.users])
        yield f"together a root of totals, {READ}", batch.aggregate(by_fact["together"] / roots, f"{READ}")
        yield "soon, logarithms, 5", batch.aggregate(np.log1p(by_fact["soon"]), "5")
        yield from _alike("company", self._cooccurrence, batch)

    def _of_text(self, batch: RankingBatch) -> Iterator[Feature]:
        last, recent, read = self._content.similarity_to(batch.wanted, *batch.profiles.values())
        yield "words, 3", recent
        yield "hybrid", recent + TRANSITION_WEIGHT * batch.soon
        yield "words, last", last
        yield f"words, {READ}", read
        if self._vectors is not None:
            yield from _alike("vectors", self._vectors, batch)

    def _of_item(self, batch: RankingBatch) -> Iterator[Feature]:
        wanted, last, price = batch.wanted, batch.last, self._price.values
        yield "total", np.log(self.totals_until(wanted, self.days(batch)))
        for name, labels in ((name, column.values) for name, column in self._labels.items()):
            known = np.where(last < 0, -1, labels[last])[:, None]
            yield name, (labels[wanted] == known) & (known >= 0)
        yield "price", price[wanted]
        yield "price to last", price[wanted] - np.where(last < 0, np.float32(np.nan), price[last])[:, None]
        for name, labels in ((name, column.values) for name, column in self._labels.items()):
            own = labels[batch.read.items][:, None]
            same = (labels[wanted][batch.users] == own) & (own >= 0)
            yield f"{name}, {READ}", batch.aggregate(same.astype(np.float32), f"{READ}")
        branches = self._branches.values[wanted][batch.users]
        same = (branches == self._branches.values[batch.read.items][:, None]) & (branches >= 0)
        shared = np.cumprod(same, axis=-1).sum(-1)
        yield "branches shared with last", batch.aggregate(shared, "last")
        lengths = np.maximum(batch.read.lengths, 1)[:, None]
        yield f"branches shared, {READ}", batch.aggregate(shared, f"{READ}") / lengths
        yield "history length", batch.broadcast(batch.read.lengths)

    def _of_codes(self, batch: RankingBatch) -> Iterator[Feature]:
        for length, (prefixes, moves) in enumerate(zip(self._prefixes, self._moves), start=1):
            groups = prefixes.groups
            first = groups[batch.read.items]
            values = moves.padded[moves.find(first[:, None], groups[batch.wanted][batch.users])]
            share = values[..., moves.facts.index("soon")] / moves.leaving(first)[:, None]
            for span in ("last", "5"):
                yield f"moves of prefixes of {length}, {span}", batch.aggregate(share, span)
        if self._codes is not None:
            same = self._codes[batch.read.items][:, None] == self._codes[batch.wanted][batch.users]
            shared = np.cumprod(same, axis=-1).sum(-1)
            yield "shared with last", batch.aggregate(shared, "last")
            yield f"most shared, {READ}", batch.aggregate(shared, f"{READ}", np.maximum)
            yield "items under the prefix", np.log(self._prefixes[-1].counts[self._prefixes[-1].groups[batch.wanted]])

    def _of_time(self, batch: RankingBatch) -> Iterator[Feature]:
        wanted, days = batch.wanted, self.days(batch)
        until = {
            day: np.searchsorted(self._events, wanted * np.int64(DAYS) + (days + day))
            for day in {*sum(WINDOWS, ()), 1}
        }
        known = self._has_days[wanted]
        for start, end in WINDOWS:
            yield f"events from day {start} to {end}", np.where(known, np.log1p(until[end] - until[start]), np.nan)
        # Among the events up to the history's end, if there are any.
        first, last = self._starts.values[wanted], until[1] - 1
        known &= first <= last
        for name, place in (("first", first), ("last", last)):
            ago = days - self._events[np.where(known, place, 0)] % DAYS if len(self._events) else days
            yield f"days since its {name} event", np.where(known, ago, np.nan)
        for name, values in zip(("events on the history's last day", "days between its last two"), _pace(batch.read)):
            yield name, batch.broadcast(values)

    def _of_t5(self, batch: RankingBatch) -> Iterator[Feature]:
        among = place = np.zeros(batch.rows.shape, dtype=bool)
        log_probs = np.full(batch.rows.shape, np.nan)
        if batch.beams.shape[1]:
            same = (batch.rows[:, :, None] == batch.beams[:, None, :]) & (batch.rows >= 0)[:, :, None]
            among, place = same.any(axis=-1), same.argmax(axis=-1)
            log_probs = np.take_along_axis(batch.scores, place, axis=1)
        yield "log-probability", np.where(among, log_probs, np.nan)
        yield "place", np.where(among, place, np.nan)


@torch.autocast("cpu", enabled=False)  # the T5's bfloat16 is not for these
def _alike(name: str, vectors: np.ndarray, batch: RankingBatch) -> list[Feature]:
    """Products of candidates' vectors with each profile of the history; and the largest with an item of it, 0 where
    it is empty."""
    own = torch.from_numpy(vectors[batch.wanted])
    sums = np.stack([profile @ vectors for profile in batch.profiles.values()], axis=2).astype(np.float32)
    found = dict(zip(batch.profiles, (own @ torch.from_numpy(sums)).unbind(2)))
    rows = torch.from_numpy(pad_rows(list(batch.read)))
    single = own @ torch.from_numpy(vectors)[rows.clamp(min=0)].transpose(1, 2)
    most = single.masked_fill((rows < 0)[:, None], -torch.inf).amax(2)
    found["most alike"] = most.masked_fill(most == -torch.inf, 0)
    return [(f"{name}, {span}", values.numpy()) for span, values in found.items()]


def _pace(histories: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Of each history, float32 [n]: events on its last day, days from the one before to it; NaN where unknown."""
    days, users = histories.timestamps // SECONDS_PER_DAY, histories.users
    last = np.append(days, 0)[histories.offsets[1:] - 1]
    count = np.bincount(users[days == last[users]], minlength=len(histories)).astype(np.float32)
    gap = last - np.append(days, [0, 0])[histories.offsets[1:] - 2]
    unknown = (histories.lengths == 0) | (last <= 0)
    return np.where(unknown, np.nan, count), np.where(unknown | (histories.lengths < 2), np.nan, gap)


def _labels(items: pa.Table, name: str) -> np.ndarray:
    """int64 [items]: a hash of a column's value, the same for equal values; -1 where it is empty or absent."""
    import pandas as pd

    if name not in items.column_names:
        return np.full(items.num_rows, -1)
    values = np.array([_word(value) for value in items[name].to_pylist()], dtype=object)
    hashes = (pd.util.hash_array(values, categorize=False) >> np.uint64(1)).astype(np.int64)
    return np.where(values == "", -1, hashes)


def _branches(items: pa.Table, name: str, depth: int = 5) -> np.ndarray:
    """int64 [items, depth]: a number for each distinct value on a path such as ``Beauty > Hair``; -1: it has ended."""
    found = np.full((items.num_rows, depth), -1)
    if name not in items.column_names:
        return found
    for row, value in enumerate(items[name].to_pylist()):
        if isinstance(value, str):
            value = value.split(" > ")
        parts = [word for part in (value if isinstance(value, list) else [value]) if (word := _word(part))]
        found[row, : len(parts)] = [zlib.crc32(part.encode()) for part in parts[:depth]]
    return found


def _word(value: object) -> str:
    """A value of a cell as text; empty for null, NaN and blanks."""
    text = "" if value is None or value != value else str(value)
    return text if text.strip() else ""


def _logarithms(items: pa.Table, name: str) -> np.ndarray:
    """float32 [items]: log(1 + value) of a column of numbers; NaN where there is none, ``"$9.99"`` for instance."""
    import pandas as pd

    if name not in items.column_names:
        return np.full(items.num_rows, np.nan, dtype=np.float32)
    values = pd.to_numeric(items[name].to_pandas(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.log1p(np.where((values >= 0) & np.isfinite(values), values, np.nan)).astype(np.float32)


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
