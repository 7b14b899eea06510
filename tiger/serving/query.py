"""Histories of a request, with times and candidates, and those of several requests together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

from tiger.data.filter_syntax import FilterLimits
from tiger.recommender.filters import CompiledFilter
from tiger.recommender.histories import read_moments, read_times

# Of a filter that a stranger may send; set by hand, not tuned. A hundred comparisons are read in 5 ms, once.
FILTER_LIMITS = FilterLimits(length=2_000, terms=100)


@dataclass(frozen=True)
class Query:
    """Histories of a request.

    Args:
        histories: item ids, oldest first.
        strict: whether unknown items are an error.
        timestamps: seconds of each history's events, None in place of a list, or of all: unknown.
        at: seconds at which recommendations are wanted; None: the time of the last event.
        candidates: item ids to order, a list per history; empty where there are none to order.
        users: user ids, one per history, None for an unknown user; None in their place: all are unknown.
        filter: of all its histories: an expression in words, the name of a filter, item ids, or compiled; None: none.
    """

    histories: list[list[str]]
    strict: bool = False
    timestamps: Sequence[Sequence[int] | None] | None = None
    at: int | None = None
    candidates: list[list[str]] = field(default_factory=list)
    users: Sequence[str | None] | None = None
    filter: str | list[str] | CompiledFilter | None = None

    def check(self) -> None:
        """
        Raises:
            DataError: times that don't fit the histories.
        """
        if self.timestamps is not None or self.at is not None:
            read_moments(self.at, read_times([len(history) for history in self.histories], self.timestamps))

    def without(self, items: Sequence[Collection[str]]) -> Query:
        """The same without these items of each history and their times."""
        kept = [[item not in out for item in history] for history, out in zip(self.histories, map(set, items))]
        histories = [list(compress(history, stay)) for history, stay in zip(self.histories, kept)]
        times = self.timestamps and [own and list(compress(own, stay)) for own, stay in zip(self.timestamps, kept)]
        return replace(self, histories=histories, timestamps=times)


@dataclass(frozen=True)
class QueryBatch:
    """Histories of several requests, with times, users and filters, where they have any, and candidates."""

    histories: list[list[str]]
    timestamps: list[Sequence[int] | None]
    at: list[int | None]
    candidates: list[list[str]]
    users: list[str | None]
    filters: list[str | list[str] | CompiledFilter | None]

    @classmethod
    def of(cls, queries: Iterable[Query]) -> QueryBatch:
        """The queries in their order."""
        queries = list(queries)
        return cls(
            [history for query in queries for history in query.histories],
            [times for query in queries for times in query.timestamps or [None] * len(query.histories)],
            [query.at for query in queries for _ in query.histories],
            [wanted for query in queries for wanted in query.candidates],
            [user for query in queries for user in query.users or [None] * len(query.histories)],
            [query.filter for query in queries for _ in query.histories],
        )
