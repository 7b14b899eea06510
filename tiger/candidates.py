"""What a log, the texts and the codes say about items that may come next: candidates, and a column a fact.

The first stage proposes: the T5's beams, and what the training-free hybrid finds. Each proposal is then described by
columns: how often it followed, preceded or accompanied the items of the history, how near its text is, how alike its
codes are, how often the log moves between their prefixes, when it was bought, what the T5 thinks of it. A ranker that
is learned from targets (:mod:`tiger.two_stage`) makes an order of that.

Four rules keep the columns honest; a test guards each:

* *No item order.* Row numbers are addresses and nothing else: item tables are often sorted by a product code.
* *No count below 5.* Where every item was filtered to have five events, a lower count in training betrays that an
  event was held out, so totals enter as ``max(count, 5)``, and items of 5 events or fewer have no days.
* *Training's log alone.* A history is read up to its end; everything else comes from what :meth:`Candidates.fit` got.
* *Days end with the history.* A log that is split by leaving out each user's last items goes on after most histories.
  What is bought then is known to no one who is asked for the next item today, so columns of days don't count it.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from safetensors.numpy import load_file, save
from scipy import sparse
from tqdm.auto import tqdm

from tiger.baselines import COUNT_FLOOR, Content, recency
from tiger.data import SECONDS_PER_DAY, Sequences
from tiger.embeddings import item_texts
from tiger.examples import pad_rows
from tiger.files import write_atomically
from tiger.log_vectors import log_vectors
from tiger.pair_table import PairTable

READ = 20  # items of a history that columns are made of
DECAY = 0.8  # weight of an item relative to the next newer one
WINDOWS = ((-365, -90), (-90, -30), (-30, -7), (-7, 0), (0, 1))  # days after the history's last
_CHUNK = 512
_DAYS = 100_000  # more days than any log has


@dataclass
class Proposals:
    """Candidates and what is known of them.

    Args:
        rows: int32 [n, C], item rows, each at most once a history; -1: none. Best first by the source, so that equals
            of the ranker keep a sensible order.
        columns: float32 [n, C, F]; NaN: unknown.
    """

    rows: np.ndarray
    columns: np.ndarray


class Candidates:
    """Proposes items after a history, and says what there is to say about each.

    Made by :meth:`fit`.

    Args:
        items: the item table, ``item_id`` first.
        pairs: what the log says about pairs of items.
        events: int64 [m], ``item row * 100,000 + day`` of each event of the log, ascending.
        company: float [items, D], items by the company they keep, see :func:`tiger.log_vectors.log_vectors`.
        codes: int [items, levels], the codes of the semantic IDs; None: no columns of codes.
        vectors: float [items, D], content vectors; None: no columns of them.
        num_proposed: how many are proposed; the T5's beams come on top.
    """

    def __init__(
        self,
        items: pa.Table,
        pairs: PairTable,
        events: np.ndarray,
        company: np.ndarray,
        codes: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
        num_proposed: int = 150,
    ):
        self.items, self.pairs, self.events, self.num_proposed = items, pairs, events, num_proposed
        self.codes = None if codes is None else np.asarray(codes, dtype=np.int32)
        self.vectors = None if vectors is None else _unit(np.asarray(vectors, dtype=np.float32))
        self.company = np.array(company, dtype=np.float32)
        alone = ~self.company.any(axis=1)
        # Zeros would mark the items that training lacks; on 5-core data all of their events are held out.
        self.company[alone] = self.company.mean(axis=0, where=~alone[:, None]) if not alone.all() else 0
        size, rows = items.num_rows, events // _DAYS
        self._last_day = int((events % _DAYS).max(initial=0))
        self._totals = np.maximum(np.bincount(rows, minlength=size), COUNT_FLOOR).astype(np.float32)
        log = Sequences(np.array([0, len(rows)]), rows.astype(np.int32), events % _DAYS)
        # Items that were added by their vectors, or by texts that are in no table, have no words.
        self._content = Content().fit(log, item_texts(items, required=False))
        order = self._content.popularity.order
        first, second = np.divmod(pairs.keys, size)
        soon, together = (
            sparse.csr_matrix((pairs.values[:, PairTable.FACTS.index(fact)], (first, second)), shape=(size, size))
            for fact in ("soon", "together")
        )
        scale = sparse.diags(self._totals**-0.5)
        self._soon, self._soon_log = soon[:, order], soon.log1p()[:, order]
        self._together = (scale @ together @ scale).tocsr()[:, order].astype(np.float32)
        self._prefixes = (
            [] if codes is None else [_groups(self.codes[:, :end]) for end in range(1, self.codes.shape[1] + 1)]
        )
        if self._prefixes:
            self._crowd = np.log(np.bincount(self._prefixes[-1])[self._prefixes[-1]])
        self._moves = [pairs.grouped(groups) for groups in self._prefixes[:2]]
        self._brand, self._category = (_labels(items, name) for name in ("brand", "categories"))
        self._branches = _branches(items, "categories")
        self._price = _logarithms(items, "price")
        self._starts = np.searchsorted(rows, np.arange(size))
        self._has_days = np.bincount(rows, minlength=size) > COUNT_FLOOR

    @classmethod
    def fit(cls, train: Sequences, items: pa.Table, **options) -> Candidates:
        """Count what there is to count in a training log."""
        events = np.sort(train.items.astype(np.int64) * _DAYS + train.timestamps // SECONDS_PER_DAY)
        company = log_vectors(train, items.num_rows)
        return cls(items, PairTable.fit(train, items.num_rows, READ), events, company, **options)

    def __len__(self) -> int:
        return self.items.num_rows

    @property
    def names(self) -> list[str]:
        """What the columns are called, each after the stage that it comes from: log, text, item, codes, time or t5."""
        spans = ("last", "5", f"{READ}")
        names = [f"log: {fact}, {span}" for fact in PairTable.FACTS for span in spans]
        names += ["log: soon a total, 5", f"log: together a root of totals, {READ}", "log: soon, logarithms, 5"]
        names += ["log: company, last", "log: company, 3", f"log: company, {READ}", "log: company, most alike"]
        names += ["text: words, 3", "text: hybrid", "text: words, last", f"text: words, {READ}"]
        if self.vectors is not None:
            names += ["text: vectors, last", "text: vectors, 3", f"text: vectors, {READ}", "text: vectors, most alike"]
        names += ["item: total", "item: same brand", "item: same category", "item: price", "item: price to last"]
        names += [f"item: same brand, {READ}", f"item: same category, {READ}"]
        names += ["item: branches shared with last", f"item: branches shared, {READ}", "item: history length"]
        for length in range(1, len(self._moves) + 1):
            names += [f"codes: moves of prefixes of {length}, {span}" for span in ("last", "5")]
        if self.codes is not None:
            names += ["codes: shared with last", f"codes: most shared, {READ}", "codes: items under the prefix"]
        names += [f"time: events from day {start} to {end}" for start, end in WINDOWS]
        names += ["time: days since its first event", "time: days since its last event"]
        names += ["time: events on the history's last day", "time: days between its last two"]
        return names + ["t5: log-probability", "t5: place"]

    def propose(
        self,
        histories: Sequences,
        beams: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        exclude_history: bool = True,
        progress: bool = False,
    ) -> Proposals:
        """Candidates of each history, the log's and the texts' first, then what the beams add.

        Args:
            histories: n sequences of item rows; a timestamp of 0 stands for the last day of the log.
            beams: int [n, K], what the T5 proposes, best first, -1 where nothing; None: no T5.
            scores: float [n, K], its log-probabilities.
            exclude_history: leave out items of the history.
        """
        if beams is None:
            beams, scores = np.full((len(histories), 0), -1), np.empty((len(histories), 0), dtype=np.float32)
        width = min(self.num_proposed, len(self)) + beams.shape[1]
        rows = np.full((len(histories), width), -1, dtype=np.int32)
        columns = np.empty((len(histories), width, len(self.names)), dtype=np.float32)
        for start in tqdm(range(0, len(histories), _CHUNK), desc="candidates", unit="chunk", disable=not progress):
            users = np.arange(start, min(start + _CHUNK, len(histories)))
            part = histories.select(users)
            words = self._words(part)
            own = self._search(part, words, exclude_history)
            found = np.concatenate([own, beams[users]], axis=1).astype(np.int32)
            found[_repeated(found)] = -1
            rows[users] = found
            columns[users] = self._describe(part, found, words, beams[users], scores[users])
        return Proposals(rows, columns)

    def without_beams(self, proposals: Proposals) -> Proposals:
        """The same as if there had been no T5."""
        own, columns = min(self.num_proposed, len(self)), proposals.columns.copy()
        columns[..., [number for number, name in enumerate(self.names) if name.startswith("t5")]] = np.nan
        return Proposals(proposals.rows[:, :own], columns[:, :own])

    def describe(self, histories: Sequences, rows: np.ndarray) -> Proposals:
        """Columns of given candidates, int [n, C], -1: none; those of the T5 are unknown."""
        rows, parts = np.asarray(rows, dtype=np.int32), []
        for start in range(0, len(histories), _CHUNK):
            users = np.arange(start, min(start + _CHUNK, len(histories)))
            part, none = histories.select(users), np.empty((len(users), 0))
            parts.append(self._describe(part, rows[users], self._words(part), none, none))
        return Proposals(rows, np.concatenate(parts))

    def _words(self, histories: Sequences) -> dict[str, np.ndarray]:
        """Scores [n, items] of the training-free stages, columns in the order of popularity."""
        words = self._content._scores(histories)
        return {
            "words": words,
            "hybrid": words + 0.5 * (recency(histories, 5, DECAY, len(self)) @ self._soon).toarray(),
        }

    def _search(self, histories: Sequences, words: dict[str, np.ndarray], exclude_history: bool) -> np.ndarray:
        """Rows [n, num_proposed]: two thirds the hybrid's best, the rest by the same with the log's counts damped."""
        order, place = self._content.popularity.order, self._content.popularity.place
        hybrid, kin = words["hybrid"].copy(), words["words"].copy()
        kin += 0.8 * (recency(histories, 5, DECAY, len(self)) @ self._soon_log).toarray()
        kin += 3 * (recency(histories, READ, DECAY, len(self)) @ self._together).toarray()
        if exclude_history:
            for values in (hybrid, kin):
                values[histories.users, place[histories.items]] = -np.inf
        count, found = min(self.num_proposed, len(self)), []
        first = count * 2 // 3
        for values, wanted in ((hybrid, first), (kin, count - first)):
            best = torch.topk(torch.from_numpy(values), wanted, dim=1)
            # An item of the history may fill up a catalogue that is smaller than the list.
            found.append(np.where(best.values.numpy() == -np.inf, -1, order[best.indices.numpy()]))
            np.put_along_axis(kin, best.indices.numpy(), -np.inf, axis=1)
        return np.concatenate(found, axis=1)

    def _describe(self, histories, rows, words, beams, scores) -> np.ndarray:
        """Columns [n, C, F] of candidates ``rows`` [n, C], in the order of :attr:`names`."""
        wanted = np.maximum(rows, 0)
        read = histories.keep_last(READ)
        users = read.users
        ages = np.repeat(read.offsets[1:], read.lengths) - 1 - np.arange(len(read.items))
        weights = {"last": ages == 0, "5": (ages < 5) * DECAY**ages, f"{READ}": np.ones(len(ages))}
        weights = {span: weight.astype(np.float32) for span, weight in weights.items()}
        starts = read.offsets[:-1]
        empty = read.lengths == 0

        def over(values: np.ndarray, span: str, reduce=np.add) -> np.ndarray:
            """[events, C] to [n, C]: summed over a history with the span's weights."""
            values = values * weights[span][:, None]
            # reduceat gives an empty history the next one's first value.
            padding = np.zeros((1, values.shape[1]), dtype=values.dtype)
            summed = reduce.reduceat(np.concatenate([values, padding]), starts, axis=0)
            summed[empty] = 0
            return summed

        columns: list[np.ndarray] = []
        facts = self.pairs.padded[self.pairs.find(read.items[:, None], wanted[users])]
        by_fact = {fact: facts[..., place] for place, fact in enumerate(PairTable.FACTS)}
        columns += [over(by_fact[fact], span) for fact in PairTable.FACTS for span in weights]
        totals = self._totals[read.items][:, None]
        columns += [
            over(by_fact["soon"] / totals, "5"),
            over(by_fact["together"] / np.sqrt(totals * self._totals[wanted][users]), f"{READ}"),
            over(np.log1p(by_fact["soon"]), "5"),
        ]
        recent = (weights["last"], (ages < 3) * np.float32(0.6) ** ages, weights[f"{READ}"])
        profiles = [
            sparse.csr_matrix((span, read.items, read.offsets), shape=(len(read), len(self))) for span in recent
        ]
        columns += _alike(self.company, wanted, profiles, read)
        place = self._content.popularity.place
        columns += [np.take_along_axis(words[kind], place[wanted], axis=1) for kind in ("words", "hybrid")]
        for profile in (profiles[0], profiles[2]):
            columns.append(np.take_along_axis(self._content.similarity(profile), place[wanted], axis=1))
        if self.vectors is not None:
            columns += _alike(self.vectors, wanted, profiles, read)
        # An empty history has no last item: row -1, of which nothing is known.
        last = np.where(empty, -1, np.append(read.items, -1)[read.offsets[1:] - 1])
        columns.append(np.log(self._totals)[wanted])
        for labels in (self._brand, self._category):
            known = np.append(labels, -1)[last][:, None]
            columns.append((labels[wanted] == known) & (known >= 0))
        columns += [self._price[wanted], self._price[wanted] - np.append(self._price, np.nan)[last][:, None]]
        for labels in (self._brand, self._category):
            own = labels[read.items][:, None]
            columns.append(over(((labels[wanted][users] == own) & (own >= 0)).astype(np.float32), f"{READ}"))
        branches = self._branches[wanted][users]
        shared = np.cumprod((branches == self._branches[read.items][:, None]) & (branches >= 0), axis=-1).sum(-1)
        columns += [over(shared, "last"), over(shared, f"{READ}") / np.maximum(read.lengths, 1)[:, None]]
        columns.append(np.broadcast_to(np.minimum(histories.lengths, READ)[:, None], rows.shape))
        for moves, groups in zip(self._moves, self._prefixes):
            values = moves.padded[moves.find(groups[read.items][:, None], groups[wanted][users])]
            share = values[..., PairTable.FACTS.index("soon")] / moves.leaving[groups[read.items]][:, None]
            columns += [over(share, span) for span in ("last", "5")]
        if self.codes is not None:
            shared = np.cumprod(self.codes[read.items][:, None] == self.codes[wanted][users], axis=-1).sum(-1)
            columns += [over(shared, "last"), over(shared, f"{READ}", np.maximum)]
            columns.append(self._crowd[wanted])
        days = np.append(histories.timestamps, 0)[histories.offsets[1:] - 1]
        days = np.where(empty | (days <= 0), self._last_day, days // SECONDS_PER_DAY).astype(np.int64)[:, None]
        until = {
            day: np.searchsorted(self.events, wanted * np.int64(_DAYS) + (days + day))
            for day in {*sum(WINDOWS, ()), 1}
        }
        known = self._has_days[wanted]
        columns += [np.where(known, np.log1p(until[end] - until[start]), np.nan) for start, end in WINDOWS]
        first, last = self._starts[wanted], until[1] - 1  # among the events up to the history's end, if there are any
        known &= first <= last
        columns += [
            np.where(known, days - self.events[np.where(known, place, 0)] % _DAYS, np.nan) for place in (first, last)
        ]
        columns += [np.broadcast_to(value[:, None], rows.shape) for value in _pace(read)]
        columns += _beam_columns(rows, beams, scores)
        return np.stack(columns, axis=-1).astype(np.float32)

    def moved(
        self, items: pa.Table, where: np.ndarray, codes: np.ndarray | None, new_vectors: np.ndarray | None
    ) -> Candidates:
        """The same knowledge over another item table.

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
        rows, days = np.divmod(self.events, _DAYS)
        events = np.sort(now[rows[now[rows] >= 0]] * _DAYS + days[now[rows] >= 0])
        company, vectors = _carried(self.company, where), self.vectors
        if vectors is not None:
            vectors = _carried(vectors, where)
            if (where < 0).any():
                vectors[where < 0] = new_vectors
        return Candidates(items, pairs, events, company, codes, vectors, self.num_proposed)

    def save(self, file: str | os.PathLike) -> None:
        """What was counted, as safetensors; the items, codes and vectors lie with the recommender."""
        counted = {"keys": self.pairs.keys, "values": self.pairs.values, "events": self.events}
        write_atomically(file, save(counted | {"company": self.company}))

    @classmethod
    def load(cls, file: str | os.PathLike, items: pa.Table, **options) -> Candidates:
        """Read what :meth:`save` wrote; the rest as for the class."""
        counted = load_file(file)
        pairs = PairTable(counted["keys"], counted["values"], items.num_rows)
        return cls(items, pairs, counted["events"], counted["company"], **options)


def _beam_columns(rows: np.ndarray, beams: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """For candidates [n, C]: their log-probability and place among the beams [n, K]; NaN where they are not."""
    same = (rows[:, :, None] == beams[:, None, :]) & (rows >= 0)[:, :, None]
    if not beams.shape[1]:
        return [np.full(rows.shape, np.nan)] * 2
    among, place = same.any(axis=-1), same.argmax(axis=-1)
    return [np.where(among, values, np.nan) for values in (np.take_along_axis(scores, place, axis=1), place)]


@torch.autocast("cpu", enabled=False)  # the T5's bfloat16 is not for these
def _alike(
    vectors: np.ndarray, wanted: np.ndarray, profiles: list[sparse.csr_matrix], histories: Sequences
) -> list[np.ndarray]:
    """Products of candidates' vectors, ``wanted`` int [n, C], with each profile of the history; and the largest with
    an item of it, 0 where it is empty."""
    own = torch.from_numpy(vectors[wanted])
    weighted = torch.from_numpy(np.stack([profile @ vectors for profile in profiles], axis=2).astype(np.float32))
    found = list((own @ weighted).unbind(2))
    rows = torch.from_numpy(pad_rows(list(histories)))
    single = own @ torch.from_numpy(vectors)[rows.clamp(min=0)].transpose(1, 2)
    most = single.masked_fill((rows < 0)[:, None], -torch.inf).amax(2)
    return [values.numpy() for values in (*found, most.masked_fill(most == -torch.inf, 0))]


def _pace(histories: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Of each history, float32 [n]: events on its last day, days from the one before to it; NaN where unknown."""
    days, users = histories.timestamps // SECONDS_PER_DAY, histories.users
    last = np.append(days, 0)[histories.offsets[1:] - 1]
    count = np.bincount(users[days == last[users]], minlength=len(histories)).astype(np.float32)
    gap = last - np.append(days, [0, 0])[histories.offsets[1:] - 2]
    unknown = (histories.lengths == 0) | (last <= 0)
    return np.where(unknown, np.nan, count), np.where(unknown | (histories.lengths < 2), np.nan, gap)


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


def _groups(codes: np.ndarray) -> np.ndarray:
    """int64 [items]: which items share all of these codes."""
    return np.unique(codes, axis=0, return_inverse=True)[1].ravel()


def _labels(items: pa.Table, name: str) -> np.ndarray:
    """int64 [items]: a number for each distinct value of a column; -1 where it is empty or absent."""
    if name not in items.column_names:
        return np.full(items.num_rows, -1)
    values = [str(value) if value else "" for value in items[name].to_pylist()]
    found, labels = np.unique(values, return_inverse=True)
    return np.where(found[labels] == "", -1, labels)


def _branches(items: pa.Table, name: str, depth: int = 5) -> np.ndarray:
    """int64 [items, depth]: a number for each distinct value on a path such as ``Beauty > Hair``; -1: it has ended."""
    found = np.full((items.num_rows, depth), -1)
    if name not in items.column_names:
        return found
    for row, value in enumerate(items[name].to_pylist()):
        parts = value.split(" > ") if isinstance(value, str) else [str(part) for part in value or []]
        found[row, : len(parts)] = [zlib.crc32(part.encode()) for part in parts[:depth]]
    return found


def _logarithms(items: pa.Table, name: str) -> np.ndarray:
    """float32 [items]: log(1 + value) of a column of numbers; NaN where there is none, ``"$9.99"`` for instance."""
    if name not in items.column_names:
        return np.full(items.num_rows, np.nan, dtype=np.float32)
    values = pd.to_numeric(items[name].to_pandas(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.log1p(np.where(values >= 0, values, np.nan)).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
