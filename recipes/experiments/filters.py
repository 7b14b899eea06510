"""Filters: NDCG and time with a share of the items allowed, and what it costs to compile a filter.

    python data/demo.py --out datasets/demo --num-items 400 --num-users 4000
    python recipes/experiments/filters.py --dataset datasets/demo --recommender demo

Protocol. Test users drawn with seed 0, the history removed from answers. *Random sets*: of each user's own, an item
is allowed with a probability of 0.05 or 0.5 (seed 0), and the target always. An *expression* is one filter for all
users; its accuracy is that over users whose target it allows. Fewer items compete the fewer are allowed: compare
methods of one filter, not filters. Methods: the *filtered* search; *afterwards*: a search without the filter, of whose
beams those stay that are allowed; *every item*: all items scored, the best that this model can do. Time: CPU of one
thread, medians of interleaved runs, with filters compiled before. Writes ``<dataset>.json``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import next_item_metrics
from tiger.evaluation.results import write_experiment
from tiger.evaluation.training_split import COUNTED, counts_validation, split_of_model
from tiger.recommender.filters import CatalogFilters
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError

K = 10


@dataclass
class FilterArguments:
    dataset: str = field(default="datasets/demo", metadata={"help": "dataset directory"})
    recommender: str = field(default="demo", metadata={"help": "a saved recommender of that dataset"})
    results_dir: str = field(default="recipes/results/filters", metadata={"help": "where the JSON goes"})
    shares: list[float] = field(default_factory=lambda: [0.05, 0.5], metadata={"help": "of items that are allowed"})
    expression: str = field(default="price < 20", metadata={"help": "a filter of all users, in words"})
    num_beams: int = 50
    users: int = field(default=500, metadata={"help": "test users, drawn with seed 0"})
    timed_users: int = field(default=64, metadata={"help": "of them, those of a timed run"})
    repeats: int = field(default=5, metadata={"help": "timed runs"})
    items: int = field(default=10**6, metadata={"help": "items of the made-up catalog whose filters are compiled"})


def main() -> None:
    (args,) = parse_arguments([FilterArguments])
    torch.set_num_threads(1)
    data = RecommendationData.load(args.dataset)
    tiger = TigerRecommender.from_pretrained(args.recommender)
    if tiger.tokenizer.item_ids != data.item_ids:
        raise DataError(f"{args.recommender} knows other items than {args.dataset} holds.")
    split, _ = split_of_model(data, np.arange(data.num_items), tiger.training, args.dataset)
    users = EvaluationExamples(*split.part("test"), tiger.max_history).sample(args.users)
    found: dict = {"users": len(users), "part": "test", "items": data.num_items, "num_beams": args.num_beams, "k": K}
    found["ranker"] = None if tiger.ranker is None else tiger.ranker.kind
    if counts_validation(tiger.training):
        found[COUNTED] = True
    found["accuracy"] = []
    size = len(tiger.tokenizer)
    unfiltered = {
        name: tiger.recommend_rows(users.histories, k=beams, num_beams=beams)[0]
        for name, beams in (("afterwards", args.num_beams), ("every item", size))
    }
    for name, masks in allowed_sets(args, tiger, users.targets).items():
        found["accuracy"].append({"allowed": name} | accuracy(args, tiger, users, masks, unfiltered))
        print(found["accuracy"][-1], flush=True)
    found["cpu milliseconds a user"] = speed(args, tiger, users)
    print(found["cpu milliseconds a user"], flush=True)
    found["compiling, milliseconds"] = {"items": args.items} | compiling(args.items)
    print(found["compiling, milliseconds"], flush=True)
    write_experiment(found, args.dataset, args.results_dir)


def allowed_sets(args: FilterArguments, tiger: TigerRecommender, targets: np.ndarray) -> dict[str, np.ndarray | None]:
    """Masks bool [users, items] by the name of the filter; None: everything."""
    random, size = np.random.default_rng(0), len(tiger.tokenizer)
    found: dict[str, np.ndarray | None] = {"all": None}
    for share in args.shares:
        masks = random.random((len(targets), size)) < share
        masks[np.arange(len(targets)), targets] = True
        found[f"{share:.0%}, random"] = masks
    found[args.expression] = np.tile(tiger.compile_filter(args.expression).mask, (len(targets), 1))
    return found


def accuracy(
    args: FilterArguments,
    tiger: TigerRecommender,
    users: EvaluationExamples,
    masks: np.ndarray | None,
    unfiltered: dict[str, np.ndarray],
) -> dict:
    """NDCG@10, recall@10 and the number of answers by method, over users whose target is allowed.

    Args:
        masks: bool [users, items], what is allowed; None: everything.
        unfiltered: answers without a filter, int [users, k], by the name of the method.
    """
    everybody = np.arange(len(users)) if masks is None else np.flatnonzero(masks[np.arange(len(users)), users.targets])
    histories, targets, beams = users.histories.select(everybody), users.targets[everybody], args.num_beams
    filters = None if masks is None else [ids_of(tiger, mask) for mask in masks[everybody]]
    filtered = tiger.recommend_rows(histories, k=K, num_beams=beams, filter=filters)[0]
    answers = {"filtered": filtered} | {name: rows[everybody] for name, rows in unfiltered.items()}
    found: dict = {"users": len(everybody)}
    if masks is not None:
        found["share allowed"] = round(float(masks[everybody].mean()), 4)
    for name, rows in answers.items():
        if masks is not None and name != "filtered":
            rows = kept(rows, masks[everybody])
        rows = rows[:, :K]
        metrics = next_item_metrics(rows, targets, (K,))
        full = float((rows[:, -1] >= 0).mean())
        found[name] = {one: round(float(value), 4) for one, value in metrics.items()} | {
            "answers": round(float((rows >= 0).sum(axis=1).mean()), 2),
            "users with ten": round(full, 4),
        }
    return found


def ids_of(tiger: TigerRecommender, mask: np.ndarray) -> list[str]:
    return [tiger.tokenizer.item_ids[row] for row in np.flatnonzero(mask)]


def kept(rows: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Answers [users, k] without what is not allowed, the rest moved up, -1 after it."""
    fine = (rows >= 0) & np.take_along_axis(masks, np.maximum(rows, 0), axis=1)
    order = np.argsort(~fine, axis=1, kind="stable")
    return np.take_along_axis(np.where(fine, rows, -1), order, axis=1)


def speed(args: FilterArguments, tiger: TigerRecommender, users: EvaluationExamples) -> dict:
    """CPU milliseconds a user, by batch size and filter."""
    some, random = users.histories.select(np.arange(min(args.timed_users, len(users)))), np.random.default_rng(1)
    filters: dict = {"all": None}
    for share in args.shares:
        sets = [ids_of(tiger, random.random(len(tiger.tokenizer)) < share) or None for _ in range(16)]
        compiled = [None if one is None else tiger.compile_filter(one) for one in sets]
        filters[f"{share:.0%}, one filter"] = compiled[0]
        filters[f"{share:.0%}, 16 filters"] = [compiled[user % 16] for user in range(len(some))]
    filters[args.expression] = args.expression
    found: dict = {}
    for batch in (1, 16):
        runs = {
            name: lambda given=given: tiger.recommend_rows(
                some, k=K, num_beams=args.num_beams, filter=given, batch_size=batch
            )
            for name, given in filters.items()
        }
        timed = interleaved(runs, args.repeats)
        found[f"batch {batch}"] = {name: round(1000 * seconds / len(some), 3) for name, seconds in timed.items()}
    return found


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Medians of CPU seconds; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compiling(items: int) -> dict:
    """Milliseconds of a filter over a made-up catalog: the first time, and from the cache."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (items, 3), dtype=np.int32)
    tokenizer = SemanticIdTokenizer(codes, [f"item-{row}" for row in range(items)], 256)
    brands = pa.array([f"brand {number}" for number in range(1000)])
    columns = {
        "item_id": pa.array(tokenizer.item_ids),
        "price": random.random(items) * 100,
        "brand": brands.take(pa.array(random.integers(0, 1000, items))),
    }
    catalog = CatalogFilters(tokenizer, pa.table(columns), np.zeros(items, dtype=bool))
    trie = SemanticIdTrie.build(tokenizer.token_table)
    given = {
        "words": "price < 20 and brand in ('brand 1', 'brand 2')",
        "expression": (pc.field("price") < 20) & pc.field("brand").isin(["brand 1", "brand 2"]),
        "1,000 ids": [f"item-{row}" for row in random.choice(items, 1000, replace=False)],
        "100,000 ids": [f"item-{row}" for row in random.choice(items, min(items, 100_000), replace=False)],
    }
    catalog = catalog.add("in stock", given["100,000 ids"])
    catalog.cache.clear()  # as if the catalog had just changed
    given["100,000 ids by a name"] = "in stock"

    def ready(one) -> None:
        catalog.allowed(catalog.compile(one), trie)

    found: dict = {}
    tokenizer.rows([])  # its dictionary of ids is made on first use
    for name, one in given.items():
        first, again = elapsed(lambda one=one: ready(one), 1), elapsed(lambda one=one: ready(one), 200)
        found[name] = {"first": round(first, 3), "again": round(again, 4)}
    found["cache, MB"] = round(catalog.cache.nbytes / 2**20, 1)
    return found


def elapsed(run: Callable[[], object], times: int) -> float:
    """Median of milliseconds."""
    values = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        values.append(time.perf_counter() - start)
    return 1000 * statistics.median(values)


if __name__ == "__main__":
    with friendly_errors():
        main()
