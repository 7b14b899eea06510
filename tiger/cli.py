"""``tiger``: the library on the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from tiger import __version__
from tiger.cli_items import add_items_verbs
from tiger.cli_serving import add_serving_verbs
from tiger.data import DataError
from tiger.terminal import load_recommender, told_warnings, words


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Tell what a user can mend in one line and exit with 2, after Ctrl-C with 130; all else keeps its traceback."""
    try:
        yield
    except (DataError, FileExistsError, PermissionError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has seen enough (`| head`): there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


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
    recommend.set_defaults(run=_recommend)
    rank = verbs.add_parser("rank", help="candidates in the order in which a history's owner may want them")
    rank.add_argument("model", metavar="RUN_OR_REPO", help="a saved recommender that holds a ranker")
    rank.add_argument("--revision", help="branch, tag or commit on the Hub")
    rank.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first; -: from stdin")
    rank.add_argument("--candidates", nargs="+", required=True, metavar="ID", help="item ids to put in order")
    rank.add_argument("--json", action="store_true", help="print JSON")
    rank.set_defaults(run=_rank)
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
    evaluate.set_defaults(run=_evaluate)
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
    push.set_defaults(run=_push)
    add_serving_verbs(verbs)
    args = parser.parse_args(argv)
    with friendly_errors():
        args.run(args)
        sys.stdout.flush()  # or nobody would be told of a reader that has gone


def _recommend(args: argparse.Namespace) -> None:
    if args.k < 1 or args.num_beams < 1 or args.batch_users < 1 or args.part_events < 1:
        raise DataError("-k, --num_beams, --batch_users and --part_events must be at least 1.")
    if args.temperature is not None and not args.temperature >= 1e-3:
        raise DataError("--temperature must be at least 0.001.")
    if args.unseen_share is not None and not 0 <= args.unseen_share <= 1:
        raise DataError("--unseen_share must be from 0 to 1.")
    if (args.out is None) == (args.histories not in (None, "-")):
        raise DataError("--out belongs to --histories FILE, and --histories FILE needs it.")
    tiger = load_recommender(args.model, args.revision, "cpu" if args.histories is None else "fastest")
    options = {
        "k": args.k,
        "num_beams": max(args.num_beams, args.k),
        "exclude_history": not args.keep_history,
        "temperature": args.temperature,
        "seed": args.seed,
        "batch_size": args.batch_users,
        "unseen_share": args.unseen_share,
    }
    if args.out is not None:
        from tiger.batch import recommend_users

        settings = {"part_events": args.part_events, "bf16": not args.no_bf16, "progress": True}
        counts = recommend_users(tiger, args.histories, args.out, **settings, **options)
        if args.json:
            print(json.dumps({"out": args.out} | counts))
        else:
            unknown = counts["unknown_events"]
            more = f"; {unknown:,} events of items that the catalogue lacks were left out" if unknown else ""
            print(f"{args.out}: recommendations for {counts['users']:,} users{more}")
        return
    if args.histories == "-":
        _answer_lines(tiger, options)
        return
    with told_warnings():
        (items,), scores = tiger.recommend([words(args.history)], **options)
    _print(tiger, items, scores[0], args.json)


def _answer_lines(tiger, options: dict) -> None:
    """JSON lines in, JSON lines out, so many at a time."""
    lines = enumerate(sys.stdin, start=1)
    while batch := list(islice(lines, options["batch_size"])):
        rows = [_history_of(number, line) for number, line in batch if line.strip()]
        with told_warnings():
            items, scores = tiger.recommend([row.pop("history") for row in rows], **options)
        for row, ids, values in zip(rows, items, scores):
            print(json.dumps(row | {"items": _rows(tiger, ids, values)}, ensure_ascii=False), flush=True)


def _history_of(number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"standard input, line {number} is not JSON ({error.msg}).") from error
    row = row if isinstance(row, dict) else {"history": row}
    history = row.get("history")
    if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
        raise DataError(f'standard input, line {number}: ["ID", ...] or {{"history": ["ID", ...], ...}} is wanted.')
    return row


def _rank(args: argparse.Namespace) -> None:
    tiger = load_recommender(args.model, args.revision)
    with told_warnings():
        (items,), scores = tiger.rank([words(args.history)], [args.candidates])
    _print(tiger, items, scores[0], args.json)


def _push(args: argparse.Namespace) -> None:
    from tiger.model_card import read_results

    results = read_results(args.results)
    commit = load_recommender(args.model).push_to_hub(
        args.repo_id,
        include_items=args.with_items,
        results=results,
        license=args.license,
        private=args.private,
        revision=args.revision,
        commit_message=args.message,
    )
    print(json.dumps({"url": commit.commit_url, "commit": commit.oid}) if args.json else commit.commit_url)


def _evaluate(args: argparse.Namespace) -> None:
    import torch

    from tiger.data import RecommendationData, Sequences
    from tiger.examples import EvaluationExamples
    from tiger.metrics import next_item_metrics

    if args.num_beams < 10 or (args.users is not None and args.users < 1):
        raise DataError("--num_beams must be at least 10 and --users at least 1.")
    tiger, data = load_recommender(args.model, device="fastest"), RecommendationData.load(args.dataset)
    rows, events = tiger.tokenizer.rows(data.item_ids, missing=-1), data.sequences
    if (rows < 0).any():
        raise DataError(
            f"the model lacks {(rows < 0).sum()} items of {args.dataset}: it was trained on another dataset."
        )
    # The model's rows: items may have been added to it since.
    events = Sequences(events.offsets, rows[events.items].astype(events.items.dtype), events.timestamps)
    split = replace(data, sequences=events).leave_one_out(tiger.training.get("shuffle_ties"))
    examples = EvaluationExamples(*split.part(args.part)).sample(args.users)
    rank = tiger.ranker is None or tiger.ranker.learned_from != args.part
    if not rank:
        print("The second stage learned from validation items: only the T5 is measured on them.", file=sys.stderr)
    with torch.autocast(tiger.device.type, torch.bfloat16, enabled=not args.no_bf16):
        answers, _ = tiger.recommend_rows(
            examples.histories,
            num_beams=args.num_beams,
            exclude_history=not args.keep_history,
            progress=True,
            rank=rank,
        )
    metrics = {"users": len(examples)} | next_item_metrics(answers, examples.targets)
    if args.json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        print(f"{name:>9}  {value:{'d' if name == 'users' else '.4f'}}")


def _rows(tiger, items: list[str], scores) -> list[dict]:
    titles = tiger.titles(items)
    return [
        {"item_id": item, "title": title, "score": round(float(score), 5)}
        for item, title, score in zip(items, titles, scores)
    ]


def _print(tiger, items: list[str], scores, as_json: bool) -> None:
    rows = _rows(tiger, items, scores)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        title = row["title"] if row["title"] != row["item_id"] else ""
        print(f"{row['score']:8.3f}  {row['item_id']}  {title}".rstrip())


if __name__ == "__main__":
    main()
