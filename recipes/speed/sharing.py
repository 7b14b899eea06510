"""Accuracy with and without a shared encoder pass: the recipe trained both ways for equal epochs, then validated.

    python recipes/speed/sharing.py --recipe recipes/beauty/retriever.yaml --dataset datasets/beauty [--epochs 2]

``causal`` lets an item of the history see what came before it, so that one pass over a user encodes the histories of
all its targets; ``full`` is plain T5, one pass per target. Seed, targets per step and steps are equal.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from benchmark import SpeedArguments, write_result

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import next_item_metrics_per_user
from tiger.evaluation.significance import bootstrap_interval
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments

RETRIEVER = Path(__file__).parents[1] / "retriever.py"


@dataclass
class SharingArguments(SpeedArguments):
    recipe: str = field(default="recipes/beauty/retriever.yaml", metadata={"help": "the retriever's YAML"})
    epochs: int = field(default=2, metadata={"help": "of each, with the learning rate's whole course"})
    runs: str = field(default="runs/sharing", metadata={"help": "where both are trained"})
    num_beams: int = 20
    overrides: list[str] = field(default_factory=list, metadata={"help": "more for the retriever: key=value ..."})


def main() -> None:
    (args,) = parse_arguments([SharingArguments])
    histories, targets = RecommendationData.load(args.dataset).leave_one_out().part("valid")
    ways, users = {}, {}
    for attention in ("causal", "full"):
        folder = Path(args.runs) / attention
        train(args, attention, folder)
        recommender = TigerRecommender.from_pretrained(folder / "model")
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            answers, _ = recommender.recommend_rows(histories, k=10, num_beams=args.num_beams, progress=True)
        users[attention] = next_item_metrics_per_user(answers, targets)
        ways[attention] = {name: round(float(values.mean()), 5) for name, values in users[attention].items()}
        ways[attention]["training_seconds"] = recommender.training["seconds"]
        ways[attention]["validation_seconds"] = round(time.perf_counter() - start)
        print(attention, ways[attention])
    gaps = {name: interval(users["causal"][name] - users["full"][name]) for name in users["causal"]}
    content = {
        "what": f"validation after {args.epochs} epochs, {len(targets)} users, {args.num_beams} beams, one seed",
        "ways": ways,
        "causal minus full, with 95% of bootstraps over users": gaps,
    }
    write_result(args, "sharing", content)


def train(args: SharingArguments, attention: str, folder: Path) -> None:
    """One run of the retriever recipe; a finished one stays, a killed one goes on."""
    settings = {"dataset": args.dataset, "output_dir": folder / "training", "model_dir": folder / "model"}
    settings |= {"history_attention": attention, "num_train_epochs": args.epochs, "eval_strategy": "no"}
    settings |= {"load_best_model_at_end": "false", "patience": 0}
    settings |= dict(override.split("=", 1) for override in args.overrides)
    command = [sys.executable, str(RETRIEVER), args.recipe]
    command += [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    subprocess.run(command, check=True)


def interval(gaps: np.ndarray) -> dict[str, float]:
    """Mean over users, and where 95% of the bootstrapped means lie."""
    low, high = bootstrap_interval(gaps)
    return {"mean": round(float(gaps.mean()), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


if __name__ == "__main__":
    with friendly_errors():
        main()
