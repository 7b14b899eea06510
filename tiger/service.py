"""A recommender over HTTP: requests share batches, and the catalogue changes without a pause.

The event loop reads and checks requests; the threads of a batcher, a batch each, run the model. No request names a
file, a repository or code.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from safetensors import SafetensorError
from starlette.exceptions import HTTPException  # FastAPI's own is one of these, but not the other way round

from tiger import __version__
from tiger.batching import Batcher, QueueFull, Stopped
from tiger.data import DataError
from tiger.live import LiveRecommender, RecommendCall, UnknownItems, Update, answer_rank, answer_recommend
from tiger.recommender import TigerRecommender
from tiger.search_options import SearchOptions

MAX_HISTORIES = 64
MAX_HISTORY = 1000
MAX_CANDIDATES = 1000
MAX_NEW_ITEMS = 256
MAX_K = 200
MAX_BEAMS = 500
MAX_BODY = 4 * 2**20
MAX_UPDATES = 16  # that wait; each holds its body

# JSON has one kind of number: 10.0 is a whole one too.
_AsWhole = BeforeValidator(lambda value: int(value) if type(value) is float and value % 1 == 0 else value)
# The bounds come before it, or the schema would not have them.
Count = Annotated[int, Field(ge=1, le=MAX_K), _AsWhole]
Beams = Annotated[int, Field(ge=1, le=MAX_BEAMS), _AsWhole]
Seed = Annotated[int, Field(ge=0, lt=2**63), _AsWhole]
ItemId = Annotated[str, Field(min_length=1, max_length=200)]
History = Annotated[list[ItemId], Field(max_length=MAX_HISTORY)]
Histories = Annotated[
    list[History],
    Field(min_length=1, max_length=MAX_HISTORIES, description="A list of item ids a user, oldest first; may be empty"),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RecommendRequest(_Body):
    """What may come next after each history."""

    histories: Histories
    k: Count = Field(10, description="Items a history")
    num_beams: Beams = Field(50, description="Candidates kept while decoding; at least k are")
    exclude_history: bool = Field(True, description="Leave out items of the history")
    rank: bool = Field(True, description="Let the ranker order the beams, where there is one")
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        None, description="Sample, more varied the higher"
    )
    seed: Seed | None = Field(None, description="Of sampling; such a request has a batch of its own")
    unseen_share: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Share of the places for items added since training"
    )
    strict: bool = Field(False, description="Refuse unknown items (404) instead of leaving them out")
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"histories": [["item-1", "item-2"], ["item-3"]], "k": 5}]}
    }


class Recommendation(BaseModel):
    """Items, best first, and their scores: the ranker's logits where it ordered them, else log-probabilities."""

    items: list[str]
    scores: list[float]
    unknown: list[str] = Field(description="Items of the history that the catalogue lacks; they were left out")


class RecommendAnswer(BaseModel):
    recommendations: list[Recommendation]
    catalogue: int = Field(description="How many updates the catalogue had seen")


class CandidateList(_Body):
    history: History
    candidates: list[ItemId] = Field(min_length=1, max_length=MAX_CANDIDATES)


class RankRequest(_Body):
    """Candidates to put in the order in which each history's owner may want them; unknown ones are an error (404)."""

    lists: list[CandidateList] = Field(min_length=1, max_length=MAX_HISTORIES)
    strict: bool = Field(False, description="Refuse unknown items of histories (404) instead of leaving them out")
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"lists": [{"history": ["item-1"], "candidates": ["item-2", "item-3"]}]}]}
    }


class NewItem(_Body):
    item_id: ItemId
    text: str = Field(min_length=1, max_length=20_000, pattern=r"\S", description="What the encoder embeds")


class AddRequest(_Body):
    """Items to recommend from now on. Those that are known already are left as they are."""

    items: list[NewItem] = Field(min_length=1, max_length=MAX_NEW_ITEMS)
    model_config = _Body.model_config | {
        "json_schema_extra": {"examples": [{"items": [{"item_id": "new-1", "text": "Title: Folding lantern"}]}]}
    }


class Updated(BaseModel):
    added: list[str]
    known: list[str] = Field(description="Items that were there before")
    removed: list[str]
    items: int = Field(description="Items in the catalogue now")
    catalogue: int = Field(description="How many updates it has seen")


class Health(BaseModel):
    live: bool
    ready: bool
    items: int
    catalogue: int = Field(description="How many updates the catalogue has seen")
    fingerprint: str = Field(description="Of the semantic IDs that the model was trained with")
    ranker: bool
    can_add: bool
    queued: int = Field(description="Histories that wait")
    versions: dict[str, str]


class Problem(BaseModel):
    error: str = Field(description="What is wrong, in one line")


@dataclass(frozen=True)
class ServiceSettings:
    """How a service batches and what it allows.

    Args:
        max_batch: histories in a batch.
        max_delay_ms: how long a request waits for company, at most, while a core is free.
        max_queue: histories that may wait; a request beyond is told to come again (429).
        bf16: run products in bfloat16: faster where the processor has them, scores differ in the third digit.
        read_only: no updates.
        save: where to write the recommender after every update, before it is in effect; None: updates last as long as
            the process.
    """

    max_batch: int = 16
    max_delay_ms: float = 5.0
    max_queue: int = 1024
    bf16: bool = False
    read_only: bool = False
    save: Path | None = None

    def __post_init__(self):
        if self.max_batch < 1 or self.max_delay_ms < 0:
            raise DataError("max_batch must be at least 1 and max_delay_ms at least 0.")
        if self.max_queue < MAX_HISTORIES:
            raise DataError(f"max_queue must be at least {MAX_HISTORIES}: a request may hold as many histories.")


class Metrics:
    """What Prometheus may ask for; names begin with ``tiger_``."""

    def __init__(self):
        self.registry = CollectorRegistry()
        seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
        self.requests = Counter(
            "tiger_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "tiger_request_seconds", "From a request to its answer", ["path"], buckets=seconds, registry=self.registry
        )
        self.batch_rows = Histogram(
            "tiger_batch_histories",
            "Histories in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "tiger_batch_seconds", "Running a batch", buckets=seconds, registry=self.registry
        )
        self.queued = Gauge("tiger_queued_histories", "Histories that wait", registry=self.registry)
        self.rejected = Counter(
            "tiger_rejected_requests", "Requests turned away because the queue was full", registry=self.registry
        )
        self.items = Gauge("tiger_items", "Items in the catalogue", registry=self.registry)
        self.updates = Gauge("tiger_catalogue_updates", "Updates of the catalogue", registry=self.registry)

    def batch(self, rows: int, seconds: float) -> None:
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)


class _Edge:
    """Counts and times requests, and stops reading a body that grows too long, whatever length it claims."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, size = time.perf_counter(), 500, 0
        claimed = dict(scope["headers"]).get(b"content-length", b"0")
        too_long = HTTPException(413, f"the body is longer than {MAX_BODY} bytes: send less at a time")

        async def counted():
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise too_long
            return message

        async def noted(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if claimed.isdigit() and int(claimed) > MAX_BODY:
                await _problem(413, too_long.detail)(scope, receive, noted)
            else:
                await self.app(scope, counted, noted)
        finally:
            # The route, not what was asked for: a crawler must not make a metric a path.
            path = scope["route"].path if "route" in scope else "other"
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


def _problem(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": reason}, status, headers)


def _json(content: dict, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # ASCII only: what a client sent may hold halves of characters, which no encoding writes.
    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")


def create_app(recommender: TigerRecommender, settings: ServiceSettings = ServiceSettings()) -> FastAPI:
    """The service as an ASGI application; its threads run from its start-up to its shutdown.

    Args:
        recommender: belongs to the service from now on.
    """
    live = LiveRecommender(recommender, settings.save)
    metrics = Metrics()
    cannot_add = None if settings.read_only else _cannot_add(recommender)
    cpu = recommender.device.type == "cpu"

    @contextmanager
    def surroundings() -> Iterator[None]:
        # A core a batch: two threads on the products of one small batch take longer than one.
        if cpu:
            torch.set_num_threads(1)
        with torch.autocast(recommender.device.type, torch.bfloat16, enabled=settings.bf16):
            yield

    def run(call: RecommendCall | None, requests: list) -> list:
        if call is None:
            return answer_rank(live.now, requests)
        return answer_recommend(live.now, call, requests)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(
            run,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay_ms / 1e3,
            max_queue=settings.max_queue,
            threads=torch.get_num_threads() if cpu else 1,
            surroundings=surroundings,
            observe=metrics.batch,
        )
        app.state.updates, app.state.pending_updates = ThreadPoolExecutor(1, thread_name_prefix="update"), 0
        yield
        await asyncio.to_thread(app.state.batcher.close)
        app.state.updates.shutdown()

    app = FastAPI(
        title="tiger",
        version=__version__,
        description=__doc__.split("\n\n")[0],
        lifespan=lifespan,
        responses={400: {"model": Problem}, 413: {"model": Problem}, 422: {"model": Problem}},
    )
    app.state.live = live
    app.add_middleware(_Edge, metrics=metrics)
    batch_problems = {
        404: {"model": Problem, "description": "Items that the catalogue lacks"},
        429: {"model": Problem, "description": "The queue is full"},
        503: {"model": Problem, "description": "The service is stopping"},
    }

    update_problems = {
        429: {"model": Problem, "description": "Too many updates are waiting"},
        503: {"model": Problem, "description": "The update could not be saved"},
    }

    async def batched(call: RecommendCall | None, request: tuple, histories: list[list[str]]) -> Response:
        try:
            future = app.state.batcher.submit(call, request, len(histories), max(map(len, histories)))
        except QueueFull:
            metrics.rejected.inc()
            return _problem(429, "the queue is full: try again in a second", {"Retry-After": "1"})
        except Stopped:
            return _problem(503, "the service is stopping")
        answer = await asyncio.wrap_future(future)
        found = zip(answer.items, answer.scores, answer.unknown)
        rows = [{"items": items, "scores": scores, "unknown": unknown} for items, scores, unknown in found]
        return _json({"recommendations": rows, "catalogue": answer.catalogue})

    @app.post(
        "/recommend", response_model=RecommendAnswer, responses=batch_problems, summary="Items that may come next"
    )
    async def recommend(body: RecommendRequest):
        sampled = body.temperature is not None and body.seed is not None
        call = RecommendCall(
            body.k,
            body.rank,
            SearchOptions(
                num_beams=max(body.num_beams, body.k),
                exclude_history=body.exclude_history,
                temperature=body.temperature,
                seed=body.seed if sampled else None,
                batch_size=settings.max_batch,
            ),
            alone=id(body) if sampled else None,
            unseen_share=body.unseen_share,
        )
        return await batched(call, (body.histories, body.strict), body.histories)

    @app.post(
        "/rank",
        response_model=RecommendAnswer,
        responses=batch_problems | {409: {"model": Problem, "description": "There is no ranker"}},
        summary="Candidates in order",
    )
    async def rank(body: RankRequest):
        if live.now.recommender.ranker is None:
            return _problem(409, "this recommender has no ranker: train one with recipes/ranker.py")
        histories = [one.history for one in body.lists]
        return await batched(None, (histories, [one.candidates for one in body.lists], body.strict), histories)

    async def updated(change: Callable[..., Update], *arguments) -> Response:
        if app.state.pending_updates >= MAX_UPDATES:
            return _problem(429, f"{MAX_UPDATES} updates are waiting already: try again", {"Retry-After": "1"})
        app.state.pending_updates += 1
        try:
            done = await asyncio.get_running_loop().run_in_executor(app.state.updates, change, *arguments)
        except (OSError, SafetensorError, pa.ArrowException) as error:
            why = getattr(error, "strerror", None) or error
            return _problem(503, f"the update could not be saved ({why}), so it has not been made")
        finally:
            app.state.pending_updates -= 1
        return _json(asdict(done))

    if not settings.read_only:

        @app.post(
            "/items",
            response_model=Updated,
            responses=update_problems | {409: {"model": Problem, "description": "The recommender can't embed texts"}},
            summary="Add items",
        )
        async def add_items(body: AddRequest):
            if cannot_add is not None:
                return _problem(409, cannot_add)
            ids = [item.item_id for item in body.items]
            return await updated(live.add, ids, [item.text for item in body.items])

        @app.delete(
            "/items/{item_id:path}",
            response_model=Updated,
            responses=update_problems
            | {
                404: {"model": Problem, "description": "No such item"},
                409: {"model": Problem, "description": "It is the last"},
            },
            summary="Remove an item",
        )
        async def remove_item(item_id: ItemId):
            try:
                return await updated(live.remove, item_id)
            except UnknownItems:
                raise
            except DataError as error:
                return _problem(409, str(error))

    @app.get("/health", response_model=Health, summary="Whether it answers, and what it holds")
    async def health():
        snapshot = live.now
        return Health(
            live=True,
            ready=app.state.batcher.alive,
            items=len(snapshot.recommender.tokenizer),
            catalogue=snapshot.catalogue,
            fingerprint=snapshot.recommender.tokenizer.fingerprint,
            ranker=snapshot.recommender.ranker is not None,
            can_add=not settings.read_only and cannot_add is None,
            queued=app.state.batcher.queued,
            versions={"tiger": __version__, "torch": torch.__version__},
        )

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def prometheus():
        metrics.queued.set(app.state.batcher.queued)
        metrics.items.set(len(live.now.recommender.tokenizer))
        metrics.updates.set(live.now.catalogue)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()
        if problems[0]["type"] == "json_invalid":
            return _problem(400, f"the body is not JSON: {problems[0]['ctx']['error']}")
        # Where and what, not the input: it may be long, or nothing that JSON can say.
        lines = [f"{'.'.join(map(str, one['loc']))[:200]}: {one['msg'][:200]}" for one in problems[:5]]
        return _problem(422, "; ".join(lines))

    @app.exception_handler(DataError)
    async def wrong(request: Request, error: DataError) -> Response:
        return _problem(422, str(error))

    @app.exception_handler(UnknownItems)
    async def unknown(request: Request, error: UnknownItems) -> Response:
        return _problem(404, str(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail), error.headers)

    return app


def _cannot_add(recommender: TigerRecommender) -> str | None:
    """Load the encoder, once, before any request; why that fails."""
    if recommender.encoder is None:
        return "this recommender was saved without a text encoder, so it can't embed new items"
    if recommender.tokenizer.quantizer is None:
        return "this recommender was saved without a quantizer, so it can't number new items"
    try:
        recommender.encoder.load()
    except DataError as error:
        print(f"warning: items can't be added: {error}", file=sys.stderr)
        return "the text encoder could not be loaded when the service started: its log says why"
    return None


def _keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed: by default each batch asks the system for all of its own anew.

    That takes a sixth of the service's time. Other C libraries have no ``mallopt`` and are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, 2**31 - 1)


def serve(app: FastAPI, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Run until SIGTERM or SIGINT; then accept no more, finish what is queued and return.

    Raises:
        DataError: the address can't be had.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"can't listen on {host}, port {port}: {why}.") from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=60))
    # uvicorn stops in good order and then raises the signal anew, which would end the process with its number.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    _keep_freed_memory()
    count, port = len(app.state.live.now.recommender.tokenizer), listening.getsockname()[1]
    print(f"{count} items on http://{host}:{port}/docs", flush=True)
    server.run(sockets=[listening])
