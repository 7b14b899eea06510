"""A recommender over HTTP: requests share batches, and the catalogue changes without a pause.

The event loop reads and checks requests; the threads of a batcher, a batch each, run the model. No request names a
file, a repository or code.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from safetensors import SafetensorError
from starlette.exceptions import HTTPException  # FastAPI's own is one of these, but not the other way round

from tiger import __version__
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search import SearchOptions
from tiger.serving.batcher import Batcher, QueueFull, Stopped
from tiger.serving.live import LiveRecommender, RecommendCall, UnknownItems, Update, answer_rank, answer_recommend
from tiger.serving.monitoring import Edge, Metrics, json_response, problem
from tiger.serving.schemas import (
    MAX_HISTORIES,
    AddRequest,
    Health,
    ItemId,
    Problem,
    RankRequest,
    RecommendAnswer,
    RecommendRequest,
    Updated,
)
from tiger.utils.errors import DataError

MAX_UPDATES = 16  # that wait; each holds its body


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
    app.add_middleware(Edge, metrics=metrics)
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
            return problem(429, "the queue is full: try again in a second", {"Retry-After": "1"})
        except Stopped:
            return problem(503, "the service is stopping")
        answer = await asyncio.wrap_future(future)
        found = zip(answer.items, answer.scores, answer.unknown)
        rows = [{"items": items, "scores": scores, "unknown": unknown} for items, scores, unknown in found]
        return json_response({"recommendations": rows, "catalogue": answer.catalogue})

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
            return problem(409, "this recommender has no ranker: train one with recipes/ranker.py")
        histories = [one.history for one in body.lists]
        return await batched(None, (histories, [one.candidates for one in body.lists], body.strict), histories)

    async def updated(change: Callable[..., Update], *arguments) -> Response:
        if app.state.pending_updates >= MAX_UPDATES:
            return problem(429, f"{MAX_UPDATES} updates are waiting already: try again", {"Retry-After": "1"})
        app.state.pending_updates += 1
        try:
            done = await asyncio.get_running_loop().run_in_executor(app.state.updates, change, *arguments)
        except (OSError, SafetensorError, pa.ArrowException) as error:
            why = getattr(error, "strerror", None) or error
            return problem(503, f"the update could not be saved ({why}), so it has not been made")
        finally:
            app.state.pending_updates -= 1
        return json_response(asdict(done))

    if not settings.read_only:

        @app.post(
            "/items",
            response_model=Updated,
            responses=update_problems | {409: {"model": Problem, "description": "The recommender can't embed texts"}},
            summary="Add items",
        )
        async def add_items(body: AddRequest):
            if cannot_add is not None:
                return problem(409, cannot_add)
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
                return problem(409, str(error))

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
            return problem(400, f"the body is not JSON: {problems[0]['ctx']['error']}")
        # Where and what, not the input: it may be long, or nothing that JSON can say.
        lines = [f"{'.'.join(map(str, one['loc']))[:200]}: {one['msg'][:200]}" for one in problems[:5]]
        return problem(422, "; ".join(lines))

    @app.exception_handler(DataError)
    async def wrong(request: Request, error: DataError) -> Response:
        return problem(422, str(error))

    @app.exception_handler(UnknownItems)
    async def unknown(request: Request, error: UnknownItems) -> Response:
        return problem(404, str(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), error.headers)

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
