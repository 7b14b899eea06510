"""The service's edge, as ASGI middleware: what is refused before a route sees it, and what is counted after."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException

from tiger.serving.monitoring import Metrics
from tiger.serving.responses import problem

# Bytes of a request body, and of all bodies that are held at a time. Not tuned.
MAX_BODY = 4 * 2**20
MAX_HELD = 32 * MAX_BODY


class Edge:
    """Counts and times requests; refuses foreign hosts and pages, bodies that are not JSON, and long ones,
    whatever length they claim."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics
        self._held = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, size = time.perf_counter(), 0, 0

        async def limited():
            nonlocal size
            message = await receive()
            length = len(message.get("body", b""))
            size += length
            self._held += length
            if size > MAX_BODY:
                raise HTTPException(413, f"the body is longer than {MAX_BODY} bytes: send less at a time")
            if self._held > MAX_HELD:
                raise HTTPException(503, "too many large requests at a time: try again", {"Retry-After": "1"})
            return message

        async def noted(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refused := _refusal(scope):
                await problem(*refused)(scope, receive, noted)
            else:
                await self.app(scope, limited, noted)
        except asyncio.CancelledError:  # the server stops, and its grace is over
            if status:
                raise
            await problem(503, "the service is stopping")(scope, receive, noted)
        finally:
            self._held -= size
            # The route's pattern, not the requested path: otherwise a crawler would create one metric per path.
            path = scope["route"].path if "route" in scope else "other"
            self.metrics.requests.labels(path, status or 500).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


def _refusal(scope) -> tuple[int, str] | None:
    """Status and reason for which a request is refused by its head; None: it is not."""
    if reason := scope["app"].state.hosts.refusal(scope["method"], scope["headers"]):
        return 403, reason
    headers = dict(scope["headers"])
    # A page of another site may send a form or plain text without asking, JSON not. FastAPI's older versions read any.
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if scope["method"] in ("POST", "PUT", "PATCH") and kind != b"application/json":
        return 415, "the body must be JSON: send the header content-type: application/json"
    claimed = headers.get(b"content-length", b"0")
    if claimed.isdigit() and int(claimed[:20]) > MAX_BODY:
        return 413, f"the body is longer than {MAX_BODY} bytes: send less at a time"
    return None
