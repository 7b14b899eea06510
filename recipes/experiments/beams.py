"""Recall and cost by the number of beams, on validation users.

python recipes/experiments/beams.py --recommender runs/beauty/model --dataset datasets/beauty
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import next_item_metrics
from tiger.evaluation.results import write_experiment
from tiger.evaluation.training_split import split_of_model
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.arguments import parse_arguments
from tiger.training.validation_counts import without_validation_counts
from tiger.utils.errors import DataError


@dataclass
class BeamsArguments:
    recommender: str = field(metadata={"help": "a saved recommender"})
    dataset: str = field(metadata={"help": "the dataset directory that it was trained on"})
    results_dir: str = "recipes/results/beams"
    beams: list[int] = field(default_factory=lambda: [1, 2, 5, 10, 20, 50, 100, 200])
    users: int = 3000


def main() -> None:
    (args,) = parse_arguments([BeamsArguments])
    tiger = TigerRecommender.from_pretrained(args.recommender, torch.accelerator.current_accelerator() or "cpu")
    data = RecommendationData.load(args.dataset)
    if tiger.tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.recommender} knows other items than {args.dataset} holds.")
    split, _ = split_of_model(data, np.arange(data.num_items), tiger.training, args.dataset)
    split = without_validation_counts(tiger, split)
    users = EvaluationExamples(*split.part("valid")).sample(args.users)
    rows = []
    for beams in args.beams:
        start = time.perf_counter(), time.process_time()
        with torch.autocast(tiger.device.type, torch.bfloat16):
            answers, _ = tiger.recommend_rows(users.histories, k=beams, num_beams=beams, rank=False)
        row = {"beams": beams, "seconds": round(time.perf_counter() - start[0], 2)}
        row |= {"cpu_seconds": round(time.process_time() - start[1], 2)}
        ten = np.pad(answers, ((0, 0), (0, max(0, 10 - beams))), constant_values=-1)
        row |= {name: round(float(value), 5) for name, value in next_item_metrics(ten, users.targets).items()}
        row["recall@beams"] = round(float((answers == users.targets[:, None]).any(axis=1).mean()), 5)
        rows.append(row)
        print(row, flush=True)
    found = {"users": len(users), "part": "validation", "rows": rows}
    write_experiment(found, args.dataset, args.results_dir)


if __name__ == "__main__":
    with friendly_errors():
        main()
