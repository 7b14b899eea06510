"""``tiger train``."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tiger.cli.common import usable_device
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
    train.add_argument(
        "--fast",
        action="store_true",
        help="a first look: 2 epochs, few users, one fit of the trees",
    )
    train.add_argument("--embeddings", metavar="FILE", help="safetensors of the items' vectors; runs no encoder then")
    train.add_argument(
        "--init_from",
        metavar="RUN_DIR",
        help="go on from this recommender, on a log that holds its log and more: items keep their semantic IDs, "
        "training is shorter",
    )
    train.add_argument(
        "--split",
        choices=("leave_one_out", "all"),
        default="leave_one_out",
        help="all: train on all events, for deployment; no test results (default: leave_one_out)",
    )
    train.add_argument("--processes", type=int, default=1, help="that train the T5, one per GPU (default 1)")
    train.add_argument(
        "--device",
        help="cpu, or the accelerator's kind such as cuda (default: the accelerator that is there, else cpu); "
        "CUDA_VISIBLE_DEVICES chooses among several",
    )
    train.add_argument("--json", action="store_true", help="print JSON")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> None:
    require_extra("train")
    from transformers.utils.logging import disable_progress_bar

    from tiger.training.pipeline import RESULTS, train
    from tiger.training.plan import FAST, find_recipe, over, read_overrides, steps_of
    from tiger.utils.devices import using_device

    if args.processes < 1:
        raise DataError(f"--processes must be at least 1, got {args.processes}.")
    fast = {step: FAST[step] for step in steps_of(find_recipe(args.recipe)) if args.fast and step in FAST}
    overrides: dict[str, Any] = over(fast, read_overrides(args.set))
    disable_progress_bar()  # of weights that are read; training and decoding have their own
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # how checkpoints are told apart by age
    try:
        # What the steps say goes to standard error; the answer is what comes at the end.
        with using_device(_device(args.device)), redirect_stdout(sys.stderr):
            recommender = train(
                args.dataset,
                args.out,
                args.recipe,
                embeddings=args.embeddings,
                processes=args.processes,
                init_from=args.init_from,
                split=args.split,
                **overrides,
            )
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    model, results = Path(args.out) / "model", Path(args.out) / RESULTS
    found = json.loads(results.read_text()) if results.exists() else {}
    if args.json:
        print(json.dumps({"model": str(model), "test": {name: found[name] for name in found if name in _MEASURED}}))
        return
    _print_results(found)
    keep = "" if found.get("exclude_history", True) else " --keep_history"
    ids = " ".join(map(shlex.quote, recommender.tokenizer.item_ids[:2]))
    print(f"saved to {model}; try: tiger recommend {shlex.quote(str(model))} --history {ids}{keep}")


def _device(name: str | None) -> str | None:
    if name is None:
        return None
    if ":" in name:
        raise DataError(f"--device {name}: give the kind alone, and choose the card by CUDA_VISIBLE_DEVICES.")
    return usable_device(name)


_MEASURED = ("users", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "exclude_history", "counts_validation")


def _print_results(found: dict) -> None:
    """A few users by title, then one table."""
    from tiger.training.evaluation import table_of
    from tiger.training.stories import told

    for story in found.get("examples", [])[:3]:
        print(f"\n{told(story)}")
    if models := found.get("models"):
        print(f"\nThe next item of {found['users']:,} users, among all items:\n\n{table_of(models)}\n")
