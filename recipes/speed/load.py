"""Latency of the service against offered load: requests arrive at random, whether those before are answered or not.

python recipes/speed/load.py [--model demo] [--shares 0.2 0.5 0.8 1.0 1.3 1.7 2.2] [--seconds 8] [--sweeps 2]

Arrivals are a Poisson process, and the time to an answer counts from when its request should be sent (clients.py). The
rates are shares of what 64 clients that wait for their answers get, measured first. The service has one core, the
clients the others. Each sweep is done with the queue of ``tiger serve`` and with a short one, which refuses earlier.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from benchmark import SpeedArguments, write_result
from service import load, run_clients, service

from tiger.cli.common import friendly_errors
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments

CLOSED_CLIENTS = 64
NO_ANSWER = "no answer"  # the connection was closed, or half a minute had passed


@dataclass
class LoadArguments(SpeedArguments):
    dataset: str = field(default="demo", metadata={"help": "name of the model's data, for the record"})
    model: str = field(default="demo", metadata={"help": "a saved recommender"})
    shares: list[float] = field(
        default_factory=lambda: [0.2, 0.5, 0.8, 1.0, 1.3, 1.7, 2.2],
        metadata={"help": "offered rates, as shares of what clients that wait for their answers get"},
    )
    seconds: float = field(default=8.0, metadata={"help": "that each rate is offered"})
    sweeps: int = field(default=2, metadata={"help": "times that all rates are offered"})
    beams: int = field(default=20, metadata={"help": "beams of each request"})
    queues: list[int] = field(
        default_factory=lambda: [1024, 64], metadata={"help": "histories that may wait, as in tiger serve --max_queue"}
    )
    closed_requests: int = field(default=512, metadata={"help": "requests of the clients that wait"})


@contextmanager
def on_cores(cores: list[int]) -> Iterator[None]:
    """Let processes that are started here run on these cores only, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def service_on(cores: list[int], model: str, queue: int) -> Iterator[tuple[psutil.Process, int]]:
    """A service on these cores: the process and its port."""
    with ExitStack() as stack:
        with on_cores(cores):
            started = stack.enter_context(service(model, "--max_queue", str(queue)))
        yield started


def cores() -> tuple[list[int], list[int]]:
    """Cores of the service and of the clients; the same where there is one only."""
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return there[:1], there[1:] or there


def arrivals(rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Times of a Poisson process.

    Args:
        rate: a second, on average.
    """
    # Given their number, its times are as good as drawn one by one from the whole.
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def offer(process: psutil.Process, port: int, times: np.ndarray, bodies: list[dict], folder: str) -> dict:
    """Send requests at the times, and sum up what became of them."""
    files = [Path(folder, name) for name in ("times.json", "requests.json")]
    for file, content in zip(files, (times.tolist(), bodies)):
        file.write_text(json.dumps(content))
    used = sum(process.cpu_times()[:2])
    found = run_clients("open", str(port), *map(str, files))
    used = sum(process.cpu_times()[:2]) - used
    good = [ms for ms, status in zip(found["milliseconds"], found["statuses"]) if status == 200]
    errors = Counter(str(status or NO_ANSWER) for status in found["statuses"] if status != 200)

    def quantile(values: list[float], share: float) -> float | None:
        return round(float(np.quantile(values, share)), 1) if values else None

    return {
        "requests": len(bodies),
        "answered": len(good),
        "answered_a_second": round(len(good) / found["wall_seconds"], 1),
        "p50_ms": quantile(good, 0.5),
        "p99_ms": quantile(good, 0.99),
        "errors": dict(sorted(errors.items())),
        "sent_late_p99_ms": quantile(found["late_milliseconds"], 0.99),
        "service_cpu_ms_a_request": round(1e3 * used / max(len(good), 1), 2),
        "load_average": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    (args,) = parse_arguments([LoadArguments])
    ids, rng = TigerRecommender.from_pretrained(args.model).tokenizer.item_ids, np.random.default_rng(0)

    def histories(count: int) -> list[list[str]]:
        return [[str(item) for item in rng.choice(ids, rng.integers(1, 21), replace=False)] for _ in range(count)]

    service_cores, client_cores = cores()
    rows: list[dict] = []
    capacity = 0.0
    for queue in args.queues:
        with (
            service_on(service_cores, args.model, queue) as (process, port),
            on_cores(client_cores),
            TemporaryDirectory() as work,
        ):
            for _ in range(2 if not capacity else 1):  # the first warms up
                found = load(port, CLOSED_CLIENTS, histories(args.closed_requests), args.beams, work)
            capacity = capacity or args.closed_requests / found["wall_seconds"]
            for sweep, share in product(range(args.sweeps), args.shares):
                times = arrivals(share * capacity, args.seconds, rng)
                bodies = [{"histories": [one], "num_beams": args.beams} for one in histories(len(times))]
                row = {"queue": queue, "sweep": sweep + 1, "offered_a_second": round(share * capacity, 1)}
                rows.append(row | offer(process, port, times, bodies, work))
                print(rows[-1], flush=True)
    write_result(args, "load", result(args, capacity, rows))


def result(args: LoadArguments, capacity: float, rows: list[dict]) -> dict:
    """Content of ``load.json``."""
    loads = [row["load_average"] for row in rows]
    return {
        "what": f"open loop: Poisson arrivals, each rate for {args.seconds:g} s, one history a request, {args.beams} "
        "beams; milliseconds of answered requests from when they should be sent; the service on one core, the clients "
        f"on the other, and other work beside them: load averages {min(loads)} to {max(loads)}",
        "closed_loop": {"clients": CLOSED_CLIENTS, "answered_a_second": round(capacity, 1)},
        "niceness": os.nice(0) if hasattr(os, "nice") else None,
        "rows": rows,
    }


if __name__ == "__main__":
    with friendly_errors():
        main()
