"""All test users of a data set through the beam search on every core, and the metrics.

python recipes/speed/evaluation.py [--dataset datasets/beauty] [--beams 50]
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch
from benchmark import SpeedArguments, interleaved, load_or_make, write_result

from tiger.cli.common import friendly_errors
from tiger.evaluation.metrics import next_item_metrics
from tiger.training.arguments import parse_arguments

BARS = {"all test users of Beauty at 50 beams, minutes on 2 cores, at most": 4.0, "metrics, ms, at most": 50.0}


@dataclass
class EvaluationSpeedArguments(SpeedArguments):
    beams: int = 50


def main() -> None:
    (args,) = parse_arguments([EvaluationSpeedArguments])
    recommender, data = load_or_make(args)
    histories, targets = data.leave_one_out().part("test")
    start, cpu = time.perf_counter(), time.process_time()
    with torch.autocast("cpu", torch.bfloat16):
        answers, _ = recommender.recommend_rows(histories, k=10, num_beams=args.beams, progress=True)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    metrics = interleaved({"metrics": lambda: next_item_metrics(answers, targets)}, args.repeats)
    content = {
        "what": f"{len(targets)} users, {args.beams} beams, bfloat16, {os.cpu_count()} cores",
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "users_per_second": round(len(targets) / wall, 1),
        "metrics_ms": round(1e3 * metrics["metrics"]["wall_seconds"], 2),
        "bars": BARS,
    }
    print(content)
    write_result(args, "evaluation", content)


if __name__ == "__main__":
    with friendly_errors():
        main()
