"""A recommender over HTTP: requests share batches, and the catalog can be changed while the service answers.

No request can name a file, a repository or code.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import torch
import uvicorn
from fastapi import FastAPI

from tiger import __version__
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.batcher import Batcher
from tiger.serving.connections import Connection
from tiger.serving.edge import Edge
from tiger.serving.hosts import HostRules
from tiger.serving.json_bodies import JsonRoute
from tiger.serving.live import LiveRecommender, RecommendCall, answer_rank, answer_recommend
from tiger.serving.monitoring import Metrics
from tiger.serving.routes import add_answer_routes, add_error_handlers, add_item_routes, add_status_routes
from tiger.serving.schemas import Problem
from tiger.serving.settings import EdgeSettings, ServiceSettings
from tiger.utils.errors import DataError

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

OTHER_FILES = 64  # that the process may have open besides connections


def create_app(recommender: TigerRecommender, settings: ServiceSettings = ServiceSettings()) -> FastAPI:
    """The service as an ASGI application; its threads run from start-up to shutdown.

    Args:
        recommender: belongs to the service from now on: nothing else may change it.

    Raises:
        DataError: the model's scores are not finite.
    """
    metrics = Metrics()
    cannot_add = None if settings.read_only else _cannot_add(recommender)
    app = FastAPI(
        title="tiger",
        version=__version__,
        description=__doc__.split("\n\n")[0],
        lifespan=_lifespan(settings, metrics),
        responses={status: {"model": Problem} for status in (400, 403, 413, 415, 422, 500)},
    )
    app.router.route_class = JsonRoute
    app.state.live = LiveRecommender(recommender, settings.save)
    app.state.edge, app.state.hosts = settings.edge, HostRules.from_settings(settings.edge)
    app.add_middleware(Edge, metrics=metrics)
    add_answer_routes(app, metrics, settings.max_batch)
    if not settings.read_only:
        add_item_routes(app, cannot_add)
    add_status_routes(app, metrics, can_add=not settings.read_only and cannot_add is None)
    add_error_handlers(app)
    return app


def _lifespan(settings: ServiceSettings, metrics: Metrics):
    """Start the application's threads, and stop them when all queued requests are answered or cancelled."""

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
        app.state.updates, app.state.pending_updates = ThreadPoolExecutor(1, thread_name_prefix="update"), set()
        # One thread: parsing takes the interpreter's lock, which several would only take from the event loop.
        app.state.parsers = ThreadPoolExecutor(1, thread_name_prefix="parse")
        yield
        await asyncio.to_thread(app.state.batcher.close)
        await asyncio.to_thread(app.state.updates.shutdown, cancel_futures=True)
        app.state.parsers.shutdown(cancel_futures=True)

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

    What has not been answered within ``grace_seconds`` of the application's :class:`EdgeSettings` gets status 503; a
    batch and an update that run already are finished.

    Raises:
        DataError: the address is in use or invalid, or the system does not allow as many connections.
    """
    edge: EdgeSettings = app.state.edge
    _allow_open_files(edge.max_connections + OTHER_FILES)
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"can't listen on {host}, port {port}: {why}.") from error
    app.state.hosts = app.state.hosts.bound_to(host)
    config = uvicorn.Config(
        app,
        http=partial(Connection, edge),  # type: ignore[arg-type]  # it is called like the class
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=edge.grace_seconds,  # type: ignore[arg-type]  # parts of a second as well
    )
    server = uvicorn.Server(config)
    # uvicorn shuts down and then raises the signal again, which would end the process with the signal's exit code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    _keep_freed_memory()
    count, port = len(app.state.live.now.recommender.tokenizer), listening.getsockname()[1]
    print(f"{count} items on http://{host}:{port}/docs", flush=True)
    server.run(sockets=[listening])


def _allow_open_files(count: int) -> None:
    """Raise the process's limit of open files, where it is lower.

    Raises:
        DataError: the system does not allow that.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    except (ValueError, OSError) as error:
        raise DataError(
            f"the system allows {hard} open files, and {count} are needed: lower --max_connections or raise the limit "
            "(ulimit -n)."
        ) from error
