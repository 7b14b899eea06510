"""Dependence of a click ranker on its codes: quantizers, their training items, and their sizes.

    python recipes/experiments/stability.py --dataset datasets/beauty [--seeds 0 1 2]

The lists of ``ranking.py``, one representation and table size, and codes that differ: from residual k-means, an RQ-VAE
or product quantization; from a quantizer that saw the older or the newer half of the training items; of several
numbers of levels and codes. Beside each: the mean cosine of items that share their first 1, 2, ... codes and how many
items such a prefix has (Singh et al., arXiv 2306.08121, table 1). Every run is added to a file, and not repeated.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ranking import Benchmark, RankingArguments, command, prepare, run
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from transformers.utils.logging import set_verbosity_error

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.quantizers.rqvae import RQVAE
from tiger.rankers.click.dataset import first_seen
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

QUANTIZERS = ("residual-kmeans", "rqvae", "product")
SETTINGS = (
    "rating_at_least",
    "negatives",
    "days",
    "d_model",
    "row_dropout",
    "epochs",
    "batch",
    "learning_rate",
    "table_learning_rate",
)
SETTINGS += ("weight_decay", "shuffle_labels")
LEARNED_ON = ("all", "older half", "newer half")


@dataclass
class StabilityArguments(RankingArguments):
    results_dir: str = "recipes/results/ranking/stability"
    kinds: list[str] = field(default_factory=lambda: ["ngram"])
    budgets: list[int] = field(default_factory=lambda: [30_000])
    levels: list[int] = field(default_factory=lambda: [2, 4, 8])
    sizes: list[int] = field(default_factory=lambda: [256, 1024, 2048], metadata={"help": "codes per level"})


def main() -> None:
    (args,) = parse_arguments([StabilityArguments])
    torch.set_num_threads(args.threads)
    set_verbosity_error()
    benchmark = prepare(args)
    data = RecommendationData.load(args.dataset)
    since = first_seen(data.sequences, data.num_items)
    file = Path(args.results_dir) / f"{Path(args.dataset).name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(file.read_text()) if file.exists() else {"runs": [], "prefixes": {}}
    found |= {"dataset": Path(args.dataset).name, "user_blind": benchmark.user_blind}
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings["embeddings"] = None if args.embeddings is None else Path(args.embeddings).name
    for quantizer, learned_on, levels, size in variants(args):
        name = f"{quantizer}, {learned_on}, {levels} x {size}"
        wanted = [
            {"codes": name, "kind": kind, "budget": budget, "seed": seed} | settings
            for seed, budget, kind in product(args.seeds, args.budgets, args.kinds)
        ]
        there = [row.items() for row in found["runs"]]
        wanted = [key for key in wanted if not any(key.items() <= row for row in there)]
        if not wanted:
            continue
        start = time.perf_counter()
        learn = half(benchmark, since, learned_on)
        codes = quantize(quantizer, benchmark.embeddings, learn, levels, size)
        found["prefixes"][name] = shared_prefixes(codes, benchmark.embeddings) | {
            "fit_seconds": round(time.perf_counter() - start, 1)
        }
        for key in wanted:
            try:
                metrics = run(
                    replace(args, num_codebooks=levels, codebook_size=size),
                    replace(benchmark, codes=codes),
                    key["kind"],
                    key["budget"],
                    key["seed"],
                )
            except DataError as error:
                metrics = {"could_not_run": str(error)}
            found["runs"].append(key | {"metrics": metrics})
            found["command"] = command(sys.argv, found["runs"])
            print(f"{name}, {key['kind']}, seed {key['seed']}: {metrics}", flush=True)
            write_atomically(file, json.dumps(found, indent=1) + "\n")


def variants(args: StabilityArguments) -> list[tuple[str, str, int, int]]:
    """Quantizer, what it learns from, levels and codes per level: varied about the arguments."""
    levels, size = args.num_codebooks, args.codebook_size
    chosen = [(quantizer, "all", levels, size) for quantizer in QUANTIZERS]
    chosen += [(quantizer, part, levels, size) for quantizer in QUANTIZERS[:2] for part in LEARNED_ON[1:]]
    return chosen + [("residual-kmeans", "all", *shape) for shape in product(args.levels, args.sizes)]


def half(benchmark: Benchmark, since: np.ndarray, part: str) -> np.ndarray:
    """Rows of the items that training saw: all, or those seen first before or after the median day."""
    warm = np.flatnonzero(benchmark.popularity)
    ordered = warm[np.argsort(since[warm], kind="stable")]
    middle = len(ordered) // 2
    return {"all": warm, "older half": ordered[:middle], "newer half": ordered[middle:]}[part]


def quantize(quantizer: str, embeddings: np.ndarray, learn: np.ndarray, levels: int, size: int) -> np.ndarray:
    """Codes int32 [items, levels] of all items, from a quantizer that saw the rows ``learn`` alone."""
    if quantizer == "product":
        return product_codes(embeddings, learn, levels, size)
    kinds = {"rqvae": RQVAE, "residual-kmeans": ResidualKMeans}
    fitted = kinds[quantizer].fit(embeddings[learn], num_codebooks=levels, codebook_size=size, progress=False)
    return fitted.encode(embeddings)


def product_codes(embeddings: np.ndarray, learn: np.ndarray, levels: int, size: int) -> np.ndarray:
    """k-means of each of ``levels`` equal slices of the vectors (Jégou et al. 2011).

    The vectors are rotated to their principal axes, dealt out to the slices in turn, so that no slice is left with
    little variance.
    """
    axes = PCA(svd_solver="full").fit(embeddings[learn])
    rotated = axes.transform(embeddings)
    codes = [
        KMeans(size, n_init=1, max_iter=20, random_state=level)
        .fit(rotated[learn, level::levels])
        .predict(rotated[:, level::levels])
        for level in range(levels)
    ]
    return np.stack(codes, axis=1).astype(np.int32)


def shared_prefixes(codes: np.ndarray, embeddings: np.ndarray) -> dict[str, list[float]]:
    """For each length of prefix: mean cosine of pairs of items that share one, and items a prefix.

    The mean is over all such pairs; sizes are the mean and the largest over distinct prefixes.
    """
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    found: dict[str, list[float]] = {"mean_cosine": [], "items_a_prefix": [], "largest": [], "shared_by_items": []}
    groups = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:
        _, groups = np.unique(groups * (int(codes.max()) + 1) + column, return_inverse=True)
        counts = np.bincount(groups)
        sums = np.zeros((len(counts), units.shape[1]))
        np.add.at(sums, groups, units)
        # The squared length of a sum of unit vectors counts each pair twice and each vector once.
        pairs = counts * (counts - 1)
        cosines = ((sums * sums).sum(axis=1) - counts).sum() / pairs.sum() if pairs.any() else np.nan
        found["mean_cosine"].append(None if np.isnan(cosines) else round(float(cosines), 4))
        found["items_a_prefix"].append(round(float(counts.mean()), 2))
        found["largest"].append(int(counts.max()))
        found["shared_by_items"].append(round(float((counts[groups] > 1).mean()), 4))
    return found


if __name__ == "__main__":
    with friendly_errors():
        main()
