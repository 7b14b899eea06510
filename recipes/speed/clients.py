"""Clients of a service, in a process of their own that takes little time.

``clients.py closed PORT CLIENTS REQUESTS.json``: each client keeps a connection and sends its next request when it has
the answer to the last one. ``clients.py open PORT TIMES.json REQUESTS.json``: requests are sent at given times,
whether those before are answered or not. The time that an answer takes counts from the given time: what a late answer
delays is not left out (no coordinated omission).

``REQUESTS.json`` is a list of bodies for ``POST /recommend``, ``TIMES.json`` one of seconds after the start. Prints a
JSON object: wall seconds, own CPU seconds, and for each request its milliseconds, status (0: no answer) and answer; of
open clients also the milliseconds by which a request was sent late.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

LATE_SECONDS = 30.0  # after which an answer is not waited for


@dataclass
class Done:
    """An answered request; ``late`` are seconds between when it should be sent and when it was."""

    seconds: float
    status: int
    content: bytes = b"null"
    late: float = 0.0


@dataclass
class Connections:
    """Connections to the service: a free one, or another."""

    port: int
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Status and content of the answer."""
        while self.free:
            reader, writer = self.free.pop()
            if not (reader.at_eof() or writer.is_closing()):  # the service closes those that were idle
                break
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            head = ["POST /recommend HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
            writer.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
            content = await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if "connection: close" in lines:
            writer.close()
        else:
            self.free.append((reader, writer))
        return int(lines[0].split()[1]), content

    def close(self) -> None:
        for _, writer in self.free:
            writer.close()


async def closed(port: int, clients: int, bodies: list[bytes]) -> list[Done]:
    """Requests of clients that wait for their answers."""
    waiting, done = list(enumerate(bodies))[::-1], {}

    async def client() -> None:
        connections = Connections(port)
        while waiting:
            number, body = waiting.pop()
            start = time.perf_counter()
            status, content = await connections.ask(body)
            done[number] = Done(time.perf_counter() - start, status, content)
        connections.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return [done[number] for number in range(len(bodies))]


async def opened(port: int, times: list[float], bodies: list[bytes]) -> list[Done]:
    """Requests at given times."""
    connections, start = Connections(port), time.perf_counter()

    async def one(body: bytes, intended: float) -> Done:
        late = time.perf_counter() - intended
        try:
            async with asyncio.timeout(LATE_SECONDS):
                status, content = await connections.ask(body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            status, content = 0, b"null"
        return Done(time.perf_counter() - intended, status, content, late)

    tasks = []
    for after, body in zip(times, bodies):
        await asyncio.sleep(max(0.0, start + after - time.perf_counter()))
        tasks.append(asyncio.create_task(one(body, start + after)))
    done = list(await asyncio.gather(*tasks))
    connections.close()
    return done


def main(way: str, port: str, given: str, file: str) -> None:
    with open(file) as requests:
        bodies = [json.dumps(body).encode() for body in json.load(requests)]
    start, cpu = time.perf_counter(), time.process_time()
    if way == "closed":
        done = asyncio.run(closed(int(port), int(given), bodies))
    else:
        with open(given) as times:
            done = asyncio.run(opened(int(port), json.load(times), bodies))
    found = {
        "wall_seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "milliseconds": [1e3 * one.seconds for one in done],
        "statuses": [one.status for one in done],
        "answers": [json.loads(one.content) for one in done],
        "late_milliseconds": [1e3 * one.late for one in done],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
