"""Endpoints of the service. They check requests on the event loop; a batcher's threads run the model.

``app.state`` holds what they share: ``live`` (:class:`LiveRecommender`), ``batcher`` (:class:`Batcher`), ``updates``
(the thread that updates the catalog) and ``pending_updates`` (what it has to do).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from safetensors import SafetensorError
from starlette.exceptions import HTTPException  # FastAPI's own is one of these, but not the other way round

from tiger.retriever.config import reads_users
from tiger.retriever.search_options import SearchOptions
from tiger.serving.answers import RecommendCall
from tiger.serving.batcher import QueueFull, Stopped
from tiger.serving.edge import FAILED, RECORD
from tiger.serving.item_columns import TooMuch, UnknownColumn, item_columns
from tiger.serving.live import Reloaded, ReloadFailed, SaveConflict, UnknownItems, Update
from tiger.serving.monitoring import Metrics
from tiger.serving.query import Query
from tiger.serving.responses import json_response, problem
from tiger.serving.schemas import (
    AddRequest,
    Item,
    ItemId,
    Problem,
    RankRequest,
    RecommendAnswer,
    RecommendRequest,
    ReloadAnswer,
    Updated,
)
from tiger.serving.service_log import RequestRecord
from tiger.utils.errors import DataError

MAX_UPDATES = 16  # updates that may wait; each holds its request body. Not tuned.
GONE = 499  # status of a request whose client did not wait for the answer, as nginx counts it; nobody receives it

_BATCH_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "Items or columns that the catalog lacks"},
    429: {"model": Problem, "description": "The queue is full, or this client sends too many"},
    503: {"model": Problem, "description": "The service is stopping"},
}
_UPDATE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    429: {"model": Problem, "description": "Too many updates are waiting, or this client sends too many"},
    503: {"model": Problem, "description": "The update could not be saved"},
}


def add_answer_routes(app: FastAPI, metrics: Metrics, batch_size: int, bf16: bool | None = None) -> None:
    """``POST /recommend`` and ``POST /rank``.

    Args:
        batch_size: histories per batch.
        bf16: precision of the search, as in :class:`SearchOptions`.
    """

    @app.post(
        "/recommend",
        response_model=RecommendAnswer,
        responses=_BATCH_PROBLEMS | {409: {"model": Problem, "description": "The model reads no users"}},
        summary="Items that may come next",
    )
    async def recommend(request: Request, body: RecommendRequest):
        if body.users is not None and not reads_users(app.state.live.now.recommender.model):
            return problem(409, "this model reads no users: leave the users out")
        query = Query(body.histories, body.strict, body.timestamps, body.at, users=body.users, filter=body.filter)
        return await _batched(request, metrics, recommend_call(body, batch_size, bf16), query, body.fields)

    @app.post(
        "/rank",
        response_model=RecommendAnswer,
        responses=_BATCH_PROBLEMS | {409: {"model": Problem, "description": "There is no ranker"}},
        summary="Candidates in order",
    )
    async def rank(request: Request, body: RankRequest):
        if app.state.live.now.recommender.ranker is None:
            return problem(409, "this recommender has no ranker: train one with recipes/ranker.py")
        histories, candidates = [one.history for one in body.lists], [one.candidates for one in body.lists]
        timestamps = [one.timestamps for one in body.lists]
        return await _batched(request, metrics, None, Query(histories, body.strict, timestamps, body.at, candidates))


def recommend_call(body: RecommendRequest, batch_size: int, bf16: bool | None) -> RecommendCall:
    """Settings of a request beside its histories; requests with equal settings may share a batch."""
    sampled = body.temperature is not None and body.seed is not None
    search = SearchOptions(
        num_beams=max(body.num_beams, body.k),
        exclude_history=body.exclude_history,
        temperature=body.temperature,
        seed=body.seed if sampled else None,
        batch_size=batch_size,
        bf16=bf16,
    )
    alone = id(body) if sampled else None
    return RecommendCall(body.k, body.rank, search, alone, unseen_share=body.unseen_share)


class ClientGone(Exception):
    """The client has closed the connection before it was answered."""


async def _unless_gone(request: Request, future: Future) -> Any:
    """The result of a future, which is cancelled if the client goes away: what nobody waits for leaves the queue.

    Raises:
        ClientGone: it has gone.
    """
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGone
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


async def _disconnect(request: Request) -> None:
    """Return when the client has gone; its whole request has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _batched(
    request: Request,
    metrics: Metrics,
    call: RecommendCall | None,
    query: Query,
    fields: list[str] | None = None,
) -> Response:
    """Answer a request in a batch with others; ``call`` None: rank."""
    query.check()  # what will fail is not queued
    if fields:
        item_columns(request.app.state.live.now.recommender, [], fields)
    try:
        lengths = list(map(len, query.histories))
        future = request.app.state.batcher.submit(call, query, len(lengths), max(lengths))
    except QueueFull:
        metrics.rejected.inc()
        return problem(429, "the queue is full: try again in a second", {"Retry-After": "1"})
    except Stopped:
        return problem(503, "the service is stopping")
    answer = await _unless_gone(request, future)
    record: RequestRecord = request.scope[RECORD]
    record.note_snapshot(answer.snapshot)
    record.batch, record.span = answer.batch, answer.span
    found = zip(answer.items, answer.scores, answer.unknown)
    rows = [{"items": items, "scores": scores, "unknown": unknown} for items, scores, unknown in found]
    if fields:
        # In a thread: large texts would keep other requests waiting.
        read = partial(item_columns, answer.snapshot.recommender, answer.items, fields)
        columns = await asyncio.get_running_loop().run_in_executor(request.app.state.parsers, read)
        rows = [row | {"fields": of_items} for row, of_items in zip(rows, columns)]
    content: dict[str, Any] = {"recommendations": rows, "catalogue": answer.snapshot.catalogue}
    if answer.filter is not None:
        content["filter"] = {"allowed": answer.filter.count, "unknown": list(answer.filter.unknown)}
    return json_response(content)


def add_read_routes(app: FastAPI) -> None:
    """``GET /items/ID``."""

    @app.get(
        "/items/{item_id:path}",
        response_model=Item,
        responses={404: {"model": Problem, "description": "No such item"}},
        summary="An item",
    )
    async def read_item(item_id: ItemId):
        snapshot = app.state.live.now
        tokenizer = snapshot.recommender.tokenizer
        (row,) = tokenizer.rows([item_id], missing=-1)
        if row < 0:
            raise UnknownItems([item_id])
        return json_response(
            {
                "item_id": item_id,
                "semantic_id": tokenizer.semantic_ids[row].tolist(),
                "unseen": bool(snapshot.recommender.unseen[row]),
                "fields": item_columns(snapshot.recommender, [[item_id]])[0][0],
                "catalogue": snapshot.catalogue,
            }
        )


def add_item_routes(app: FastAPI) -> None:
    """``POST /items`` and ``DELETE /items/ID``."""

    @app.post(
        "/items",
        response_model=Updated,
        responses=_UPDATE_PROBLEMS
        | {409: {"model": Problem, "description": "The recommender can't embed texts, or the directory was changed"}},
        summary="Add items",
    )
    async def add_items(request: Request, body: AddRequest):
        if (cannot_add := app.state.live.now.cannot_add) is not None:
            return problem(409, cannot_add)
        ids = [item.item_id for item in body.items]
        return await _updated(request, app.state.live.add, ids, [item.text for item in body.items])

    @app.delete(
        "/items/{item_id:path}",
        response_model=Updated,
        responses=_UPDATE_PROBLEMS
        | {
            404: {"model": Problem, "description": "No such item"},
            409: {"model": Problem, "description": "It is the last, or the directory was changed"},
        },
        summary="Remove an item",
    )
    async def remove_item(request: Request, item_id: ItemId):
        try:
            return await _updated(request, app.state.live.remove, item_id)
        except UnknownItems:
            raise
        except DataError as error:
            return problem(409, str(error))


def add_reload_route(app: FastAPI) -> None:
    """``POST /models/reload``."""

    @app.post(
        "/models/reload",
        response_model=ReloadAnswer,
        responses=_UPDATE_PROBLEMS
        | {409: {"model": Problem, "description": "The model can't be loaded, that of before still answers"}},
        summary="Load the model again from its directory",
    )
    async def reload(request: Request):
        return await _updated(request, app.state.reload)


async def _updated(request: Request, change: Callable[..., Update | Reloaded], *arguments) -> Response:
    """Run an update of the catalog in its thread."""
    pending: set[Future] = request.app.state.pending_updates
    pending.difference_update([future for future in pending if future.done()])
    if len(pending) >= MAX_UPDATES:
        return problem(429, f"{MAX_UPDATES} updates are waiting already: try again", {"Retry-After": "1"})
    try:
        future = request.app.state.updates.submit(change, *arguments)
        pending.add(future)
        done = await _unless_gone(request, future)
    except (OSError, SafetensorError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or error
        return problem(503, f"the update could not be saved ({why}), so it has not been made")
    return json_response(asdict(done))


def add_error_handlers(app: FastAPI) -> None:
    """Errors as JSON, ``{"error": "one line"}``."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()
        # The place and the reason, not the input: it may be long, or something that JSON can't hold.
        lines = [f"{'.'.join(map(str, one['loc']))[:200]}: {one['msg'][:200]}" for one in problems[:5]]
        return problem(422, "; ".join(lines))

    @app.exception_handler(DataError)
    async def wrong(request: Request, error: DataError) -> Response:
        return problem(422, str(error))

    @app.exception_handler(UnknownItems)
    @app.exception_handler(UnknownColumn)
    async def unknown(request: Request, error: DataError) -> Response:
        return problem(404, str(error))

    @app.exception_handler(SaveConflict)
    @app.exception_handler(ReloadFailed)
    async def conflict(request: Request, error: DataError) -> Response:
        return problem(409, str(error))

    @app.exception_handler(TooMuch)
    async def too_much(request: Request, error: TooMuch) -> Response:
        return problem(413, str(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return problem(GONE, "the client has gone")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return problem(500, FAILED)
