"""Connections that keep the service waiting, over real sockets."""

import asyncio
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

import uvicorn  # noqa: E402
from fastapi import FastAPI, Response  # noqa: E402

from tiger.serving import connections, service  # noqa: E402
from tiger.serving.access import AccessRules  # noqa: E402
from tiger.serving.connections import Connection, Room  # noqa: E402
from tiger.serving.edge import Edge  # noqa: E402
from tiger.serving.hosts import HostRules  # noqa: E402
from tiger.serving.monitoring import Metrics  # noqa: E402
from tiger.serving.service import EdgeSettings  # noqa: E402
from tiger.serving.service_log import ServiceLog  # noqa: E402
from tiger.utils.errors import DataError  # noqa: E402

SHORT = {"keep_alive_seconds": 0.3, "receive_seconds": 0.3}


def request(path="/", method="GET", length=0, more=""):
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n".encode()


POST = request("/", "POST", 100, "Content-Type: application/json\r\n") + b"{"


@contextmanager
def running(**settings):
    """A server with a fast, a slow and a large answer: its port and itself."""
    app, edge = FastAPI(), EdgeSettings(**settings)
    room = Room(edge)
    app.state.hosts, app.state.going = HostRules(), asyncio.Event()
    nothing = SimpleNamespace(recommender=SimpleNamespace(tokenizer=[]), catalogue=0, model="none")
    app.state.live = SimpleNamespace(now=nothing)
    app.add_middleware(Edge, metrics=Metrics(), log=ServiceLog(), access=AccessRules())

    @app.get("/")
    async def fast():
        return {"fast": True}

    @app.post("/")
    async def read(body: dict):
        return body

    @app.get("/slow")
    async def slow():
        app.state.loop = asyncio.get_running_loop()
        await app.state.going.wait()
        return {"slow": True}

    @app.get("/busy")
    async def busy():
        time.sleep(0.5)  # the loop itself
        return {}

    @app.get("/bytes/{count}")
    async def large(count: int):
        return Response(bytes(count))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, http=partial(Connection, room), ws="none", log_level="critical",
            timeout_graceful_shutdown=edge.grace_seconds,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1], server, thread
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive() and not room.open and room.longest_waiting() is None


def connect(port, content=b""):
    opened = socket.create_connection(("127.0.0.1", port), 10)
    opened.sendall(content)
    return opened


def rest_of(opened):
    """All that comes until the connection is closed, and how long that took."""
    start, found = time.monotonic(), b""
    while more := opened.recv(1 << 20):
        found += more
    return found.decode(), time.monotonic() - start


def status_and_error(answer):
    head, _, body = answer.partition("\r\n\r\n")
    assert "content-type: application/json" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


def test_who_sends_nothing_is_closed():
    with running(**SHORT) as (port, _, _), connect(port) as fresh, connect(port, request()) as after:
        found, seconds = rest_of(fresh)
        assert found == "" and 0.2 < seconds < 3
        assert rest_of(after)[0].endswith('{"fast":true}')


@pytest.mark.parametrize("content", [b"GET", request()[:-2], POST], ids=["line", "head", "body"])
def test_who_sends_slowly_is_told_so(content):
    with running(**(SHORT | {"keep_alive_seconds": 5.0})) as (port, _, _), connect(port, content) as opened:
        dripped = threading.Event()

        def drip():  # a byte now and then wins no time
            while not dripped.wait(0.05):
                try:
                    opened.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            found, seconds = rest_of(opened)
        except ConnectionResetError:  # by a byte that came after the answer
            found, seconds = "", 1
        dripped.set()
        thread.join()
        assert seconds < 3
        if found:
            assert status_and_error(found) == (408, "the request did not arrive in time")


def test_who_does_not_read_is_closed():
    with running(**SHORT) as (port, server, _), connect(port, request("/bytes/50000000")):
        end = time.monotonic() + 1
        while not server.server_state.connections and time.monotonic() < end:
            time.sleep(0.01)
        end = time.monotonic() + 8
        while server.server_state.connections:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_slow_answer_and_a_reader_in_time_are_not_cut():
    with running(**SHORT) as (port, server, _), connect(port, request("/slow")) as slow:
        with connect(port, request("/bytes/3000000", more="Connection: close\r\n")) as large:
            assert len(rest_of(large)[0]) > 3_000_000
        time.sleep(0.7)  # more than any deadline
        state = server.config.app.state
        state.loop.call_soon_threadsafe(state.going.set)
        assert rest_of(slow)[0].endswith('{"slow":true}')


def test_a_full_service_drops_who_keeps_it_waiting_longest(monkeypatch):
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.05)
    with running(max_connections=3, keep_alive_seconds=1.0) as (port, server, _), ExitStack() as opened:
        oldest = opened.enter_context(connect(port, POST))
        time.sleep(0.1)
        for _ in range(2):
            opened.enter_context(connect(port))
        time.sleep(0.1)
        with connect(port, request()) as fourth:
            assert rest_of(fourth)[0].endswith('{"fast":true}')
        assert status_and_error(rest_of(oldest)[0])[0] == 408


def test_who_has_just_come_is_told_to_try_again_instead_of_dropped():
    """Many at a time, none of whose requests is read yet: the service was busy, they did not keep it waiting."""
    with running(max_connections=3, grace_seconds=0.1) as (port, server, _), ExitStack() as opened:
        busy = opened.enter_context(connect(port, request("/busy")))
        time.sleep(0.1)
        others = [opened.enter_context(connect(port, request(more="Connection: close\r\n"))) for _ in range(5)]
        statuses = [int(rest_of(one)[0].split()[1]) for one in others]
        assert statuses == [200, 200, 503, 503, 503]
        busy.close()


def test_no_more_than_as_many_again_are_refused_at_a_time():
    with running(max_connections=2, grace_seconds=0.1) as (port, server, _), ExitStack() as opened:
        for _ in range(20):
            opened.enter_context(connect(port))
        end = time.monotonic() + 5
        while len(server.server_state.connections) != 4:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_where_all_are_being_answered_one_more_is_told_to_try_again():
    with running(max_connections=2, grace_seconds=0.1) as (port, server, _), ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(connect(port, request("/slow")))
        end = time.monotonic() + 5
        while len(server.server_state.tasks) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        with connect(port, request()) as third:
            found, _ = rest_of(third)
        assert (
            status_and_error(found) == (503, "too many connections: try again") and "retry-after: 1" in found.lower()
        )


def test_what_is_no_http_gets_json():
    with running() as (port, _, _), connect(port, b"JUNK\r\n\r\n") as opened:
        assert status_and_error(rest_of(opened)[0]) == (400, "the request is not valid HTTP/1.1")


def test_a_stop_waits_for_nobody_who_sends_slowly():
    with running(grace_seconds=0.5) as (port, server, thread), ExitStack() as opened:
        waiting = [opened.enter_context(connect(port, content)) for content in [POST, b"GET", b""] * 10]
        asked = opened.enter_context(connect(port, request("/slow")))
        end = time.monotonic() + 5
        while len(server.server_state.tasks) < 11:
            assert time.monotonic() < end
            time.sleep(0.01)
        start = time.monotonic()
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive() and time.monotonic() - start < 5
        # What was asked for and not answered within the grace is told so.
        assert status_and_error(rest_of(asked)[0]) == (503, "the service is stopping")
        for one in waiting:
            try:
                rest_of(one)
            except ConnectionResetError:
                pass


def test_more_connections_than_open_files_are_refused(monkeypatch):
    resource = pytest.importorskip("resource")
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    service._allow_open_files(200)
    service._allow_open_files(900)
    assert asked == [(900, 1000)]

    def refuse(kind, limits):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(DataError, match="allows 1000 open files, and 1100 are needed: lower --max_connections"):
        service._allow_open_files(1100)
