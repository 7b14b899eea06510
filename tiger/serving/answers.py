"""Answers to requests that share a batch: histories together through the recommender, answers to each its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tiger.recommender.filters import CompiledFilter
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search import SearchOptions
from tiger.serving.live import Snapshot, UnknownItems, all_finite, unknown_items
from tiger.serving.query import FILTER_LIMITS, Query, QueryBatch
from tiger.utils.errors import DataError


class NonFiniteScores(RuntimeError):
    """The model has scored items NaN or infinite: there is no order to serve."""


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
        snapshot: what answered.
        items: item ids, best first.
        scores: one per item.
        unknown: items of the history that the catalog lacks; they were left out.
        batch: histories that were answered together.
        span: OpenTelemetry's context of the batch's span; None: it has none.
        filter: what the request's filter allows; None: it has none.
    """

    snapshot: Snapshot = field(repr=False)
    items: list[list[str]]
    scores: list[list[float]]
    unknown: list[list[str]]
    batch: int
    span: Any = field(default=None, repr=False)
    filter: CompiledFilter | None = field(default=None, repr=False)


def answer_recommend(
    snapshot: Snapshot, call: RecommendCall, queries: Sequence[Query]
) -> list[Answer | DataError | NonFiniteScores]:
    """Answer requests in one batch; those of which nobody knows the times, too."""
    read = [_read(snapshot.recommender, query) for query in queries]
    together = _together(read)
    if not together.histories:
        return _divided(snapshot, read, [], [])
    items, scores = snapshot.recommender.recommend(
        together.histories,
        call.k,
        timestamps=together.timestamps,
        at=together.at,
        rank=call.rank,
        unseen_share=call.unseen_share,
        user_ids=together.users if any(user is not None for user in together.users) else None,
        filter=together.filters if any(one is not None for one in together.filters) else None,
        **asdict(call.search),
    )
    filled = [values[: len(found)] for values, found in zip(scores.tolist(), items)]  # the rest is -inf
    return _divided(snapshot, read, items, filled)


def answer_rank(snapshot: Snapshot, queries: Sequence[Query]) -> list[Answer | DataError | NonFiniteScores]:
    """Order candidates of requests in one batch; an unknown candidate is an error."""
    read = [_read(snapshot.recommender, query) for query in queries]
    together = _together(read)
    if not together.candidates:
        return _divided(snapshot, read, [], [])
    items, scores = snapshot.recommender.rank(
        together.histories, together.candidates, timestamps=together.timestamps, at=together.at
    )
    return _divided(snapshot, read, items, [values.tolist() for values in scores])


def _together(read: list) -> QueryBatch:
    return QueryBatch.of(one[0] for one in read if not isinstance(one, DataError))


def _divided(snapshot: Snapshot, read: list, items: list[list[str]], scores: list[list[float]]) -> list:
    """Split the answers by request; one with a score that is not finite becomes an error."""
    answers, start = [], 0
    for one in read:
        if not isinstance(one, DataError):
            part = slice(start, start + len(one[0].histories))
            start = part.stop
            if all(map(all_finite, scores[part])):
                one = Answer(snapshot, items[part], scores[part], one[1], len(items), filter=one[0].filter)
            else:
                one = NonFiniteScores("scores of a request are NaN or infinite: the model or the ranker is damaged")
        answers.append(one)
    return answers


def _read(recommender: TigerRecommender, query: Query) -> DataError | tuple[Query, list[list[str]]]:
    """The query without the histories' unknown items and their times, with its filter compiled, and those items; or an
    error."""
    if unknown := unknown_items(recommender, [item for wanted in query.candidates for item in wanted]):
        return UnknownItems(unknown)
    if query.filter is not None:
        try:
            compiled = recommender.state.filters.compile(query.filter, FILTER_LIMITS)
        except DataError as error:
            return error
        if query.strict and compiled.unknown:
            return UnknownItems(compiled.unknown)
        query = replace(query, filter=compiled)
    found = [unknown_items(recommender, history) for history in query.histories]
    if query.strict and any(found):
        return UnknownItems([item for one in found for item in one])
    return query.without(found) if any(found) else query, found
