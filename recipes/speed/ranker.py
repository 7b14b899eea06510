"""The ranker on one core: pairs scored, examples trained on, and item features of a million items.

python recipes/speed/ranker.py [--items 1000000]
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from dataclasses import dataclass, field

import numpy as np
import torch
from benchmark import SpeedArguments, interleaved, one_thread, write_result

from tiger.cli.common import friendly_errors
from tiger.data.sequences import Sequences
from tiger.rankers.click.dataset import Impressions, ImpressionsCollator
from tiger.rankers.click.features import CODE_KINDS, ItemFeatures
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.optimizer import RowwiseAdagradAdamW
from tiger.rankers.click.ranker import ClickRanker
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.arguments import parse_arguments

BARS = {
    "pairs scored a second, at least": 20_000,
    "examples trained a second, at least": 5_000,
    "features of a million items, seconds, at most": 10,
    "features of a million items, MB, at most": 200,
}


@dataclass
class RankerSpeedArguments(SpeedArguments):
    items: int = 1_000_000
    known: int = field(default=20_000, metadata={"help": "items of the catalog that is ranked and trained on"})
    budget: int = 100_000
    large_budget: int = field(default=10_000_000, metadata={"help": "rows of a table that is trained on, too"})
    d_model: int = 64
    users: int = 256
    candidates: int = 100


def main() -> None:
    (args,) = parse_arguments([RankerSpeedArguments])
    one_thread()
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (args.items, 4))
    ids = [f"item-{index}" for index in range(args.items)]
    impressions = np.minimum(random.zipf(1.5, args.known), 200)
    features = {
        kind: ItemFeatures.fit(kind, args.budget, codes[: args.known], 256, impressions)
        for kind in ("random_hash", *CODE_KINDS)
    }
    building = {kind: features_of_all(found, ids, codes) for kind, found in features.items()}

    tokenizer = SemanticIdTokenizer(codes[: args.known], ids[: args.known], 256)
    model = SemanticIdRanker(ranker_config(features["spm"], d_model=args.d_model))
    ranker = ClickRanker(model, features["spm"], tokenizer)
    histories = list(random.integers(0, args.known, (args.users, 20)))
    candidates = random.integers(0, args.known, (args.users, args.candidates))
    scoring = interleaved({"score": lambda: ranker.score(histories, candidates)}, args.repeats)["score"]

    step, examples = training(
        args, model.train(), features["spm"].rows(ids[: args.known], codes[: args.known]), random
    )
    trained = interleaved({"train": step}, args.repeats)["train"]
    large = large_table(args, ids[: args.known], random)
    content = {
        "what": f"one thread, histories of 20 items, d_model {args.d_model}, spm features",
        "pairs_per_cpu_second": round(candidates.size / scoring["cpu_seconds"]),
        "examples_trained_per_cpu_second": round(examples / trained["cpu_seconds"]),
        "large_table": large,
        "features_of_all": {"items": args.items} | building,
        "bars": BARS,
    }
    print(content)
    write_result(args, "ranker", content)


def features_of_all(features: ItemFeatures, ids: list[str], codes: np.ndarray) -> dict[str, float]:
    """CPU seconds, and the most memory that was held on the way."""
    start = time.process_time()
    features.rows(ids, codes)
    seconds = time.process_time() - start
    tracemalloc.start()
    features.rows(ids, codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"cpu_seconds": round(seconds, 2), "peak_mb": round(peak / 1e6, 1)}


def large_table(args: RankerSpeedArguments, ids: list[str], random: np.random.Generator) -> dict[str, float]:
    """Training on a table of which a step reads few rows: sparse gradients, and an optimizer with a number a row."""
    features = ItemFeatures("random_hash", args.large_budget, 4, 256)
    model = SemanticIdRanker(ranker_config(features, d_model=args.d_model))
    step, examples = training(args, model.train(), features.rows(ids), random)
    trained = interleaved({"train": step}, args.repeats)["train"]
    return {
        "rows": args.large_budget,
        "examples_trained_per_cpu_second": round(examples / trained["cpu_seconds"]),
        "table_mb": round(model.table.weight.nbytes / 1e6),
        "peak_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def training(args: RankerSpeedArguments, model: SemanticIdRanker, rows: np.ndarray, random: np.random.Generator):
    """One step over 512 lists of five candidates; how many candidates that is."""
    lists = 512
    items = random.integers(0, args.known, 20 * lists).astype(np.int32)
    histories = Sequences(np.arange(0, len(items) + 1, 20), items, np.zeros(len(items), dtype=np.int64))
    labels = np.zeros((lists, 5), dtype=np.float32)
    labels[:, 0] = 1
    shown = random.integers(0, args.known, labels.shape).astype(np.int32)
    impressions = Impressions(histories, np.arange(lists), histories.offsets[1:], shown, labels)
    collate = ImpressionsCollator(impressions, rows)
    table = model.table.weight
    groups = [
        {"params": [table], "rowwise": True, "lr": 0.05},
        {"params": [parameter for parameter in model.parameters() if parameter is not table]},
    ]
    optimizer = RowwiseAdagradAdamW(groups, lr=1e-3)

    def step() -> None:
        for _ in range(5):
            loss = model(**collate(list(range(lists)))).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step, 5 * torch.from_numpy(labels).numel()


if __name__ == "__main__":
    with friendly_errors():
        main()
