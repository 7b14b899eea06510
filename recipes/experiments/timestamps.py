"""Loss of the second stage where nobody says when events took place.

    python recipes/experiments/timestamps.py --recommender runs/beauty/model0 --dataset datasets/beauty \\
        --embeddings embeddings.safetensors

Trees are fitted to validation targets twice with each seed: ``dropout``, with a share of the users whose times are
hidden (``--time_dropout``), and ``none``, with all times, as fits are by default. The test is ranked three times: with
the times of the histories' events (``with timestamps``), with none (``unknown``: their features are NaN), and as if
each history ended on the log's last day (``last day``: what trees without dropout make of histories without times). By
default the T5 is left out: no feature of it reads a time.

The same trees over other inputs are compared over users (mean over fits), other trees over users and fits together
(:func:`tiger.evaluation.significance.compare_recipes`), or over users alone where there is one seed. The places of
the targets are kept in ``--cache``, one file a fit; the cache does not know the code.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from refits import METRICS, target_ranks
from safetensors.numpy import load_file, save
from two_stage import content_vectors, digest, proposed

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.metrics import metrics_of_ranks
from tiger.evaluation.results import command_line
from tiger.evaluation.significance import bootstrap_interval, bootstrap_p, compare_recipes
from tiger.rankers.two_stage.candidates import Candidates, Proposals
from tiger.rankers.two_stage.ranker import TwoStageOptions, TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

INPUTS = ("with timestamps", "unknown", "last day")
TREES = ("dropout", "none")


@dataclass
class TimestampsArguments:
    recommender: str = field(metadata={"help": "a saved recommender: its codes and, with --t5, its T5"})
    dataset: str = field(metadata={"help": "the dataset directory that it was trained on"})
    embeddings: str | None = field(default=None, metadata={"help": "content vectors; default: the encoder's"})
    results_dir: str = field(default="recipes/results/timestamps", metadata={"help": "where the JSON file goes"})
    cache: str = field(default="runs/timestamps", metadata={"help": "where places of the targets are kept"})
    t5: bool = field(default=False, metadata={"help": "let the T5 propose, too"})
    num_beams: int = 50
    num_proposed: int = 150
    time_dropout: float = field(default=0.3, metadata={"help": "share of the users whose times are hidden"})
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "of the trees"})


def main() -> None:
    (args,) = parse_arguments([TimestampsArguments], sys.argv[1:])
    if len(set(args.seeds)) < max(len(args.seeds), 1) or not 0 < args.time_dropout < 1:
        raise DataError("give different --seeds, and a --time_dropout between 0 and 1.")
    device = torch.accelerator.current_accelerator() or "cpu"
    tiger = TigerRecommender.from_pretrained(args.recommender, device, rank=False)
    data = RecommendationData.load(args.dataset)
    if tiger.tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.recommender} has other items than {args.dataset} holds.")
    ranks = {trees: [] for trees in TREES}
    for trees, kept in fits(args, data, tiger):
        ranks[trees].append(kept)
    result = {"dataset": Path(args.dataset).name, "recommender": args.recommender, "seeds": args.seeds, "t5": args.t5}
    result |= {"num_proposed": args.num_proposed, "time_dropout": args.time_dropout}
    result |= {"shuffle_ties": tiger.training.get("shuffle_ties"), "users": len(ranks["none"][0][INPUTS[0]])}
    result |= summary(ranks) | {"command": command_line(sys.argv)}
    file = Path(args.results_dir) / f"{result['dataset']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(result, indent=1) + "\n")
    print(file.read_text(), end="")


def fits(
    args: TimestampsArguments, data: RecommendationData, tiger: TigerRecommender
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Of each fit, the kind of its trees and the places of the test's targets by input, int [users]."""
    split = data.leave_one_out(tiger.training.get("shuffle_ties"))
    codes, vectors = tiger.tokenizer.codes, content_vectors(args.embeddings, tiger, data)
    weights = [weight.detach().float().cpu().numpy() for weight in tiger.model.parameters()] if args.t5 else []
    log = (split.test_histories.items, split.test_histories.timestamps, split.test_targets)
    same = [digest(*log), digest(codes), None if vectors is None else digest(vectors), digest(*weights)]
    candidates: Candidates | None = None
    parts: dict[str, Proposals] = {}
    for seed in args.seeds:
        for trees in TREES:
            dropout = args.time_dropout if trees == "dropout" else 0.0
            options = TwoStageOptions(without=() if args.t5 else ("t5",), seed=seed, time_dropout=dropout)
            made_by = [*same, args.num_proposed, args.num_beams if args.t5 else 0, asdict(options)]
            name = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
            file = Path(args.cache) / f"{Path(args.dataset).name}-{trees}-{seed}-{name}.safetensors"
            if not file.exists():
                if candidates is None:
                    known = {"codes": codes, "vectors": vectors, "num_proposed": args.num_proposed}
                    candidates = Candidates.fit(split.train, data.items, **known)
                    parts = propose(args, tiger, split, candidates)
                start = time.perf_counter()
                kept = measure(candidates, parts, split, options)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, save(kept))
                print(f"{trees}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
            yield trees, load_file(file)


def propose(
    args: TimestampsArguments, tiger: TigerRecommender, split: LeaveOneOut, candidates: Candidates
) -> dict[str, Proposals]:
    """Candidates of validation, and of the test with each input but ``unknown``."""
    beams = {part: proposed(args, tiger, split, part)[:2] if args.t5 else () for part in ("valid", "test")}
    histories = {"valid": split.valid_histories, INPUTS[0]: split.test_histories}
    histories["last day"] = on_the_last_day(split.test_histories, candidates)
    return {
        name: candidates.propose(given, *beams["valid" if name == "valid" else "test"], progress=True)
        for name, given in histories.items()
    }


def on_the_last_day(histories: Sequences, candidates: Candidates) -> Sequences:
    """The histories without times, asked on the log's last day."""
    at = np.full(len(histories), candidates.last_day * SECONDS_PER_DAY + 1)
    return replace(histories.without_timestamps(), at=at)


def measure(
    candidates: Candidates, parts: dict[str, Proposals], split: LeaveOneOut, options: TwoStageOptions
) -> dict[str, np.ndarray]:
    """Places of the test's targets after a fit, by input."""
    ranker = TwoStageRanker.fit(candidates, parts["valid"], split.valid_targets, options=options)
    inputs = {name: parts[name] for name in INPUTS if name in parts}
    found = {name: target_ranks(ranker, given, split.test_targets) for name, given in inputs.items()}
    unknown = candidates.without_times(parts[INPUTS[0]])
    return found | {"unknown": target_ranks(ranker, unknown, split.test_targets)}


def summary(ranks: dict[str, list[dict[str, np.ndarray]]]) -> dict:
    """Means of each kind of trees with each input, and the differences that matter."""
    users = {
        (trees, given, metric): np.stack([metrics_of_ranks(kept[given], 10, (10,))[metric] for kept in ranks[trees]])
        for trees in TREES
        for given in INPUTS
        for metric in METRICS
    }

    def row(trees: str, given: str) -> dict:
        means = {metric: users[trees, given, metric].mean(axis=1) for metric in METRICS}
        rounded: dict = {metric: round(float(found.mean()), 5) for metric, found in means.items()}
        if len(ranks[trees]) > 1:
            rounded["std"] = {metric: round(float(found.std(ddof=1)), 5) for metric, found in means.items()}
        return rounded

    def less(first: tuple[str, str], second: tuple[str, str]) -> dict:
        same = first[0] == second[0]
        pairs = {metric: (users[(*first, metric)], users[(*second, metric)]) for metric in METRICS}
        return {metric: difference(*pair, same) for metric, pair in pairs.items()}

    return {
        "trees": {trees: {given: row(trees, given) for given in INPUTS} for trees in TREES},
        "differences": {
            "dropout, unknown, less dropout, with timestamps": less(("dropout", "unknown"), ("dropout", INPUTS[0])),
            "dropout, unknown, less dropout, last day": less(("dropout", "unknown"), ("dropout", "last day")),
            "none, last day, less none, with timestamps": less(("none", "last day"), ("none", INPUTS[0])),
            "dropout, unknown, less none, last day": less(("dropout", "unknown"), ("none", "last day")),
            "dropout, with timestamps, less none, with timestamps": less(("dropout", INPUTS[0]), ("none", INPUTS[0])),
        },
    }


def difference(first: np.ndarray, second: np.ndarray, same_trees: bool) -> dict:
    """Mean of ``first`` less ``second``, both [fits, users], with 95% of what else it might be, and p."""
    if same_trees or len(first) == 1:
        own = (first - second).mean(axis=0)
        mean, low, high, p = own.mean(), *bootstrap_interval(own), bootstrap_p(own)
    else:
        found = compare_recipes(first, second)
        mean, low, high, p = found.difference, found.low, found.high, found.p
    return {"mean": round(float(mean), 5), "interval": [round(low, 5), round(high, 5)], "p": p}


if __name__ == "__main__":
    with friendly_errors():
        main()
