"""Gain of the second stage from leaks: held-out events that counts betray, and events after a history's end.

    python recipes/experiments/leaks.py --dataset datasets/beauty --embeddings embeddings.safetensors \\
        --leaks "totals of the whole log"

Measured without T5 and codes, so that no model is needed. *Probes* say what a column tells: the AUC with which a
number tells items of fewer than five training events from the rest (on 5-core data, their other events are held out);
and the share of variance (R²) of an item's events in the 180 days after a history's end that trees explain, for
candidates of validation users whom they were not fitted to. *Rows* are one fit of the second stage each, without a
leak and with each of ``--leaks``; an interval is 95% of bootstraps over users. Probes and rows that are there are not
measured again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import lightgbm
import numpy as np
import torch
from two_stage import interval, means

from tiger.cli.common import friendly_errors
from tiger.data.cooccurrence import COUNT_FLOOR
from tiger.data.dataset import RecommendationData
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.evaluation.metrics import auc, next_item_metrics_per_user
from tiger.evaluation.results import command_line
from tiger.evaluation.significance import bootstrap_p
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.features import DAYS, WINDOWS, CandidateFeatures
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.growing import Growing

AHEAD = 180  # days after a history's end
FACTORS = {"tiger.embeddings.item_vectors._directions": lambda vectors, seed: vectors / np.abs(vectors).max()}


def whole_totals(features: CandidateFeatures, rows: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Events of the whole log, whatever the day: stands in for ``CandidateFeatures.totals_until``."""
    return features.totals[rows] * np.ones(days.shape, dtype=np.float32)


def as_they_are(cooccurrence: np.ndarray) -> tuple[Growing[np.ndarray], np.ndarray]:
    """Vectors of any length, zeros among them: stands in for ``candidates._directions``."""
    return Growing(cooccurrence), np.zeros(cooccurrence.shape[1], dtype=np.float32)


# What must not be read, by what stands in for the code that keeps it out.
LEAKS: dict[str, dict[str, object]] = {
    "totals of the whole log": {"tiger.rankers.two_stage.features.CandidateFeatures.totals_until": whole_totals},
    "lengths of co-occurrence vectors": FACTORS | {"tiger.rankers.two_stage.candidates._directions": as_they_are},
    "counts as they are": {
        f"tiger.{module}.COUNT_FLOOR": 1
        for module in (*("rankers.two_stage.features", "data.cooccurrence", "evaluation.baselines"),)
    },
    "days ahead too": {"tiger.rankers.two_stage.features.WINDOWS": (*WINDOWS, (1, 30), (30, AHEAD))},
}
HONEST = "no leak"


@dataclass
class LeakArguments:
    dataset: str = field(metadata={"help": "dataset directory"})
    embeddings: str | None = field(default=None, metadata={"help": "content vectors; default: none"})
    leaks: list[str] = field(default_factory=lambda: list(LEAKS), metadata={"help": "rows to measure"})
    results_dir: str = field(default="recipes/results/leaks", metadata={"help": "where the JSON file goes"})
    num_proposed: int = 150
    probe_users: int = field(default=1500, metadata={"help": "validation users of the probe of days, half fitted to"})
    seed: int = field(default=0, metadata={"help": "of the trees, and of the users of the probe"})


def main() -> None:
    (args,) = parse_arguments([LeakArguments], sys.argv[1:])
    if unknown := sorted(set(args.leaks) - set(LEAKS)):
        raise DataError(f"--leaks: no {unknown[0]!r}; there are {', '.join(LEAKS)}.")
    data = RecommendationData.load(args.dataset)
    split = data.leave_one_out()
    vectors = load_embeddings(args.embeddings, data.num_items) if args.embeddings else None

    def candidates() -> Candidates:
        return Candidates.fit(split.train, data.items, vectors=vectors, num_proposed=args.num_proposed)

    file = Path(args.results_dir) / f"{Path(args.dataset).name}.json"
    found = json.loads(file.read_text()) if file.exists() else {"dataset": file.stem, "rows": []}
    found |= {"seed": args.seed, "command": command_line(sys.argv)}
    if "probes" not in found:
        found["probes"] = {
            "AUC of fewer than 5 events": probe_lengths(split, data.num_items),
            f"R² of the next {AHEAD} days": probe_days(args, split, candidates),
        }
        keep(file, found)
        print(json.dumps(found["probes"], indent=1), flush=True)
    there = {row["model"] for row in found["rows"]}
    missing = [leak for leak in args.leaks if leak not in there]
    for name in [HONEST, *missing] if missing else []:  # what a leak gives takes the users of both fits
        with opened(name):
            row, ndcg = measure(args, split, candidates())
        if name == HONEST:
            honest = ndcg
        else:
            row["over no leak, ndcg@10"] = compared(ndcg, honest)
        if name not in there:
            found["rows"].append({"model": name} | row)
            keep(file, found)
            print(found["rows"][-1], flush=True)


def opened(name: str) -> ExitStack:
    """A context in which this leak is open."""
    with ExitStack() as stack:
        for constant, value in LEAKS.get(name, {}).items():
            stack.enter_context(patch(constant, value))
        return stack.pop_all()


def keep(file: Path, found: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def probe_lengths(split: LeaveOneOut, num_items: int) -> dict[str, float]:
    """AUC with which lengths of co-occurrence vectors, and a linear probe of the vectors, tell the rare items."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    few = np.bincount(split.train.items, minlength=num_items) < COUNT_FLOOR
    vectors = cooccurrence_vectors(split.train, num_items)
    with ExitStack() as stack:
        for constant, value in FACTORS.items():
            stack.enter_context(patch(constant, value))
        factors = cooccurrence_vectors(split.train, num_items)
    lengths = {
        "length of the factors": np.linalg.norm(factors, axis=1),
        "length of the vectors": np.linalg.norm(vectors, axis=1).round(5),
    }
    found = {name: round(auc(few, -values), 3) for name, values in lengths.items()}
    scores = cross_val_predict(LogisticRegression(max_iter=200), vectors, few, cv=3, method="decision_function")
    return found | {"linear probe of the vectors, 3 folds": round(auc(few, scores), 3)}


def probe_days(args: LeakArguments, split: LeaveOneOut, candidates: Callable[[], Candidates]) -> dict[str, float]:
    """Share of the variance of later events, log(1 + count), that features explain; items that have days alone."""
    users = np.random.default_rng(args.seed).permutation(len(split.train))[: args.probe_users]
    histories = split.train.select(users)
    fitted = candidates()
    rows = fitted.propose(histories).rows
    now = fitted.describe(histories, rows).columns
    with opened("totals of the whole log"):
        ahead = fitted.describe(histories, rows).columns
    days = histories.timestamps[histories.offsets[1:] - 1] // 86_400
    ends = [np.searchsorted(fitted.events, rows * np.int64(DAYS) + (days + day)[:, None]) for day in (1, AHEAD + 1)]
    later = np.log1p(ends[1] - ends[0])
    known = (rows >= 0) & (np.bincount(split.train.items, minlength=len(fitted)) > COUNT_FLOOR)[rows]
    learn = known & (np.arange(len(rows)) < len(rows) // 2)[:, None]

    def explained(columns: np.ndarray, *stages: str) -> float:
        reading = [place for place, name in enumerate(fitted.names) if name.startswith(stages)]
        settings = {"num_threads": torch.get_num_threads(), "verbose": -1, "seed": args.seed, "deterministic": True}
        table = lightgbm.Dataset(columns[learn][:, reading], later[learn])
        trees, test = lightgbm.train(settings, table, 120), known & ~learn
        error = trees.predict(columns[test][:, reading], num_threads=torch.get_num_threads()) - later[test]
        return round(float(1 - (error**2).mean() / later[test].var()), 3)

    return {
        "days": explained(now, "time"),
        "days and totals": explained(now, "time", "item: total"),
        "days and totals of the whole log": explained(ahead, "time", "item: total"),
        "all features": explained(now, ""),
        "all features, totals of the whole log": explained(ahead, ""),
    }


def measure(args: LeakArguments, split: LeaveOneOut, candidates: Candidates) -> tuple[dict, np.ndarray]:
    """One fit: its row, and the test's NDCG@10 of each user."""
    proposals = {part: candidates.propose(split.part(part)[0], progress=True) for part in ("valid", "test")}
    ranker = TwoStageRanker.fit(
        candidates, proposals["valid"], split.valid_targets, without=("t5", "codes"), seed=args.seed
    )
    users = next_item_metrics_per_user(ranker.best(proposals["test"], 10)[0], split.test_targets)
    held_out = {metric: ranker.record[f"held out {metric}"] for metric in ("recall@10", "ndcg@10")}
    return {"test": means([users]), "held out": held_out, "trees": ranker.record["trees"]}, users["ndcg@10"]


def compared(ndcg: np.ndarray, honest: np.ndarray) -> dict:
    """Gain from the leak, over users alone."""
    more = ndcg - honest
    return {"mean": round(float(more.mean()), 5), "interval": interval(more), "p": bootstrap_p(more)}


if __name__ == "__main__":
    with friendly_errors():
        main()
