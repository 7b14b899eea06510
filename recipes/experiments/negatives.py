"""AUC of scores that are blind to users, under several ways to draw the negatives of a click ranker.

    python recipes/experiments/negatives.py --dataset datasets/beauty

A score that gives an item the same value for all users should have an AUC of .5: what it has above that, a ranker can
have without a glance at the history. Nothing is trained. The split and the slices are those of ``ranking.py``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from ranking import blind_scores, measure, sampled

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.evaluation.results import command_line
from tiger.rankers.click.dataset import (
    Impressions,
    NegativeSampling,
    draw_negatives,
    first_seen,
    sampled_impressions,
)
from tiger.training.arguments import parse_arguments
from tiger.utils.files import write_atomically

SEED = 2  # that of the benchmark's test part
# Whether the negatives are of the positive's slice (warm or cold), and how they are drawn; None is the first
# version of the benchmark: two drawn by counts of the whole training period.
SCHEMES: dict[str, tuple[bool, NegativeSampling | None]] = {
    "2 uniform, 2 by counts in training; of any slice": (False, None),
    "2 uniform, 2 by counts up to the event; of any slice": (False, NegativeSampling()),
    "2 uniform, 2 by counts up to the event": (True, NegativeSampling()),
    "4 by counts up to the event": (True, NegativeSampling(uniform=0, popular=4)),
    "4 by counts of 30 days": (True, NegativeSampling(uniform=0, popular=4, days=30, smoothing=0)),
    "4 by counts of 7 days": (True, NegativeSampling(uniform=0, popular=4, days=7, smoothing=0)),
    "4 by counts of the event's day": (True, NegativeSampling(uniform=0, popular=4, days=1, smoothing=0)),
}


@dataclass
class NegativesArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    results_dir: str = "recipes/results/ranking/negatives"


def main() -> None:
    (args,) = parse_arguments([NegativesArguments])
    data = RecommendationData.load(args.dataset)
    name = Path(args.dataset).name
    events, split = data.sequences, data.temporal_split()
    popularity = np.bincount(events.items[split.train], minlength=data.num_items)
    rows = []
    for scheme, (same_slice, sampling) in SCHEMES.items():
        if sampling is None:
            lists = by_training_counts(events, split.test, popularity)
        elif same_slice:
            lists = sampled(events, split.test, popularity, sampling, SEED)
        else:
            negatives = draw_negatives(events, split.test, data.num_items, sampling, seed=SEED)
            lists = sampled_impressions(events, split.test, negatives)
        rows.append({"negatives": scheme} | described(events, lists, popularity))
        print(rows[-1], flush=True)
    content = {"dataset": name, "rows": rows, "command": command_line(sys.argv)}
    Path(args.results_dir).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(args.results_dir) / f"{name}.json", json.dumps(content, indent=1) + "\n")


def described(events: Sequences, lists: Impressions, popularity: np.ndarray) -> dict[str, object]:
    """Share of cold items among positives and negatives, and what each score has, in lists of full length."""
    full = lists.select(np.flatnonzero((lists.candidates >= 0).all(axis=1)))
    cold = popularity[full.candidates] == 0
    scores = blind_scores(events, None, full, len(popularity))
    return {
        "lists": len(full),
        "left_out": len(lists) - len(full),
        "cold_positives": round(float(cold[full.labels == 1].mean()), 5),
        "cold_negatives": round(float(cold[full.labels == 0].mean()), 5),
        "user_blind": {name: measure(full, score, popularity) for name, score in scores.items()},
    }


def by_training_counts(events: Sequences, part: np.ndarray, popularity: np.ndarray) -> Impressions:
    """The lists of the benchmark's first version: each item that was there by then and that the user had not had is
    drawn uniformly, or by its count in the whole training period."""
    random, num_items = np.random.default_rng(SEED), len(popularity)
    available, users, times = first_seen(events, num_items), events.users[part], events.timestamps[part]
    pairs, where = np.unique(events.users * num_items + events.items, return_inverse=True)
    since = first_seen(replace(events, items=where), len(pairs))
    chances = (np.full(num_items, 1 / num_items), popularity / popularity.sum())
    negatives = np.full((len(part), 4), -1, dtype=np.int64)
    for slot in range(4):
        missing = np.arange(len(part))
        for _ in range(100):
            items = random.choice(num_items, len(missing), p=chances[slot // 2])
            wanted = users[missing] * num_items + items
            at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
            had = (pairs[at] == wanted) & (since[at] <= times[missing])
            twice = (negatives[missing, :slot] == items[:, None]).any(axis=1)
            good = ~had & ~twice & (available[items] <= times[missing])
            negatives[missing[good], slot] = items[good]
            missing = missing[~good]
    return sampled_impressions(events, part, negatives)


if __name__ == "__main__":
    with friendly_errors():
        main()
