"""A recommender over HTTP: requests share batches, and the catalog can be changed while the service answers.

No request can name a file, a repository or code.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
import uvicorn
from fastapi import FastAPI

from tiger import __version__
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.access import AccessRules
from tiger.serving.answers import RecommendCall, answer_rank, answer_recommend
from tiger.serving.batcher import Batcher
from tiger.serving.connections import Connection, Room
from tiger.serving.edge import Edge
from tiger.serving.graphs import graph_settings
from tiger.serving.hosts import HostRules
from tiger.serving.json_bodies import JsonRoute
from tiger.serving.live import LiveRecommender, Reloaded, ReloadFailed
from tiger.serving.model_source import ModelSource
from tiger.serving.monitoring import Metrics
from tiger.serving.rate_limit import RateLimit
from tiger.serving.routes import (
    add_answer_routes,
    add_error_handlers,
    add_item_routes,
    add_read_routes,
    add_reload_route,
)
from tiger.serving.schemas import Problem
from tiger.serving.service_log import ServiceLog
from tiger.serving.settings import EdgeSettings, ServiceSettings
from tiger.serving.status_routes import add_docs_routes, add_probe_routes, add_status_routes
from tiger.utils import devices
from tiger.utils.errors import DataError

if TYPE_CHECKING:
    from tiger.serving.tracing import Tracing

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("tiger.serving")
# Histories per batch. GPU: a search takes as long for 64 as for one and 2.6 times as long for 1,024 (measured on an
# H200), so this is about where a full batch begins to delay its first request.
CPU_BATCH, GPU_BATCH = 16, 256
OTHER_FILES = 64  # that the process may have open besides connections


def create_app(
    recommender: TigerRecommender,
    settings: ServiceSettings = ServiceSettings(),
    source: ModelSource | None = None,
    manifest: bytes | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The service as an ASGI application; its threads run from start-up to shutdown.

    Args:
        recommender: belongs to the service from now on: nothing else may change it.
        source: where it comes from, so that it can be loaded again; None: it can't.
        manifest: of the directory that it was read from.
        tracing: makes spans of requests and batches; None: there are none.

    Raises:
        DataError: the model's scores are not finite.
    """
    metrics, log = Metrics(), ServiceLog(settings.log)
    app = FastAPI(
        title="tiger",
        version=__version__,
        description=__doc__.split("\n\n")[0],
        lifespan=_lifespan(settings, metrics, log, tracing),
        responses={status: {"model": Problem} for status in (400, 401, 403, 413, 415, 422, 429, 500)},
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # POST /items of a read-only service would lead to an item without a name
    )
    app.router.route_class = JsonRoute
    app.state.live = _live(recommender, settings, source, manifest)
    app.state.reload = partial(_reload, app.state.live, metrics)
    app.state.edge, app.state.hosts = settings.edge, HostRules.from_settings(settings.edge)
    app.state.proxies = settings.clients.trusted_proxies
    app.state.on_hangup = False  # serve() sets it: signals belong to the process
    app.add_middleware(
        Edge,
        metrics=metrics,
        log=log,
        access=AccessRules.from_settings(settings.access),
        limit=RateLimit.from_settings(settings.clients),
        tracing=tracing,
    )
    add_answer_routes(app, metrics, _batch_on(recommender, settings), settings.bf16)
    add_read_routes(app)
    if not settings.read_only:
        add_item_routes(app)
    if not settings.read_only or settings.access.token is not None:  # nobody without a right may keep it loading
        add_reload_route(app)
    add_probe_routes(app)
    add_status_routes(app, metrics, log)
    add_docs_routes(app)
    add_error_handlers(app)
    return app


def _live(
    recommender: TigerRecommender, settings: ServiceSettings, source: ModelSource | None, manifest: bytes | None
) -> LiveRecommender:
    prepare = graph_settings(recommender.device, settings.cuda_graphs, _batch_on(recommender, settings), settings.bf16)
    return LiveRecommender(
        recommender,
        settings.save,
        source=source,
        manifest=manifest,
        updatable=not settings.read_only,
        prepare=prepare,
        bf16=settings.bf16,
    )


def _batch_on(recommender: TigerRecommender, settings: ServiceSettings) -> int:
    return settings.max_batch or (CPU_BATCH if devices.is_host(recommender.device) else GPU_BATCH)


def _reload(live: LiveRecommender, metrics: Metrics) -> Reloaded:
    """Load the model again; count and log how that ended."""
    try:
        done = live.reload()
    except ReloadFailed as error:
        metrics.reloads.labels("failed").inc()
        logger.error("%s", error, exc_info=None if isinstance(error.__cause__, DataError) else error.__cause__)
        raise
    metrics.reloads.labels("ok").inc()
    lost = f"; {done.lost} updates that were not saved are gone" if done.lost else ""
    logger.info("model %s answers now, with %d items, instead of %s%s", done.model, done.items, done.previous, lost)
    return done


def _lifespan(settings: ServiceSettings, metrics: Metrics, log: ServiceLog, tracing: Tracing | None):
    """Start the application's threads, and stop them when all queued requests are answered or cancelled."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        live: LiveRecommender = app.state.live
        device = live.now.recommender.device

        def run(call: RecommendCall | None, requests: list) -> list:
            snapshot = live.now
            if call is None:
                kind, answer = "rank", partial(answer_rank, snapshot, requests)
            else:
                kind, answer = "recommend", partial(answer_recommend, snapshot, call, requests)
            return answer() if tracing is None else tracing.run_batch(kind, snapshot, requests, answer)

        @contextmanager
        def thread_settings() -> Iterator[None]:
            # One batch per core: two threads on the products of one small batch take longer than one.
            if devices.is_host(device):
                torch.set_num_threads(1)
            # Where nobody has said, the search alone chooses by the device, and a ranker computes in float32.
            with nullcontext() if settings.bf16 is None else devices.products_in(device, settings.bf16):
                yield

        app.state.batcher = Batcher(
            run,
            max_batch=_batch_on(live.now.recommender, settings),
            max_delay=settings.max_delay_ms / 1e3,
            max_queue=settings.max_queue,
            threads=torch.get_num_threads() if devices.is_host(device) else 1,
            surroundings=thread_settings,
            observe=metrics.batch,
        )
        app.state.updates, app.state.pending_updates = ThreadPoolExecutor(1, thread_name_prefix="update"), set()
        # One thread: parsing takes the interpreter's lock, which several would only take from the event loop.
        app.state.parsers = ThreadPoolExecutor(1, thread_name_prefix="parse")
        log.start()
        with _reload_on_hangup(app):
            yield
        await asyncio.to_thread(app.state.batcher.close)
        await asyncio.to_thread(app.state.updates.shutdown, cancel_futures=True)
        app.state.parsers.shutdown(cancel_futures=True)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
        await asyncio.to_thread(log.stop)

    return lifespan


@contextmanager
def _reload_on_hangup(app: FastAPI) -> Iterator[None]:
    """Let SIGHUP reload the model, in the thread of updates, until the service stops."""
    if not app.state.on_hangup or not hasattr(signal, "SIGHUP"):  # Windows
        yield
        return
    loop = asyncio.get_running_loop()

    def submit() -> None:
        # An error has been logged, and nobody else waits for it.
        app.state.updates.submit(app.state.reload)

    loop.add_signal_handler(signal.SIGHUP, submit)
    try:
        yield
    finally:
        # To stop takes time; another SIGHUP should not end the process meanwhile.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)


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
    _allow_open_files(2 * edge.max_connections + OTHER_FILES)  # as many again may be open to be refused
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"can't listen on {host}, port {port}: {why}.") from error
    app.state.hosts, app.state.on_hangup = app.state.hosts.bound_to(host), True
    server = uvicorn.Server(_server_config(app))
    # uvicorn shuts down and then raises the signal again, which would end the process with the signal's exit code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the application can reload
    _keep_freed_memory()
    count, port = len(app.state.live.now.recommender.tokenizer), listening.getsockname()[1]
    print(f"{count} items on http://{host}:{port}/docs", flush=True)
    server.run(sockets=[listening])


def _server_config(app: FastAPI) -> uvicorn.Config:
    """Settings of the server that passes requests to the application."""
    edge: EdgeSettings = app.state.edge
    proxies: tuple[str, ...] = app.state.proxies
    return uvicorn.Config(
        app,
        http=partial(Connection, Room(edge)),  # type: ignore[arg-type]  # it is called like the class
        ws="none",
        # By default, it would believe any client on this machine.
        proxy_headers=bool(proxies),
        forwarded_allow_ips=[str(ipaddress.ip_network(one, strict=False)) for one in proxies],
        log_config=None,  # it has a log of its own
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=edge.grace_seconds,  # type: ignore[arg-type]  # parts of a second as well
    )


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
