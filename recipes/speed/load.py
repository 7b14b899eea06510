"""Clients of a service, in a process of their own that takes little time: ``load.py PORT CLIENTS REQUESTS.json``.

Each client keeps a connection and sends its next request when it has the answer to the last one. The file holds a list
of bodies for ``POST /recommend``. Prints a JSON object: wall seconds, own CPU seconds, and for each request its
milliseconds, status and answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def client(port: int, waiting: list[tuple[int, bytes]], done: dict[int, tuple[float, int, bytes]]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while waiting:
        number, body = waiting.pop()
        start = time.perf_counter()
        head = f"POST /recommend HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(head.encode() + b"\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        lines = answer.decode().lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
        content = await reader.readexactly(length)
        done[number] = (1e3 * (time.perf_counter() - start), int(lines[0].split()[1]), content)
    writer.close()


async def main(port: int, clients: int, file: str) -> None:
    with open(file) as opened:
        bodies = json.load(opened)
    waiting = [(number, json.dumps(body).encode()) for number, body in enumerate(bodies)][::-1]
    done: dict[int, tuple[float, int, bytes]] = {}
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(port, waiting, done) for _ in range(clients)))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    found = [done[number] for number in range(len(bodies))]
    print(
        json.dumps(
            {
                "wall_seconds": wall,
                "cpu_seconds": cpu,
                "milliseconds": [milliseconds for milliseconds, _, _ in found],
                "statuses": [status for _, status, _ in found],
                "answers": [json.loads(content) for _, _, content in found],
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
