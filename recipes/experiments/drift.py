"""Size of a drift at which the report recommends a refit: items held out at random, and whole categories.

python recipes/experiments/drift.py --dataset datasets/beauty [--embeddings FILE]
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.embeddings.base import load_embeddings
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.evaluation.results import command_line
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.semantic_ids.drift import drift_report
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically


@dataclass
class DriftArguments:
    dataset: str = field(metadata={"help": "dataset directory, its items with `categories` such as Beauty > Hair"})
    embeddings: str | None = field(default=None, metadata={"help": "content vectors, in item order; default: LSA's"})
    results_dir: str = "recipes/results/drift"
    num_codebooks: int = 3
    codebook_size: int = 256
    held_out: float = field(default=0.05, metadata={"help": "share of the items, at random"})
    level: int = field(default=2, metadata={"help": "of the category paths: 2 holds out Beauty > Hair and so on"})
    least: int = field(default=200, metadata={"help": "items that a category must have"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


def main() -> None:
    (args,) = parse_arguments([DriftArguments])
    data = RecommendationData.load(args.dataset)
    if "categories" not in data.items.column_names:
        raise DataError(f"{args.dataset}: the items have no categories.")
    if args.embeddings:
        vectors = load_embeddings(args.embeddings, data.num_items)
    else:
        texts = item_texts(data.items)
        vectors = LSAEncoder.fit(texts).encode(texts)
    paths = [str(value or "").split(" > ") for value in data.items["categories"].to_pylist()]
    names = np.array([" > ".join(path[: args.level]) if len(path) >= args.level else "" for path in paths])
    held_out = {}
    for seed in args.seeds:
        chosen = np.random.default_rng(seed).random(data.num_items) < args.held_out
        held_out[f"{args.held_out:.0%} at random, seed {seed}"] = chosen
    found, counts = np.unique(names[names != ""], return_counts=True)
    held_out |= {str(name): names == name for name in found[counts >= args.least]}
    rows = []
    for name, new in held_out.items():
        quantizer = ResidualKMeans.fit(vectors[~new], args.num_codebooks, args.codebook_size, progress=False)
        report = drift_report(quantizer, vectors[~new], vectors[new])
        rows.append({"held out": name, "items": int(new.sum()), "badly fitted": round(report["badly_fitted"], 4)})
        rows[-1] |= {part: round(report[part]["collision_share"], 4) for part in ("old", "new")}
        rows[-1]["refit"] = report["refit"]
        print(rows[-1], flush=True)
    content = {"dataset": Path(args.dataset).name, "command": command_line(sys.argv), "rows": rows}
    Path(args.results_dir).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(args.results_dir) / f"{content['dataset']}.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    with friendly_errors():
        main()
