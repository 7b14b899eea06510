"""``tiger evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import Any

from tiger.cli.common import add_device_option, load_recommender, print_warnings, spellings
from tiger.cli.search_options import add_search_options
from tiger.utils.errors import DataError


def add_evaluate_verb(verbs) -> None:
    """``tiger evaluate``."""
    evaluate = verbs.add_parser("evaluate", help="recall and NDCG of the last items of a dataset's users")
    evaluate.add_argument("model", metavar="RUN_DIR", help="a saved recommender")
    evaluate.add_argument("dataset", metavar="DATASET", help="dataset directory, or owner/name on the Hub")
    evaluate.add_argument("--part", choices=("valid", "test"), default="test", help="which items (default test)")
    add_search_options(evaluate, "num_beams")
    evaluate.add_argument(
        "--remove_history",
        action="store_true",
        help="leave out items of the history, although training kept them; default: as in training",
    )
    evaluate.add_argument(
        "--no_timestamps", action="store_true", help="hide the times of events, as where recommend() is given none"
    )
    evaluate.add_argument("--users", type=int, help="number of users, drawn at random; default: all")
    add_device_option(evaluate, "fastest", "the accelerator that is there, else cpu")
    evaluate.add_argument("--no_bf16", action="store_true", help="decode in float32, slower")
    evaluate.add_argument(
        *spellings("--allow-other-log"),
        action="store_true",
        help="measure on another log than the model was trained on; targets may be what it has seen",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> None:
    import torch

    from tiger.data.dataset import RecommendationData
    from tiger.data.splits import ALL
    from tiger.evaluation.evaluator import evaluate
    from tiger.evaluation.training_split import COUNTED, OTHER_LOG, SEEN_ALL, SUFFIX, counts_validation, split_of_model
    from tiger.retriever.dataset import EvaluationExamples
    from tiger.training.validation_counts import without_validation_counts

    if args.num_beams < 10 or (args.users is not None and args.users < 1):
        raise DataError("--num_beams must be at least 10 and --users at least 1.")
    if args.keep_history and args.remove_history:
        raise DataError("--keep_history and --remove_history are opposites: give one.")
    tiger, data = load_recommender(args.model, device=args.device), RecommendationData.load(args.dataset)
    rows = tiger.tokenizer.rows(data.item_ids, missing=-1)
    with print_warnings():
        split, same = split_of_model(data, rows, tiger.training, args.dataset, args.allow_other_log)
    seen_all = tiger.training.get("split") == ALL
    if args.part == "valid" and split.valid_counted and same:  # of another log, there is nothing to go back to
        split = without_validation_counts(tiger, split)
        print("The memory's counts hold validation events: these are taken out to measure on them.", file=sys.stderr)
    examples = EvaluationExamples(*split.part(args.part)).sample(args.users)
    histories = examples.histories.without_timestamps() if args.no_timestamps else examples.histories
    keep = args.keep_history or (tiger.training.get("exclude_history") is False and not args.remove_history)
    if keep and not args.keep_history:
        print("Items of the history stay in the answers, as in the model's training.", file=sys.stderr)
    rank = not args.no_rank and (tiger.ranker is None or tiger.ranker.learned_from != args.part)
    if not rank and not args.no_rank:
        print("The second stage learned from validation items: only the T5 is measured on them.", file=sys.stderr)
    reads_counts = (rank and tiger.ranker is not None) or (tiger.memory is not None and not args.no_memory)
    counted = {COUNTED: True} if reads_counts and counts_validation(tiger.training) else {}
    with torch.autocast(tiger.device.type, torch.bfloat16, enabled=not args.no_bf16):
        bf16 = not args.no_bf16
        recommend = partial(tiger.recommend_rows, num_beams=args.num_beams, progress=True, rank=rank, bf16=bf16)
        recommend = partial(recommend, memory=not args.no_memory)
        found = evaluate(recommend, histories, examples.targets, exclude_history=not keep)
    metrics = {"users": len(examples)} | found.metrics
    if args.json:
        facts: dict[str, Any] = counted | ({"split": ALL} if seen_all else {})
        facts |= ({"other_log": True} if same is False else {}) | ({"timestamps": False} if args.no_timestamps else {})
        print(json.dumps(metrics | facts))
        return
    if args.no_timestamps:
        print("measured without timestamps")
    if counted:
        print(f"counts hold validation events, as those of hybrid{SUFFIX} do")
    if same is False:
        print(f"measured on {SEEN_ALL if seen_all else OTHER_LOG}")
    for name, value in metrics.items():
        print(f"{name:>9}  {value:{'d' if name == 'users' else '.4f'}}")
