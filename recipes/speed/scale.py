"""Cost of Ray: the same log answered by one process, by one worker and by two, in turn.

    python recipes/speed/scale.py [--users 8000] [--items 12000] [--repeats 2]

Each run is a command of its own. CPU time is that of all its processes, those of Ray among them, looked at twice a
second. Two sizes of log tell what starting costs from what users cost.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmark import SpeedArguments, write_result

from tiger.cli.common import friendly_errors
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.config import t5_config
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.arguments import parse_arguments

WAYS: dict[str, list[str]] = {
    "one process": [],
    "1 worker": ["--engine", "ray", "--workers", "1"],
    "2 workers": ["--engine", "ray", "--workers", "2"],
}
TICKS = os.sysconf("SC_CLK_TCK")
BARS = {
    "CPU of 1 worker over one process, at most": 1.15,
    "speed of 2 workers over 1, on two free cores, at least": 1.8,
}


@dataclass
class ScaleArguments(SpeedArguments):
    users: int = field(default=8000, metadata={"help": "users of the larger log; the smaller has a quarter"})
    items: int = field(default=12_000, metadata={"help": "items of the catalog"})
    repeats: int = field(default=2, metadata={"help": "rounds"})


def make_inputs(folder: Path, args: ScaleArguments) -> dict[int, Path]:
    """A recommender with random weights of the paper's sizes, and logs of two sizes."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (args.items, 3))
    tokenizer = SemanticIdTokenizer(codes, [f"item-{row}" for row in range(args.items)], 256)
    TigerRecommender(TigerT5(t5_config(tokenizer)), tokenizer).save_pretrained(folder / "model")
    logs = {}
    for users in (args.users // 4, args.users):
        logs[users] = folder / f"{users}.parquet"
        events = 8 * users
        table = {
            "user_id": [f"user {row}" for row in np.arange(events) % users],
            "item_id": [f"item-{row}" for row in random.integers(0, args.items, events)],
            "timestamp": np.arange(events),
        }
        pq.write_table(pa.table(table), logs[users])
    return logs


def timed(words: list[str], attempts: int = 3) -> dict[str, float]:
    """CPU and wall seconds of a command and of all that it starts."""
    mark = secrets.token_hex(32)  # of the session, too: its processes are known by it
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TQDM_DISABLE": "1", "RAY_AUTH_TOKEN": mark}
    begin, seen = time.perf_counter(), {}
    process = subprocess.Popen(
        [sys.executable, "-m", "tiger.cli", *words], env=os.environ | threads, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        seen |= cpu_by_process(f"RAY_AUTH_TOKEN={mark}".encode())
        time.sleep(0.5)
    if process.returncode == 2 and attempts > 1:  # a machine that is too busy for Ray to start on
        return timed(words, attempts - 1)
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return {"cpu_seconds": sum(seen.values()), "wall_seconds": time.perf_counter() - begin}


def cpu_by_process(mark: bytes) -> dict[int, float]:
    """CPU seconds of the processes with this in their environment."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (place / "environ").read_bytes().split(b"\0"):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                found[int(place.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    return found


def measure(args: ScaleArguments, folder: Path) -> dict:
    """All ways and sizes, round after round."""
    logs = make_inputs(folder, args)
    runs: dict[str, dict[int, list[dict]]] = {way: {users: [] for users in logs} for way in WAYS}
    for turn in range(args.repeats):
        for users, log in logs.items():
            for way, more in WAYS.items():
                out = folder / f"{turn}-{users}-{way.replace(' ', '-')}.parquet"
                words = ["recommend", str(folder / "model"), "--histories", str(log), "--out", str(out)]
                words += ["--num_beams", "50", "--part_events", "4000", "--device", "cpu", *more]
                runs[way][users].append(timed(words))
                print(turn, users, way, runs[way][users][-1], flush=True)
                if out.read_bytes() != (folder / f"{turn}-{users}-one-process.parquet").read_bytes():
                    raise RuntimeError(f"{way} gives another file than one process")
    return {way: {users: of_users for users, of_users in sizes.items()} for way, sizes in runs.items()}


def summary(runs: dict) -> dict:
    """Least CPU and wall seconds of each way and size, and the ratios that the bars are for."""

    def least(name: str) -> dict[str, dict]:
        return {
            way: {users: round(min(one[name] for one in found), 1) for users, found in sizes.items()}
            for way, sizes in runs.items()
        }

    cpu, wall = least("cpu_seconds"), least("wall_seconds")
    extra = {users: round(cpu["1 worker"][users] - cpu["one process"][users], 1) for users in cpu["1 worker"]}
    most = list(extra)[-1]
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "CPU seconds of 1 worker beyond one process": extra,
        # Of the larger extra: it is what starting costs, whatever the number of users.
        "CPU of 1 worker over one process, in five minutes": round(1 + max(extra.values()) / 300, 3),
        "speed of 2 workers over 1, by wall time": round(wall["1 worker"][most] / wall["2 workers"][most], 2),
    }


def main() -> None:
    (args,) = parse_arguments([ScaleArguments])
    with tempfile.TemporaryDirectory() as scratch:
        runs = measure(args, Path(scratch))
    content = {
        "dataset": "made",
        "what": f"{args.users} users, {args.items} items, 50 beams, bfloat16; all processes, {args.repeats} rounds",
        "load_average": round(os.getloadavg()[0], 1),
        "bars": BARS,
        "measured": summary(runs),
        "runs": json.loads(json.dumps(runs)),
    }
    write_result(args, "scale", content)


if __name__ == "__main__":
    with friendly_errors():
        main()
