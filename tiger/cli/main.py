"""``tiger``: the library on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tiger import __version__
from tiger.cli.common import friendly_errors
from tiger.cli.evaluate import run_evaluate
from tiger.cli.items import add_items_verbs
from tiger.cli.push import run_push
from tiger.cli.recommend import run_rank, run_recommend
from tiger.cli.serving import add_serving_verbs
from tiger.cli.train import add_train_verb
from tiger.utils.extras import extras_named


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``tiger`` command."""
    parser = argparse.ArgumentParser(
        prog="tiger",
        description="Generative retrieval for recommenders.",
        epilog="`tiger VERB --help` tells the rest. Answers go to standard output, all else to standard error. "
        "Exit codes: 0 done, 2 a mistake that you can mend, 130 interrupted, 141 nobody reads the output.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"tiger {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    add_train_verb(verbs)
    recommend = verbs.add_parser("recommend", help="items that may come next, after one history or a log of them")
    recommend.add_argument("model", metavar="RUN_OR_REPO", help="runs/demo/model, or owner/name on the Hub")
    recommend.add_argument("--revision", help="branch, tag or commit on the Hub")
    which = recommend.add_mutually_exclusive_group()
    which.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first; -: from stdin")
    which.add_argument(
        "--histories",
        metavar="FILE",
        help="all users of a log (parquet with user_id, item_id, timestamp), to --out; "
        '-: from stdin, a line a history, ["ID", ...] or {"history": ["ID", ...], ...}; answers are JSON lines',
    )
    recommend.add_argument(
        "--out", metavar="FILE", help="parquet for user_id, rank, item_id, score; goes on if killed"
    )
    recommend.add_argument("-k", type=int, default=10, help="how many items (default 10)")
    recommend.add_argument("--num_beams", type=int, default=50, help="beams (default 50)")
    recommend.add_argument("--temperature", type=float, help="sample instead of taking the most probable")
    recommend.add_argument("--seed", type=int, help="of sampling")
    recommend.add_argument("--keep_history", action="store_true", help="allow items of the history in the answer")
    recommend.add_argument("--unseen_share", type=float, metavar="SHARE", help="of -k, for items new since training")
    recommend.add_argument("--batch_users", type=int, default=64, help="histories decoded together (default 64)")
    recommend.add_argument("--part_events", type=int, default=20_000, help="of a log, held at a time (default 20000)")
    recommend.add_argument("--no_bf16", action="store_true", help="decode logs in float32, slower")
    recommend.add_argument("--json", action="store_true", help="print JSON")
    recommend.set_defaults(run=run_recommend)
    rank = verbs.add_parser("rank", help="candidates in the order in which a history's owner may want them")
    rank.add_argument("model", metavar="RUN_OR_REPO", help="a saved recommender that holds a ranker")
    rank.add_argument("--revision", help="branch, tag or commit on the Hub")
    rank.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first; -: from stdin")
    rank.add_argument("--candidates", nargs="+", required=True, metavar="ID", help="item ids to put in order")
    rank.add_argument("--json", action="store_true", help="print JSON")
    rank.set_defaults(run=run_rank)
    add_items_verbs(verbs)
    evaluate = verbs.add_parser("evaluate", help="recall and NDCG of the last items of a dataset's users")
    evaluate.add_argument("model", metavar="RUN_DIR", help="a saved recommender")
    evaluate.add_argument("dataset", metavar="DATASET", help="dataset directory, or owner/name on the Hub")
    evaluate.add_argument("--part", choices=("valid", "test"), default="test", help="which items (default test)")
    evaluate.add_argument("--num_beams", type=int, default=50, help="beams (default 50)")
    evaluate.add_argument("--users", type=int, help="so many users, drawn at random; default: all")
    evaluate.add_argument("--keep_history", action="store_true", help="allow items of the history in the answer")
    evaluate.add_argument("--no_bf16", action="store_true", help="decode in float32, slower")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=run_evaluate)
    push = verbs.add_parser("push", help="publish a saved recommender on the Hub, with a model card")
    push.add_argument("model", metavar="RUN_DIR", help="a saved recommender, such as runs/demo/model")
    push.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made where there is none")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository a private one")
    push.add_argument("--revision", help="a branch, made where there is none (default main)")
    push.add_argument("--message", default="Upload a tiger recommender", help="of the commit")
    push.add_argument("--results", nargs="+", default=[], metavar="FILE", help="results of evaluation, for the card")
    push.add_argument("--with_items", action="store_true", help="publish the item table too, titles and all")
    push.add_argument("--license", help="of the weights, as the Hub spells it, such as apache-2.0")
    push.add_argument("--json", action="store_true", help="print JSON")
    push.set_defaults(run=run_push)
    add_serving_verbs(verbs)
    args = parser.parse_args(argv)
    with friendly_errors(), extras_named():
        args.run(args)
        sys.stdout.flush()  # or nobody would be told of a reader that has gone
