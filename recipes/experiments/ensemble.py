"""T5s of several seeds alone, and their answers merged.

    python recipes/experiments/ensemble.py --models runs/beauty/model runs/beauty/model1 --dataset datasets/beauty

Merged: an item's probability is its mean over the models, 0 where it is not among a model's beams. Validation says
what merging gives; the test is read once for each row.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import next_item_metrics
from tiger.evaluation.results import command_line
from tiger.evaluation.training_split import split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments
from tiger.training.validation_counts import without_validation_counts
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

PARTS = ("valid", "test")


@dataclass
class EnsembleArguments:
    models: list[str] = field(metadata={"help": "saved recommenders, trained on one split of the dataset"})
    dataset: str = field(metadata={"help": "the dataset directory that they were trained on"})
    results_dir: str = "recipes/results/ensemble"
    num_beams: int = 50


def main() -> None:
    (args,) = parse_arguments([EnsembleArguments])
    data = RecommendationData.load(args.dataset)
    rows, found = [], {part: [] for part in PARTS}
    ties = None
    for number, name in enumerate(args.models):
        tiger = TigerRecommender.from_pretrained(name, torch.accelerator.current_accelerator() or "cpu")
        if tiger.tokenizer.item_ids != data.item_ids:
            raise DataError(f"{name} knows other items than {args.dataset} holds.")
        if number and tiger.training.get("shuffle_ties") != ties:
            raise DataError(f"{name} was trained on another split than {args.models[0]}.")
        ties = tiger.training.get("shuffle_ties")
        split, _ = split_of_model(data, np.arange(data.num_items), tiger.training, args.dataset)
        split = without_validation_counts(tiger, split)
        row = {"model": "alone", "seed": tiger.training.get("seed")}
        for part in PARTS:
            histories, targets = split.part(part)
            with torch.autocast(tiger.device.type, torch.bfloat16):
                answers = tiger.recommend_rows(
                    histories, k=args.num_beams, num_beams=args.num_beams, rank=False, progress=True
                )
            found[part].append(answers)
            row[part] = rounded(next_item_metrics(answers[0], targets))
        rows.append(row)
        print(row, flush=True)
    merged = {part: rounded(next_item_metrics(merge(found[part], 10), split.part(part)[1])) for part in PARTS}
    rows.append({"model": f"merged, {len(args.models)} models"} | merged)
    print(rows[-1])
    content = {"dataset": Path(args.dataset).name, "num_beams": args.num_beams, "rows": rows}
    content["command"] = command_line(sys.argv)
    Path(args.results_dir).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(args.results_dir) / f"{content['dataset']}.json", json.dumps(content, indent=1) + "\n")


def merge(answers: list[tuple[np.ndarray, np.ndarray]], k: int, chunk: int = 512) -> np.ndarray:
    """Rows int64 [users, k] of the largest sums of probabilities, -1 where there are fewer.

    Args:
        answers: of each model, rows int [users, m], -1 where none, and log-probabilities [users, m].
        chunk: users at a time.
    """
    num_items = 1 + max(int(rows.max(initial=0)) for rows, _ in answers)
    found = []
    for start in range(0, len(answers[0][0]), chunk):
        some = [(rows[start : start + chunk], scores[start : start + chunk]) for rows, scores in answers]
        sums = np.zeros((len(some[0][0]), max(num_items, k) + 1))
        for rows, scores in some:
            np.add.at(sums, (np.arange(len(rows))[:, None], rows), np.exp(scores.astype(np.float64)))
        values, best = torch.from_numpy(sums[:, :-1]).topk(k, dim=1)  # "no item" stands in the last column
        found.append(best.masked_fill(values == 0, -1).numpy())
    return np.concatenate(found)


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in metrics.items()}


if __name__ == "__main__":
    with friendly_errors():
        main()
