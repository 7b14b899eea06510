"""The service's edge, as ASGI middleware: what is refused before a route sees it, and what is counted and logged
after."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from tiger.serving.access import AccessRules
from tiger.serving.monitoring import Metrics
from tiger.serving.rate_limit import RateLimit, client_name
from tiger.serving.responses import problem
from tiger.serving.service_log import QUIET, RequestRecord, ServiceLog, request_id

if TYPE_CHECKING:
    from tiger.serving.tracing import Tracing

# Bytes of a request body, and of all bodies that are held at a time. Not tuned.
MAX_BODY = 4 * 2**20
MAX_HELD = 32 * MAX_BODY


WITHOUT_BODY = ("/models/reload",)  # a form of another site that sends nothing is refused by its origin
FAILED = "the service failed on this request: its log says why"
# Key of the scope under which routes find the request's record.
RECORD = "tiger.record"


class Edge:
    """Counts, times and logs requests; refuses foreign hosts and pages, clients that send too many, requests without
    the token that they need, bodies that are not JSON, and long ones, whatever length they claim.

    Every answer has the headers ``X-Request-ID``, ``X-Tiger-Model`` and ``X-Tiger-Catalog``, the number of updates.
    """

    def __init__(
        self,
        app,
        metrics: Metrics,
        log: ServiceLog,
        access: AccessRules,
        limit: RateLimit | None = None,
        tracing: Tracing | None = None,
    ):
        self.app, self.metrics, self.log, self.tracing = app, metrics, log, tracing
        self.access, self.limit = access, limit
        self._held = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, size = time.perf_counter(), 0
        record = RequestRecord(request_id(scope["headers"]), scope["method"], scope["path"])
        scope[RECORD] = record

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
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if record.model is None:  # no batch has noted the catalog that answered it
                    record.note_snapshot(scope["app"].state.live.now)
                ours = [(b"x-request-id", record.id.encode()), (b"x-tiger-model", str(record.model).encode())]
                ours.append((b"x-tiger-catalog", str(record.catalog).encode()))
                message["headers"] = [*message.get("headers", ()), *ours]
            await send(message)

        try:
            if refused := self._refusal(scope):
                await problem(*refused)(scope, receive, noted)
            else:
                await self.app(scope, limited, noted)
        except asyncio.CancelledError:  # the server stops, and its grace is over
            if record.status:
                raise
            await problem(503, "the service is stopping")(scope, receive, noted)
        except Exception as error:
            error.add_note(f"while answering request {record.id}")  # it goes to the log
            if not record.status:
                await problem(500, FAILED)(scope, receive, noted)
            raise
        finally:
            self._held -= size
            self._count(scope, record, time.perf_counter() - start)

    def _refusal(self, scope) -> tuple[int, str] | tuple[int, str, dict[str, str]] | None:
        """Status, reason and headers of a request that is refused by its head; None: it is not."""
        headers = scope["headers"]
        if reason := scope["app"].state.hosts.refusal(scope["method"], headers):
            return 403, reason
        # Before the token: whoever guesses it is slowed down. After the host: pages of others use up nobody's rate.
        if wait := self._wait(scope):
            self.metrics.limited.inc()
            seconds = f"{math.ceil(wait)}"
            why = f"too many requests from this client: try again after {seconds} s"
            return 429, why, {"Retry-After": seconds}
        if reason := self.access.refusal(scope["method"], scope["path"], headers):
            return 401, reason, {"WWW-Authenticate": "Bearer"}
        return _body_refusal(scope["method"], scope["path"], dict(headers))

    def _wait(self, scope) -> float:
        """Seconds that this client has to wait; 0: none. Probes and ``/metrics`` never do."""
        if self.limit is None or scope["path"] in QUIET:
            return 0.0
        host, _ = scope.get("client") or (None, 0)
        return self.limit.seconds_to_wait(client_name(host, self.access.holds_token(scope["headers"])))

    def _count(self, scope, record: RequestRecord, seconds: float) -> None:
        # The route's pattern, not the requested path: otherwise a crawler would create one metric per path.
        route = scope["route"].path if "route" in scope else None
        path = route or "other"
        record.status, record.ms = record.status or 500, 1e3 * seconds
        self.metrics.requests.labels(path, record.status).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        self.log.request(record)
        if self.tracing is not None:
            self.tracing.request(record, route, scope["headers"])


def _body_refusal(method: str, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
    """Status and reason for which a body is refused before it is read."""
    # A page of another site may send a form or plain text without asking, JSON not. FastAPI's older versions read any.
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    claimed = headers.get(b"content-length", b"0")
    empty = claimed == b"0" and b"transfer-encoding" not in headers and b"content-type" not in headers
    if method in ("POST", "PUT", "PATCH") and kind != b"application/json" and not (empty and path in WITHOUT_BODY):
        return 415, "the body must be JSON: send the header content-type: application/json"
    if claimed.isdigit() and int(claimed[:20]) > MAX_BODY:
        return 413, f"the body is longer than {MAX_BODY} bytes: send less at a time"
    return None
