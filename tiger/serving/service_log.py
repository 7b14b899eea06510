"""Log of the service: one line per request and per event, written by a thread of its own.

A request only puts its record into a queue. If nobody reads the output, the queue fills up and lines are dropped and
counted, but no request waits.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO
from urllib.parse import quote

from tiger.serving.live import Snapshot
from tiger.serving.settings import LogSettings

CAPACITY = 10_000  # lines that may wait, some 5 MB; not tuned
QUIET = ("/livez", "/readyz", "/healthz", "/health", "/metrics")  # asked every few seconds by machines
LOGGERS = ("uvicorn.error", "tiger.serving", "opentelemetry")  # whose messages the log takes
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SANE_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The id of the one ``X-Request-ID`` header, if it is sane: up to 128 letters, digits and ``._:-``; else a new
    one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and _SANE_ID.fullmatch(given[0]):
        return given[0].decode()
    return uuid.uuid4().hex


@dataclass
class RequestRecord:
    """A request and its answer, as they are logged.

    Args:
        id: the request's id.
        method, path: of its first line, without the query.
        status: of the answer; 0: none yet.
        ms: milliseconds from request to answer.
        batch: histories in the batch that answered; None: no batch did.
        items: items in the catalog that answered.
        catalog: number of updates of that catalog.
        model: digest of the model that answered.
        span: OpenTelemetry's context of the batch's span; None: there is none. It is not logged.
    """

    id: str
    method: str
    path: str
    status: int = 0
    ms: float = 0.0
    batch: int | None = None
    items: int | None = None
    catalog: int | None = None
    model: str | None = None
    span: Any = None
    time: float = field(default_factory=time.time)

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """Note which catalog and model answered."""
        self.items = len(snapshot.recommender.tokenizer)
        self.catalog, self.model = snapshot.catalogue, snapshot.model

    @property
    def level(self) -> str:
        """``error`` for failures of the service, ``warning`` for refusals, ``debug`` for questions of machines."""
        if self.status >= 500:
            return "error"
        if self.status >= 400:
            return "warning"
        return "debug" if self.path in QUIET else "info"

    def fields(self) -> dict[str, Any]:
        """The record's fields in JSON's types; no character of a path can end a line."""
        return {
            "time": _stamp(self.time),
            "level": self.level,
            "request_id": self.id,
            "method": self.method[:20],
            "path": quote(self.path[:300], safe="/:@!$&'()*+,;=~", errors="replace"),
            "status": self.status,
            "ms": round(self.ms, 3),
            "batch": self.batch,
            "items": self.items,
            "catalog": self.catalog,
            "model": self.model,
        }


class ServiceLog(logging.Handler):
    """Writes requests, and what the loggers of :data:`LOGGERS` say, as text or JSON.

    Args:
        settings: form and level.
        stream: where to; None: standard error.
        capacity: lines that may wait.
    """

    def __init__(self, settings: LogSettings = LogSettings(), stream: TextIO | None = None, capacity: int = CAPACITY):
        super().__init__(_LEVELS[settings.level])
        self._as_json, self._stream = settings.form == "json", stream
        self._queue: queue.Queue[RequestRecord | logging.LogRecord | None] = queue.Queue(capacity)
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def start(self) -> None:
        """Start the thread, and take what the loggers say."""
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False
        logging.getLogger("tiger.serving").setLevel(logging.DEBUG)

    def stop(self) -> None:
        """Write what waits, and return within a second."""
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
            logging.getLogger(name).propagate = True
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                self._queue.put(None, timeout=0.5)
            except queue.Full:  # nobody reads the output: the thread waits and ends with the process
                return
            thread.join(0.5)

    def request(self, record: RequestRecord) -> None:
        """Log a request."""
        if _LEVELS[record.level] >= self.level:
            self._put(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Log what a logger says."""
        self._put(record)

    def _put(self, record: RequestRecord | logging.LogRecord) -> None:
        if self._thread is None:
            return self._write(record)
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        while (record := self._queue.get()) is not None:
            self._write(record)

    def _write(self, record: RequestRecord | logging.LogRecord) -> None:
        try:
            fields = record.fields() if isinstance(record, RequestRecord) else _event(record)
            line = json.dumps(fields) if self._as_json else _text(fields)
            stream = self._stream or sys.stderr
            stream.write(line + "\n")
            stream.flush()
        except Exception:  # the output is closed or full: the service goes on without it
            self.dropped += 1


def _event(record: logging.LogRecord) -> dict[str, Any]:
    fields = {
        "time": _stamp(record.created),
        "level": record.levelname.lower(),
        "message": record.getMessage(),
    }
    if record.exc_info:
        fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    return fields


def _text(fields: dict[str, Any]) -> str:
    """One line for a person; a traceback takes more."""
    head = f"{fields['time']} {fields['level']}"
    if "message" in fields:
        message = " ".join(fields["message"].split())
        return f"{head} {message}" + ("\n" + fields["traceback"].rstrip() if "traceback" in fields else "")
    more = [f"{name}={fields[name]}" for name in ("batch", "items", "catalog", "model") if fields[name] is not None]
    line = f"{head} {fields['method']} {fields['path']} {fields['status']} {fields['ms']:.1f}ms"
    return " ".join([line, f"id={fields['request_id']}", *more])


def _stamp(seconds: float) -> str:
    """UTC time, with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
