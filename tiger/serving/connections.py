"""Connections with deadlines: nobody holds one by sending nothing, or slowly, or by not reading the answer.

uvicorn closes a connection that has been idle *after* a request, and no other.
"""

from __future__ import annotations

import asyncio
import http
import json
from collections import OrderedDict
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tiger.serving.responses import problem
from tiger.serving.settings import EdgeSettings

# What a connection is doing.
IDLE, HEAD, BODY, ANSWER, SENDING, CLOSING = "idle", "head", "body", "answer", "sending", "closing"
WAITING = (IDLE, HEAD, BODY)
PATIENCE_SECONDS = 1.0  # that a connection may keep a full service waiting before it makes room; not tuned
LINGER_SECONDS = 1.0  # for the last bytes of a connection that is being closed


class Room:
    """All connections of a service, and which of them have kept it waiting longest.

    Kept up to date with each connection's phase: to look at all of them for each that is too many took a full service
    three quarters of its time.

    Args:
        settings: the deadlines, and the number of connections.
    """

    def __init__(self, settings: EdgeSettings):
        self.settings = settings
        self.open: set[Connection] = set()  # those that are being closed are not
        self._waiting: OrderedDict[Connection, None] = OrderedDict()  # by the time since when

    def note(self, connection: Connection, phase: str) -> None:
        """Note the phase that a connection has come to now."""
        self._waiting.pop(connection, None)
        if phase == CLOSING:
            self.open.discard(connection)
            return
        self.open.add(connection)
        if phase != ANSWER:
            self._waiting[connection] = None

    def longest_waiting(self) -> Connection | None:
        """The connection that has sent nothing, or no whole request, for longest; None: there is none."""
        return next((one for one in self._waiting if one.phase in WAITING), None)


class Connection(H11Protocol):
    """An HTTP/1.1 connection that is closed when it keeps the service waiting.

    Args:
        room: of all connections of the service.
        config, server_state, app_state, _loop: given by uvicorn.
    """

    def __init__(self, room: Room, config, server_state, app_state, _loop=None):
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._room, self._settings = room, room.settings
        self._timer: asyncio.TimerHandle | None = None
        self._watched: tuple[str, Any] | None = None
        self.since = self.loop.time()

    @property
    def phase(self) -> str:
        """The present state: idle, or what it waits for or does."""
        if self.transport.is_closing():
            return CLOSING
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.more_body:
            return BODY
        if self.transport.get_write_buffer_size():  # of the answer before, perhaps
            return SENDING
        if self.cycle is not None and not self.cycle.response_complete:
            return ANSWER
        return HEAD if self.conn.trailing_data[0] else IDLE

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._room.open.add(self)
        self._make_room()
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._room.note(self, CLOSING)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Do nothing: uvicorn's timer starts after a response only, so there is one of our own."""

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, as JSON."""
        self._refuse(400, "the request is not valid HTTP/1.1")

    def shutdown(self) -> None:
        """Finish what is being answered, give a body that is arriving a last second, and close all else."""
        if self.phase == CLOSING or self.cycle is None or self.cycle.response_complete:
            return self._close()
        self.cycle.keep_alive = False
        if self.phase == BODY:
            self._start_timer(min(LINGER_SECONDS, self._settings.receive_seconds))

    def _make_room(self) -> None:
        """Close the connection that has kept us waiting longest, if there are too many; if none has for long, refuse
        the request of this one."""
        room, limit = self._room, self._settings.max_connections
        if len(room.open) <= limit:
            return
        longest = room.longest_waiting()
        # Under load, many come before any is read: each would close the one before, and none would get an answer.
        fresh = longest is not None and self.loop.time() - longest.since < PATIENCE_SECONDS
        if longest is None or (fresh and len(room.open) <= 2 * limit):
            self.app = _busy
        else:
            longest.give_up()

    def _watch(self) -> None:
        """Start the deadline of what the connection is doing, unless that runs already."""
        phase = self.phase
        if (phase, self.cycle) == self._watched:
            return
        self._watched, self.since = (phase, self.cycle), self.loop.time()
        self._room.note(self, phase)
        if phase == ANSWER:
            self._start_timer(None)
        elif phase == IDLE:
            self._start_timer(self._settings.keep_alive_seconds)
        else:
            self._start_timer(self._settings.receive_seconds)

    def _start_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.give_up)

    def give_up(self) -> None:
        """Close, unless a request is being answered; one that has not arrived gets status 408."""
        phase = self.phase
        if phase == CLOSING:
            self.transport.abort()
        elif phase in (HEAD, BODY):
            self._refuse(408, "the request did not arrive in time")
        elif phase != ANSWER:  # it is, where the client has read meanwhile what it was sent before
            self._close()

    def _refuse(self, status: int, reason: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": reason}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            phrase = http.HTTPStatus(status).phrase.encode()
            head = h11.Response(status_code=status, headers=headers, reason=phrase)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._close()

    def _close(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._room.note(self, CLOSING)
        self._start_timer(LINGER_SECONDS)


async def _busy(scope, receive, send) -> None:
    answer = problem(503, "too many connections: try again", {"Retry-After": "1", "Connection": "close"})
    await answer(scope, receive, send)
