"""The service under load on loopback, against the library called directly with the same histories.

python recipes/speed/service.py [--dataset datasets/beauty] [--model runs/beauty/model] [--beams 50] [--bf16 false]

Clients run in a process of their own (clients.py) and share the cores with the service, which the library called
directly does not have to do: wall figures are those of both together, CPU figures are the service's alone.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from benchmark import SpeedArguments, histories_of, load_or_make, write_result

from tiger.cli.common import friendly_errors
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.training.arguments import parse_arguments

BARS = {"throughput at 64 clients, of the library's, at least": 0.8, "errors": 0, "wrong answers": 0}
CLIENTS = {1: 64, 8: 256, 64: 512}  # and how many requests they make
UPDATES = 30


@dataclass
class ServiceSpeedArguments(SpeedArguments):
    beams: int = 50
    bf16: bool = True


@contextmanager
def service(folder: str, *options: str):
    """A service in a process of its own: the process and its port."""
    command = [sys.executable, "-m", "tiger.cli", "serve", folder, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid), int(process.stdout.readline().split(":")[-1].split("/")[0])
    finally:
        process.terminate()
        assert process.wait(60) == 0, "the service did not stop in good order"


def ask(port: int, method: str, path: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    ) as answer:
        return json.loads(answer.read())


def load(port: int, clients: int, histories: list[list[str]], beams: int, folder: str) -> dict:
    """Run the clients of clients.py, each of which waits for its answers, and return their results."""
    file = Path(folder, "requests.json")
    file.write_text(json.dumps([{"histories": [history], "num_beams": beams} for history in histories]))
    return run_clients("closed", str(port), str(clients), str(file))


def run_clients(*words: str) -> dict:
    """Run clients.py in a process of its own: what it prints."""
    command = [sys.executable, str(Path(__file__).with_name("clients.py")), *words]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def wrong(items: list[str], scores: list[float], expected: dict[str, float], last: float, tolerance: float) -> bool:
    """Whether an answer is not the library's: equal but for rounding, and for which of equal items come in.

    Args:
        expected: the library's scores of more items than the answer has.
        last: its score of the last that should be in.
    """
    known = all(abs(expected.get(item, -np.inf) - score) <= tolerance for item, score in zip(items, scores))
    return not known or len(set(items)) < len(items) or min(scores) < last - tolerance


def check(found: dict, recommenders: dict, histories: list[list[str]], beams: int, tolerance: float) -> int:
    """Count answers of :func:`load` that differ from the library's over the catalog version that they name."""
    count = 0
    for catalogue in {answer["catalogue"] for answer in found["answers"]}:
        mine = [n for n, answer in enumerate(found["answers"]) if answer["catalogue"] == catalogue]
        items, scores = recommenders[catalogue].recommend([histories[n] for n in mine], k=beams, num_beams=beams)
        for n, ids, values in zip(mine, items, scores):
            (one,) = found["answers"][n]["recommendations"]
            count += int(wrong(one["items"], one["scores"], dict(zip(ids, values)), values[9], tolerance))
    return count


def main() -> None:
    (args,) = parse_arguments([ServiceSpeedArguments])
    recommender, data = load_or_make(args)
    # Updates need an encoder at hand. Which one makes no difference here: the codes of the new items may be any.
    texts = item_texts(data.items)
    dim = recommender.tokenizer.quantizer.input_dim
    recommender.encoder = LSAEncoder.fit(texts, dim=dim)
    ids = data.item_ids
    histories = [[ids[row] for row in history] for history in histories_of(data, max(CLIENTS.values()))]
    # The library at its best, all histories sorted by length, and with as many a call as 64 clients ask for at a time.
    direct = {"direct, one call": len(histories), "direct, 64 a call": 64}
    names = [*direct, *(f"{clients} clients" for clients in CLIENTS)]
    wall, cpu = {name: [] for name in names}, {name: [] for name in names}
    milliseconds, generator, errors = {name: [] for name in names}, [], 0
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model"))
        recommender.save_pretrained(model)
        with service(model, *(["--bf16"] if args.bf16 else [])) as (process, port):
            for turn in range(args.repeats + 1):  # the first warms up
                for name, together in direct.items():
                    start, used = time.perf_counter(), time.process_time()
                    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                        for first in range(0, len(histories), together):
                            part = histories[first : first + together]
                            recommender.recommend(part, num_beams=args.beams, batch_size=min(64, together // 2))
                    wall[name].append((time.perf_counter() - start) / len(histories))
                    cpu[name].append((time.process_time() - used) / len(histories))
                for clients, count in CLIENTS.items():
                    name, used = f"{clients} clients", sum(process.cpu_times()[:2])
                    found = load(port, clients, histories[:count], args.beams, folder)
                    wall[name].append(found["wall_seconds"] / count)
                    cpu[name].append((sum(process.cpu_times()[:2]) - used) / count)
                    generator.append(found["cpu_seconds"] / count)
                    errors += sum(status != 200 for status in found["statuses"])
                    if turn > 0:
                        milliseconds[name] += found["milliseconds"]
                print({name: round(1 / values[-1], 1) for name, values in wall.items()}, flush=True)
        updates = under_updates(args, recommender, texts, histories, model, folder)

    def median(values: list[float]) -> float:
        return statistics.median(values[1:])

    def share(times: dict[str, list[float]]) -> dict[str, float]:
        """Throughput at 64 clients of the library's, round by round."""
        return {
            name: round(statistics.median(a / b for a, b in zip(times[name][1:], times["64 clients"][1:])), 3)
            for name in direct
        }

    content = {
        "what": f"{args.beams} beams, {'bfloat16' if args.bf16 else 'float32'}, one history a request; medians of "
        f"{args.repeats} interleaved rounds; clients share the {os.cpu_count()} cores with the service",
        "requests_per_second": {name: round(1 / median(values), 1) for name, values in wall.items()},
        "cpu_ms_per_request": {name: round(1e3 * median(values), 2) for name, values in cpu.items()},
        "clients_cpu_ms_per_request": round(1e3 * statistics.median(generator), 2),
        "latency_ms": {
            name: {"p50": round(float(np.quantile(times, 0.5)), 1), "p99": round(float(np.quantile(times, 0.99)), 1)}
            for name, times in milliseconds.items()
            if times
        },
        "throughput_at_64_clients_of_the_library's": share(wall),
        "the_same_in_requests_a_cpu_second": share(cpu),
        "errors": errors,
        "updates_under_load": updates,
        "load_average": os.getloadavg()[0],
        "bars": BARS,
    }
    print(json.dumps(content, indent=1))
    write_result(args, "service", content)


def under_updates(args, recommender, texts, histories, model: str, folder: str) -> dict:
    """64 clients while items come and go; every answer is compared with the library's over the catalog it names."""
    recommenders, took = {0: recommender}, []
    with service(model) as (_, port):  # in float32, so that answers can be compared closely

        def update() -> None:
            for turn in range(UPDATES):
                following, start = copy.copy(recommenders[turn]), time.perf_counter()
                if turn % 3 < 2:
                    new = {f"new-{turn}-{n}": texts[(17 * turn + n) % len(texts)] for n in range(20)}
                    rows = [{"item_id": item, "text": text} for item, text in new.items()]
                    answer = ask(port, "POST", "/items", {"items": rows})
                    took.append(time.perf_counter() - start)
                    following.add_items(list(new), list(new.values()))
                else:
                    gone = following.tokenizer.item_ids[97 * turn]
                    answer = ask(port, "DELETE", f"/items/{gone}")
                    took.append(time.perf_counter() - start)
                    following.remove_items([gone])
                assert answer["catalogue"] == turn + 1 and answer["items"] == len(following.tokenizer)
                recommenders[turn + 1] = following
                time.sleep(0.1)

        thread = threading.Thread(target=update)
        thread.start()
        found, rounds = None, 0
        while thread.is_alive() or found is None:
            more = load(port, 64, histories, args.beams, folder)
            rounds += 1
            found = more if found is None else {key: found[key] + more[key] for key in found}
        thread.join()
    asked = histories * rounds
    return {
        "updates": UPDATES,
        "requests": len(asked),
        "catalogues_seen": len({answer["catalogue"] for answer in found["answers"]}),
        "errors": sum(status != 200 for status in found["statuses"]),
        "wrong_answers": check(found, recommenders, asked, args.beams, tolerance=1e-3),
        "update_ms": {"p50": round(1e3 * float(np.quantile(took, 0.5))), "worst": round(1e3 * max(took))},
    }


if __name__ == "__main__":
    with friendly_errors():
        main()
