"""Measure a saved recommender on test items, beside the yardsticks.

    python recipes/evaluate.py recipes/demo/evaluate.yaml [--key value ...]

Prints a table and writes the results as JSON. A model is measured on the split that it was trained on (ties as
published or shuffled): on another one, its training data would hold test items.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.baselines import Hybrid, evaluate_yardsticks
from tiger.evaluation.metrics import hit_ranks, next_item_metrics_per_user
from tiger.evaluation.significance import bootstrap_interval, bootstrap_p
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


@dataclass
class EvaluateArguments:
    dataset: str = field(metadata={"help": "dataset directory, or owner/name on the Hub"})
    results_dir: str = field(metadata={"help": "where the JSON files go, one a model"})
    models: list[str] = field(default_factory=list, metadata={"help": "saved recommenders; none: yardsticks alone"})
    name: str = field(default="tiger", metadata={"help": "what to call the model in the table"})
    part: str = field(default="test", metadata={"help": "test; or valid, of which a second stage has learned"})
    num_beams: int = 50
    tie_seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "for the yardsticks, ties shuffled"})
    note: str | None = field(default=None, metadata={"help": "what a reader of the model's results should know"})
    examples: int = field(default=0, metadata={"help": "print so many users' histories and recommendations"})
    bf16: bool = field(default=True, metadata={"help": "decode in bfloat16"})
    yardsticks: bool = field(default=True, metadata={"help": "measure the training-free methods as well"})
    ranks_dir: str | None = field(
        default=None, metadata={"help": "where the place of every user's target goes, a safetensors file a model"}
    )


def main() -> None:
    (args,) = parse_arguments([EvaluateArguments])
    device = torch.accelerator.current_accelerator() or "cpu"
    recommenders = [TigerRecommender.from_pretrained(folder, device) for folder in args.models]
    data = RecommendationData.load(args.dataset)
    results = []
    for seed in (None, *args.tie_seeds) if args.yardsticks else ():
        results += yardsticks(args, data, seed)
    for recommender in recommenders:
        results += measure(args, data, recommender)
        if args.examples:
            show(args, data, recommender)
    results = over_seeds(results)
    print(table(results))
    Path(args.results_dir).mkdir(parents=True, exist_ok=True)
    for model in dict.fromkeys(row["model"] for row in results):
        file = Path(args.results_dir) / f"{model}.json"
        rows = [row for row in results if row["model"] == model]
        # What was measured before in other settings stays.
        before = json.loads(file.read_text()) if file.exists() else []
        rows += [row for row in before if row["setting"] not in {new["setting"] for new in rows}]
        write_atomically(file, json.dumps(rows, indent=1) + "\n")
    print(f"results: {args.results_dir}")


def yardsticks(args: EvaluateArguments, data: RecommendationData, seed: int | None) -> list[dict]:
    """A result for each yardstick and way with the history."""
    split, texts = data.leave_one_out(seed), item_texts(data.items, required=False)
    rows = []
    for exclude_history in (True, False):
        start = time.perf_counter()
        for model, metrics in evaluate_yardsticks(split, texts, args.part, exclude_history=exclude_history).items():
            seeds = [] if seed is None else [seed]
            setting = describe(args, seed is not None, exclude_history)
            rows.append(result(args, model, setting, metrics, seeds, time.perf_counter() - start, encoder=None))
    return rows


def measure(args: EvaluateArguments, data: RecommendationData, recommender: TigerRecommender) -> list[dict]:
    """A result for each way with the history, of the T5 alone and, where there is a ranker, of both stages."""
    if recommender.tokenizer.item_ids != data.item_ids:
        raise DataError(f"the model knows other items than {args.dataset} holds: evaluate it on its own dataset.")
    seed = recommender.training.get("shuffle_ties")
    split = data.leave_one_out(seed)
    histories, targets = split.part(args.part)
    base = {}
    if args.yardsticks:
        hybrid = Hybrid().fit(split.train, item_texts(data.items, required=False))
        base = {
            removed: next_item_metrics_per_user(hybrid.recommend(histories, 10, removed)[0], targets)["ndcg@10"]
            for removed in (True, False)
        }
    rows, ranks = [], {}
    second = "two-stage" if isinstance(recommender.ranker, TwoStageRanker) else f"{args.name}-ranked"
    stages = [args.name] if recommender.ranker is None else [args.name, second]
    if recommender.ranker is not None and recommender.ranker.learned_from == args.part:
        stages = [args.name]
        print("The second stage learned from validation items: only the T5 is measured on them.")
    for exclude_history in (True, False):
        start = time.perf_counter()
        with torch.autocast(recommender.device.type, torch.bfloat16, enabled=args.bf16):
            proposed, scores = recommender.recommend_rows(
                histories,
                k=max(10, args.num_beams),
                num_beams=args.num_beams,
                exclude_history=exclude_history,
                progress=True,
                rank=False,
            )
        alone = None
        for stage in stages:
            answers = proposed[:, :10]
            if stage == args.name:
                ranks[describe(args, seed is not None, exclude_history)] = places(proposed, targets)
            if stage == second:
                answers = recommender.ranker.order(histories, proposed, scores, 10, exclude_history)[0]
            users = next_item_metrics_per_user(answers, targets)
            row = result(
                args,
                stage,
                describe(args, seed is not None, exclude_history),
                {name: values.mean() for name, values in users.items()},
                [recommender.training.get("seed")],
                time.perf_counter() - start,
                encoder=None if recommender.encoder is None else recommender.encoder.name,
            )
            alone = users["ndcg@10"] if alone is None else alone
            row["by user"] = users["ndcg@10"], base.get(exclude_history, users["ndcg@10"]), alone
            row |= {"training": recommender.training, "num_beams": args.num_beams}
            row["empty_places"] = float(np.mean(answers < 0))
            rows.append(row | ({"note": args.note} if args.note else {}))
    if args.ranks_dir is not None:
        Path(args.ranks_dir).mkdir(parents=True, exist_ok=True)
        seed = recommender.training.get("seed")
        write_atomically(Path(args.ranks_dir) / f"{args.name}-seed{seed}.safetensors", save(ranks))
    return rows


def places(ranked: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of every user's target in his list: uint8 [users], 0 for the first place, 255 where it is not in it. Users as
    :class:`tiger.data.splits.LeaveOneOut` orders them."""
    ranks = hit_ranks(ranked, targets)
    return np.where(ranks < min(ranked.shape[1], 255), ranks, 255).astype(np.uint8)


def over_seeds(rows: list[dict]) -> list[dict]:
    """One result a model and setting: means over seeds, and their standard deviations.

    What is said of users is said of each user's mean over seeds.
    """
    merged = []
    for model, setting in dict.fromkeys((row["model"], row["setting"]) for row in rows):
        same = [row for row in rows if (row["model"], row["setting"]) == (model, setting)]
        by_user = [row.pop("by user") for row in same if "by user" in row]
        values = {name: np.array([row["metrics"][name] for row in same]) for name in METRICS}
        merged.append(
            same[0]
            | {
                "seeds": [seed for row in same for seed in row["seeds"]],
                "metrics": {name: round(float(found.mean()), 5) for name, found in values.items()},
                "std": {name: round(float(found.std(ddof=1)), 5) for name, found in values.items()}
                if same[1:]
                else {},
                "seconds": round(sum(row["seconds"] for row in same), 1),
            }
        )
        if by_user:
            own, hybrid, alone = np.mean(by_user, axis=0)
            told = {"interval of ndcg@10": [round(value, 5) for value in bootstrap_interval(own)]}
            for name, other in (("the hybrid", hybrid), ("the T5", alone)):
                if not np.array_equal(own, other):
                    told[f"more than {name}, ndcg@10"] = round(float((own - other).mean()), 5)
                    told[f"p against {name}"] = bootstrap_p(own - other)
            merged[-1]["over users"] = told
    return merged


def describe(args: EvaluateArguments, shuffled: bool, exclude_history: bool) -> str:
    ties = "ties shuffled" if shuffled else "as published"
    history = "history removed" if exclude_history else "history kept"
    return ", ".join([ties, history] + ([] if args.part == "test" else [args.part]))


def result(args, model: str, setting: str, metrics: dict, seeds: list, seconds: float, encoder: str | None) -> dict:
    return {
        "dataset": Path(args.dataset).name,
        "model": model,
        "setting": setting,
        "encoder": encoder,
        "seeds": seeds,
        "metrics": {name: round(float(metrics[name]), 5) for name in METRICS},
        "std": {},
        "seconds": round(seconds, 1),
        "hardware": f"{torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + ' CPU'}, "
        f"{torch.get_num_threads()} threads",
        "command": shlex.join(["python", *sys.argv]),
    }


def table(results: list[dict]) -> str:
    """The results as text, best NDCG@10 last within each setting."""
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in results):
        lines += [
            "",
            f"{results[0]['dataset']}, {setting}",
            "  " + "model".ljust(16) + "".join(f"{m:>11}" for m in METRICS),
        ]
        rows = [row for row in results if row["setting"] == setting]
        for row in sorted(rows, key=lambda row: row["metrics"]["ndcg@10"]):
            values = "".join(f"{row['metrics'][metric]:>11.4f}" for metric in METRICS)
            lines.append("  " + row["model"].ljust(16) + values)
    return "\n".join(lines + [""])


def show(args: EvaluateArguments, data: RecommendationData, recommender: TigerRecommender) -> None:
    """A few users, by title: what they had, what came, what is recommended."""
    split = data.leave_one_out(recommender.training.get("shuffle_ties"))
    users = np.linspace(0, len(split.users) - 1, args.examples + 2).astype(int)[1:-1]
    histories, targets = split.part(args.part)
    histories = histories.select(users)
    answers, scores = recommender.recommend_rows(histories, k=5, num_beams=args.num_beams)
    ids = recommender.tokenizer.item_ids
    for user, history, answer, score in zip(users, histories, answers, scores):
        target = int(targets[user])
        print(f"\nuser {data.user_ids[int(split.users[user])]}, the last of {len(history)} items:")
        for name in recommender.titles([ids[row] for row in history[-5:]]):
            print(f"    {name}")
        print(f"  then came {recommender.titles([ids[target]])[0]}; recommended:")
        for name, row, value in zip(recommender.titles([ids[row] for row in answer]), answer, score):
            print(f"  {'*' if row == target else ' '} {value:6.2f}  {name}")


if __name__ == "__main__":
    with friendly_errors():
        main()
