"""``tiger recommend`` and ``tiger rank``."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice

from tiger.cli.common import load_recommender, told_warnings, words
from tiger.utils.errors import DataError


def run_recommend(args: argparse.Namespace) -> None:
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
        from tiger.serving.offline import recommend_users

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


def run_rank(args: argparse.Namespace) -> None:
    tiger = load_recommender(args.model, args.revision)
    with told_warnings():
        (items,), scores = tiger.rank([words(args.history)], [args.candidates])
    _print(tiger, items, scores[0], args.json)


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
