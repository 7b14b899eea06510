"""Metrics for Prometheus, a limit on the size of request bodies, and errors as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from fastapi import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException

MAX_BODY = 4 * 2**20  # bytes of a request body; not tuned


class Metrics:
    """The service's Prometheus metrics; their names begin with ``tiger_``."""

    def __init__(self):
        self.registry = CollectorRegistry()
        seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
        self.requests = Counter(
            "tiger_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "tiger_request_seconds", "Time from request to answer", ["path"], buckets=seconds, registry=self.registry
        )
        self.batch_rows = Histogram(
            "tiger_batch_histories",
            "Histories in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "tiger_batch_seconds", "Time to run a batch", buckets=seconds, registry=self.registry
        )
        self.queued = Gauge("tiger_queued_histories", "Waiting histories", registry=self.registry)
        self.rejected = Counter(
            "tiger_rejected_requests", "Requests refused because the queue was full", registry=self.registry
        )
        self.items = Gauge("tiger_items", "Items in the catalog", registry=self.registry)
        self.updates = Gauge("tiger_catalogue_updates", "Updates of the catalog", registry=self.registry)

    def batch(self, rows: int, seconds: float) -> None:
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)


class Edge:
    """ASGI middleware: counts and times requests, and refuses bodies that are too long, whatever length they claim."""

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
                await problem(413, too_long.detail)(scope, receive, noted)
            else:
                await self.app(scope, counted, noted)
        finally:
            # The route's pattern, not the requested path: otherwise a crawler would create one metric per path.
            path = scope["route"].path if "route" in scope else "other"
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


def problem(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error response: ``{"error": reason}``."""
    return json_response({"error": reason}, status, headers)


def json_response(content: dict, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, in ASCII: clients may send lone surrogates, which UTF-8 can't encode."""
    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")
