"""A recommender over HTTP: requests share batches, and the catalog can be changed while the service answers.

No request can name a file, a repository or code.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI

from tiger import __version__
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.batcher import Batcher
from tiger.serving.live import LiveRecommender, RecommendCall, answer_rank, answer_recommend
from tiger.serving.monitoring import Edge, Metrics
from tiger.serving.routes import add_answer_routes, add_error_handlers, add_item_routes, add_status_routes
from tiger.serving.schemas import MAX_HISTORIES, Problem
from tiger.utils.errors import DataError


@dataclass(frozen=True)
class ServiceSettings:
    """Batching and permissions of the service.

    Args:
        max_batch: histories per batch.
        max_delay_ms: maximum time, in milliseconds, that a request waits for others in its batch while a core is free.
        max_queue: histories that may wait; a request beyond that is refused with status 429.
        bf16: matrix products in bfloat16: faster on processors that have them; scores differ in the third digit.
        read_only: refuse updates of the catalog.
        save: directory to which each update is written before it takes effect; None: updates last as long as the
            process.

    Raises:
        DataError: a number is out of range.
    """

    max_batch: int = 16
    max_delay_ms: float = 5.0
    max_queue: int = 1024
    bf16: bool = False
    read_only: bool = False
    save: Path | None = None

    def __post_init__(self):
        if self.max_batch < 1 or not 0 <= self.max_delay_ms < math.inf:
            raise DataError("max_batch must be at least 1 and max_delay_ms at least 0.")
        if self.max_queue < MAX_HISTORIES:
            raise DataError(f"max_queue must be at least {MAX_HISTORIES}: a request may hold as many histories.")


def create_app(recommender: TigerRecommender, settings: ServiceSettings = ServiceSettings()) -> FastAPI:
    """The service as an ASGI application; its threads run from start-up to shutdown.

    Args:
        recommender: belongs to the service from now on: nothing else may change it.
    """
    metrics = Metrics()
    cannot_add = None if settings.read_only else _cannot_add(recommender)
    app = FastAPI(
        title="tiger",
        version=__version__,
        description=__doc__.split("\n\n")[0],
        lifespan=_lifespan(settings, metrics),
        responses={400: {"model": Problem}, 413: {"model": Problem}, 422: {"model": Problem}},
    )
    app.state.live = LiveRecommender(recommender, settings.save)
    app.add_middleware(Edge, metrics=metrics)
    add_answer_routes(app, metrics, settings.max_batch)
    if not settings.read_only:
        add_item_routes(app, cannot_add)
    add_status_routes(app, metrics, can_add=not settings.read_only and cannot_add is None)
    add_error_handlers(app)
    return app


def _lifespan(settings: ServiceSettings, metrics: Metrics):
    """Start the application's threads, and stop them when all queued requests are answered."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        live: LiveRecommender = app.state.live
        device = live.now.recommender.device.type

        def run(call: RecommendCall | None, requests: list) -> list:
            if call is None:
                return answer_rank(live.now, requests)
            return answer_recommend(live.now, call, requests)

        @contextmanager
        def thread_settings() -> Iterator[None]:
            # One batch per core: two threads on the products of one small batch take longer than one.
            if device == "cpu":
                torch.set_num_threads(1)
            with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                yield

        app.state.batcher = Batcher(
            run,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay_ms / 1e3,
            max_queue=settings.max_queue,
            threads=torch.get_num_threads() if device == "cpu" else 1,
            surroundings=thread_settings,
            observe=metrics.batch,
        )
        app.state.updates, app.state.pending_updates = ThreadPoolExecutor(1, thread_name_prefix="update"), 0
        yield
        await asyncio.to_thread(app.state.batcher.close)
        app.state.updates.shutdown()

    return lifespan


def _cannot_add(recommender: TigerRecommender) -> str | None:
    """Load the encoder before the first request; the reason if items can't be added."""
    if recommender.encoder is None:
        return "this recommender was saved without a text encoder, so it can't embed new items"
    if recommender.tokenizer.quantizer is None:
        return "this recommender was saved without a quantizer, so it can't assign semantic IDs to new items"
    try:
        recommender.encoder.load()
    except DataError as error:
        print(f"warning: items can't be added: {error}", file=sys.stderr)
        return "the text encoder could not be loaded when the service started: its log says why"
    return None


def _keep_freed_memory() -> None:
    """Make glibc keep large freed blocks; by default, each batch allocates its memory from the system again.

    That takes a sixth of the service's time. Does nothing with other C libraries, which have no ``mallopt``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, 2**31 - 1)


def serve(app: FastAPI, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Run until SIGTERM or SIGINT; then accept no more requests, finish the queued ones and return.

    Raises:
        DataError: the address is in use or invalid.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"can't listen on {host}, port {port}: {why}.") from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=60))
    # uvicorn shuts down and then raises the signal again, which would end the process with the signal's exit code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    _keep_freed_memory()
    count, port = len(app.state.live.now.recommender.tokenizer), listening.getsockname()[1]
    print(f"{count} items on http://{host}:{port}/docs", flush=True)
    server.run(sockets=[listening])
