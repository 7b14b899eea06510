"""``tiger train``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tiger.utils.errors import DataError
from tiger.utils.extras import require_extra


def add_train_verb(verbs) -> None:
    """``tiger train``."""
    train = verbs.add_parser(
        "train",
        help="a recommender from a dataset: semantic IDs, T5, second stage, test results",
        epilog="Started again after an interruption, it goes on where it was: finished steps are left alone.",
    )
    train.add_argument("dataset", metavar="DATASET", help="dataset directory, or owner/name on the Hub")
    train.add_argument("--out", required=True, metavar="DIR", help="the recommender goes to DIR/model")
    train.add_argument(
        "--recipe",
        default="default",
        metavar="RECIPE",
        help="default, paper (TIGER as published), or a folder of YAML files (default: default)",
    )
    train.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="STEP.KEY=VALUE",
        help="other settings than the recipe's, such as tokenizer.encoder=lsa retriever.num_train_epochs=5 "
        "two_stage.users=10000 evaluate.num_beams=20",
    )
    train.add_argument("--embeddings", metavar="FILE", help="safetensors of the items' vectors; runs no encoder then")
    train.add_argument("--processes", type=int, default=1, help="that train the T5, one per GPU (default 1)")
    train.add_argument("--json", action="store_true", help="print JSON")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> None:
    require_extra("train")
    from tiger.training.pipeline import RESULTS, read_overrides, train

    if args.processes < 1:
        raise DataError(f"--processes must be at least 1, got {args.processes}.")
    overrides: dict[str, Any] = read_overrides(args.set)
    try:
        with redirect_stdout(sys.stderr):  # what the steps say; the answer is what comes at the end
            train(
                args.dataset,
                args.out,
                args.recipe,
                embeddings=args.embeddings,
                processes=args.processes,
                **overrides,
            )
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    model, results = Path(args.out) / "model", Path(args.out) / RESULTS
    metrics = json.loads(results.read_text()) if results.exists() else {}
    if args.json:
        print(json.dumps({"model": str(model), "test": metrics}))
        return
    print("".join(f"{name:>9}  {value:.4f}\n" for name, value in metrics.items() if "@" in name), end="")
    print(f"saved to {model}; try: tiger recommend {model} --history ID ID")
