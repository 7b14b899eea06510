"""A live service under hostile requests: each is refused in one line or answered, and the service goes on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.subjects import MODELS, Subjects
from tests.faults.trying import CRASH, HANG, LOST, RIGHT, TRACEBACK, WRONG, Fault, Plan, forked, redirect, wait
from tiger.recommender.recommender import TigerRecommender

PATHS = ["/recommend", "/rank", "/items", "/health", "/metrics", "/items/nobody", "/", "/openapi.json", "/../etc"]
VALUES: list[Any] = [None, True, -1, 0, 1, 10**30, 0.5, 1e308, "", "x" * 100_000, "\ud800", [], {}, [[]], [None]]


def plan(random: Random, subjects: Subjects) -> Plan:
    """A service of its own, a few hostile requests beside ordinary ones, then SIGTERM."""
    names = [random.choice(sorted(HOSTILE)) for _ in range(random.randrange(3, 8))]
    model = random.choice(MODELS)
    return Plan(
        "requests", f"{model} {', '.join(names)}", lambda folder: _tried(random, subjects, model, names, folder)
    )


def _tried(random: Random, subjects: Subjects, model: str, names: list[str], folder: Path) -> str:
    copy = TigerRecommender.from_pretrained(subjects.folder / "models" / model)
    ids = copy.tokenizer.item_ids
    body = json.dumps({"histories": [ids[:3]], "k": 5, "num_beams": 8, "exclude_history": True})
    expected, _ = copy.recommend([ids[:3]], k=5, num_beams=8)
    child = forked(lambda: _serve(copy, folder / "output"))
    try:
        port = _port(folder / "output", child)
        for name in names:
            _survives(port, name, lambda: HOSTILE[name](random, port, ids), body, expected)
        os.kill(child, signal.SIGTERM)
        code = wait(child, 30)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    printed = (folder / "output").read_text(errors="replace")
    if code != 0:
        raise Fault(HANG if code is None else CRASH, f"after SIGTERM: {code}; {printed[-500:]}")
    if "Traceback" in printed:
        raise Fault(TRACEBACK, " ".join(printed[printed.index("Traceback") :].split())[-700:])
    return RIGHT


def _serve(recommender: TigerRecommender, output: Path) -> None:
    from tiger.serving.service import create_app, serve

    redirect(output)
    serve(create_app(recommender), port=0)


def _port(output: Path, child: int) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        text = output.read_text() if output.exists() else ""
        if "/docs" in text:
            port = int(text.partition("http://127.0.0.1:")[2].partition("/")[0])
            while time.monotonic() < deadline:
                if _asked(port, "GET", "/health")[0] == 200:
                    return port
        time.sleep(0.005)
    raise Fault(HANG, "the service doesn't start")


def _survives(port: int, name: str, attack: Callable[[], list[int]], body: str, expected: list[list[str]]) -> None:
    """Make a hostile request while an ordinary one is answered."""
    found: list[tuple[int, str]] = []
    beside = threading.Thread(target=lambda: found.append(_asked(port, "POST", "/recommend", body)))
    beside.start()
    statuses = attack()
    print(name, statuses, flush=True)
    for status in statuses:
        if status >= 500 and status != 503:
            raise Fault(TRACEBACK, f"{name}: status {status}")
    beside.join()
    found.append(_asked(port, "POST", "/recommend", body))
    if len(found) < 2:
        raise Fault(HANG, f"{name}: an ordinary request beside it has no answer")
    for status, text in found:
        if status != 200:
            raise Fault(LOST, f"{name}: an ordinary request has status {status}: {text[:200]}")
        items = json.loads(text)["recommendations"][0]["items"]
        if len(items) != 5 or (name not in CHANGING and items != expected[0] and not _changed.is_set()):
            raise Fault(WRONG, f"{name}: {items} where {expected[0]} should be")
    if _asked(port, "GET", "/health")[0] != 200:
        raise Fault(LOST, f"{name}: /health")


def _asked(port: int, method: str, path: str, body: str | bytes | None = None, headers: dict | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers or {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except TimeoutError as error:
        raise Fault(HANG, f"{method} {path}") from error
    finally:
        connection.close()


def _sent(port: int, content: bytes, answer: bool = True) -> list[int]:
    """Send bytes as they are; the status of the answer, if one comes before the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(content)
            if not answer:
                return []
            connection.shutdown(socket.SHUT_WR)
            first = connection.makefile("rb").readline().split()
        except (ConnectionError, BrokenPipeError):  # it hung up on us, as it may
            return []
    return [int(first[1])] if len(first) > 1 else []


def _bodies(random: Random, ids: list[str]) -> dict[str, Any]:
    """A sound body for each path."""
    return {
        "/recommend": {"histories": [random.sample(ids, 3)], "k": 3, "num_beams": 8},
        "/rank": {"lists": [{"history": ids[:2], "candidates": random.sample(ids, 4)}]},
        "/items": {"items": [{"item_id": f"new-{random.random()}", "text": "Title: A lamp"}]},
    }


def _malformed(random: Random, port: int, ids: list[str]) -> list[int]:
    found = []
    for path, sound in _bodies(random, ids).items():
        content = bytearray(json.dumps(sound).encode())
        for _ in range(random.randrange(1, 4)):
            content[random.randrange(len(content))] = random.randrange(256)
        found.append(_asked(port, "POST", path, bytes(content[: random.randrange(1, len(content) + 1)]))[0])
    _changed.set()
    return found


def _odd_values(random: Random, port: int, ids: list[str]) -> list[int]:
    found = []
    for path, sound in _bodies(random, ids).items():
        places: list[tuple[Any, Any]] = []

        def walk(one: Any, places: list = places) -> None:
            pairs = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
            for key, value in pairs:
                places.append((one, key))
                walk(value, places)

        walk(sound)
        holder, key = random.choice(places)
        holder[key] = random.choice(VALUES)
        found.append(_asked(port, "POST", path, json.dumps(sound))[0])
    _changed.set()
    return found


def _deep(random: Random, port: int, ids: list[str]) -> list[int]:
    depth = random.choice([100, 10_000, 1_000_000])
    content = random.choice(["[" * depth, '{"histories":' * depth, "[" * depth + "]" * depth])
    return [_asked(port, "POST", random.choice(PATHS[:3]), content[: 4 << 20])[0]]


def _huge(random: Random, port: int, ids: list[str]) -> list[int]:
    return _sent(
        port, b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (6 << 20) + b"[" * (6 << 20)
    )


def _endless(random: Random, port: int, ids: list[str]) -> list[int]:
    chunk = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
    return _sent(port, b"POST /items HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 6)


def _hung_up(random: Random, port: int, ids: list[str]) -> list[int]:
    body = json.dumps(_bodies(random, ids)["/recommend"]).encode()
    whole = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for _ in range(5):
        _sent(port, whole[: random.randrange(1, len(whole) + 1)], answer=False)
    return []


def _noise(random: Random, port: int, ids: list[str]) -> list[int]:
    content = random.choice([random.randbytes(500), b"\x16\x03\x01" + random.randbytes(200), b"GET " + b"/" * 100_000])
    return _sent(port, content + b"\r\n\r\n")


def _methods(random: Random, port: int, ids: list[str]) -> list[int]:
    method = random.choice(["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD", "BREW"])
    return [_asked(port, method, path)[0] for path in random.sample(PATHS, 4)]


def _headers(random: Random, port: int, ids: list[str]) -> list[int]:
    body = json.dumps(_bodies(random, ids)["/recommend"])
    headers = random.choice(
        [
            {"Content-Type": "text/plain"},
            {"Content-Type": "multipart/form-data"},
            {"X": "y" * 60_000},
            {"Content-Length": "-5"},
            {"Content-Length": "9" * 5000},
            {"Content-Encoding": "gzip"},
            {"Expect": "x"},
        ]
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in ({"Content-Length": len(body)} | headers).items())
    return _sent(port, f"POST /recommend HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}".encode())


def _updates(random: Random, port: int, ids: list[str]) -> list[int]:
    """Items come and go while many ask."""
    _changed.set()
    found: list[int] = []
    body = json.dumps(_bodies(random, ids)["/recommend"])
    ask = [
        threading.Thread(target=lambda: found.append(_asked(port, "POST", "/recommend", body)[0])) for _ in range(8)
    ]
    for thread in ask:
        thread.start()
    names = [f"new/{random.random()}" for _ in range(3)]
    for name in names:
        found.append(_asked(port, "POST", "/items", json.dumps({"items": [{"item_id": name, "text": "lamp"}]}))[0])
    found += [_asked(port, "DELETE", f"/items/{name}")[0] for name in names]
    for thread in ask:
        thread.join()
    if set(found) != {200}:
        raise Fault(LOST, f"updates under load: {found}")
    return found


def _long_ids(random: Random, port: int, ids: list[str]) -> list[int]:
    name = random.choice(["%00", "%ff%fe", "..%2f..%2fetc", "x" * 5000, "%F0%9F%90%AF", "a b".replace(" ", "%20")])
    return [_asked(port, "DELETE", f"/items/{name}")[0]]


_changed = threading.Event()  # the catalog may have been: answers may be others then
CHANGING = {"malformed", "odd values", "updates"}
HOSTILE: dict[str, Callable[[Random, int, list[str]], list[int]]] = {
    "malformed": _malformed,
    "odd values": _odd_values,
    "deep": _deep,
    "huge": _huge,
    "endless": _endless,
    "hung up": _hung_up,
    "noise": _noise,
    "methods": _methods,
    "headers": _headers,
    "updates": _updates,
    "ids": _long_ids,
}
