"""``tiger recommend`` and ``tiger rank``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from tiger.cli.common import (
    add_device_option,
    add_model_argument,
    input_lines,
    load_recommender,
    print_warnings,
    words,
)
from tiger.cli.engine import add_engine_options, cluster_of
from tiger.cli.search_options import add_search_options, search_options
from tiger.retriever.search_options import MAX_BEAMS, check_value
from tiger.utils.errors import DataError
from tiger.utils.json_files import parse_json

if TYPE_CHECKING:
    from tiger.scale.session import Cluster


def add_recommend_verbs(verbs) -> None:
    """``tiger recommend`` and ``tiger rank``."""
    recommend = verbs.add_parser("recommend", help="items that may come next, after one history or a log of them")
    add_model_argument(recommend)
    which = recommend.add_mutually_exclusive_group()
    which.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first; -: from stdin")
    which.add_argument(
        "--histories",
        metavar="FILE",
        help="all users of a log (parquet with user_id, item_id, timestamp; with --engine ray, a URL too), to --out; "
        '-: from stdin, one history per line, ["ID", ...] or {"history": ["ID", ...], "timestamps": [SECONDS, ...], '
        '"at": SECONDS, "user_id": "ID", ...}, times and user if they are known; answers are JSON lines',
    )
    _add_times(recommend)
    recommend.add_argument("--user", metavar="ID", help="of whom --history is, for a model with user tokens")
    recommend.add_argument(
        "--out",
        metavar="FILE",
        help=".parquet, .csv or .jsonl for user_id, rank, item_id, score; a killed run is resumed",
    )
    recommend.add_argument("-k", type=int, default=10, help="number of items (default 10)")
    add_search_options(recommend)
    _add_filter(recommend, "only items for which this is true")
    recommend.add_argument(
        "--unseen_share", type=float, metavar="SHARE", help="share of -k for items added since training"
    )
    recommend.add_argument(
        "--part_events", type=int, default=20_000, help="events of a log in memory at a time (default 20000)"
    )
    add_device_option(recommend, None, "cpu for --history; for --histories, the accelerator that is there, else cpu")
    recommend.add_argument(
        "--no_bf16", action="store_true", help="decode in float32, slower (default for --history and - on a CPU)"
    )
    recommend.add_argument("--json", action="store_true", help="print JSON")
    add_engine_options(recommend)
    recommend.set_defaults(run=run_recommend)
    rank = verbs.add_parser("rank", help="order candidates by the probability that the user wants them")
    add_model_argument(rank, "a saved recommender that holds a ranker")
    rank.add_argument("--history", nargs="*", default=[], metavar="ID", help="item ids, oldest first; -: from stdin")
    _add_times(rank)
    rank.add_argument("--candidates", nargs="+", required=True, metavar="ID", help="item ids to order")
    add_device_option(rank, "cpu", "cpu")
    _add_filter(rank, "only candidates for which this is true")
    rank.add_argument("--json", action="store_true", help="print JSON")
    rank.set_defaults(run=run_rank)


def _add_times(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timestamps",
        nargs="*",
        type=int,
        metavar="SECONDS",
        help="when the events of --history took place, in seconds since 1970; the second stage reads them",
    )
    parser.add_argument(
        "--at",
        type=int,
        metavar="SECONDS",
        help="when recommendations are wanted, with --history; default: at the last event",
    )


def _add_filter(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--filter",
        metavar="TEXT",
        help=f"{what}: \"price < 20 and brand in ('Acme', 'Bolt')\", by columns of the item table; "
        "=, !=, <, <=, >, >=, in, is null, and, or, not",
    )


def _compiled(tiger, text: str):
    """A filter in words; of one that allows nothing it is told once."""
    with print_warnings():
        return tiger.compile_filter(text)


def _times(args: argparse.Namespace) -> dict:
    return {"timestamps": None if args.timestamps is None else [args.timestamps], "at": args.at}


def run_recommend(args: argparse.Namespace) -> None:
    check_value("-k", args.k, int, 1, MAX_BEAMS)
    check_value("--part_events", args.part_events, int, 1)
    if args.unseen_share is not None and not 0 <= args.unseen_share <= 1:
        raise DataError("--unseen_share must be from 0 to 1.")
    options = {"k": args.k, "unseen_share": args.unseen_share} | search_options(args, at_least=args.k)
    if (args.out is None) == (args.histories not in (None, "-")):
        raise DataError("--out belongs to --histories FILE, and --histories FILE needs it.")
    if args.user is not None and args.histories is not None:
        raise DataError("--user belongs to --history; a log names its users itself.")
    if args.histories is not None and (args.timestamps is not None or args.at is not None):
        raise DataError("--timestamps and --at belong to --history: a file of histories holds its own times.")
    if args.out is not None:
        _recommend_log(args, options)
        return
    if args.engine != "local":
        raise DataError("--engine ray answers --histories FILE, to --out.")
    device = args.device or ("cpu" if args.histories is None else "fastest")
    tiger = load_recommender(args.model, args.revision, device)
    if args.filter is not None:
        options["filter"] = _compiled(tiger, args.filter)
    options["bf16"] = False if args.no_bf16 else None
    if args.histories == "-":
        _answer_lines(tiger, options)
        return
    with print_warnings():
        user_ids = None if args.user is None else [args.user]
        (items,), scores = tiger.recommend([words(args.history)], user_ids=user_ids, **_times(args), **options)
    _print(tiger, items, scores[0], args.json)


def _recommend_log(args: argparse.Namespace, options: dict) -> None:
    """Answer all users of a log, in this process or by workers, to a file."""
    from tiger.serving.answer_files import recommend_to

    if (cluster := cluster_of(args)) is not None:
        run = _on_ray(args, options, cluster)
    else:
        run = _in_this_process(args, options)
    counts = recommend_to(run, args.out)
    if args.json:
        print(json.dumps({"out": args.out} | counts))
        return
    unknown = counts["unknown_events"]
    more = f"; {unknown:,} events of items that the catalog lacks were left out" if unknown else ""
    print(f"{args.out}: recommendations for {counts['users']:,} users{more}")


def _in_this_process(args: argparse.Namespace, options: dict) -> Callable[[str], dict[str, int]]:
    from tiger.serving.model_source import ModelSource
    from tiger.serving.offline import recommend_users
    from tiger.serving.run_identity import saved_identity

    def read(name: str):
        return load_recommender(name, None, args.device or "fastest")

    source = ModelSource(args.model, args.revision, read)
    tiger = source.load().recommender
    if args.filter is not None:
        options = options | {"filter": _compiled(tiger, args.filter)}
    settings = {"part_events": args.part_events, "bf16": not args.no_bf16, "progress": True}
    settings["identity"] = saved_identity(source.folder())
    return lambda out: recommend_users(tiger, args.histories, out, **settings, **options)


def _on_ray(args: argparse.Namespace, options: dict, cluster: Cluster) -> Callable[[str], dict[str, int]]:
    from tiger.scale.batch import BatchJob, recommend_on_ray

    def run(out: str) -> dict[str, int]:
        job = BatchJob(
            args.model,
            args.histories,
            out,
            args.revision,
            args.filter,
            args.part_events,
            not args.no_bf16,
            args.device or "cpu",
            options,
        )
        return recommend_on_ray(job, cluster, progress=True)

    return run


def _answer_lines(tiger, options: dict) -> None:
    """Read histories as JSON lines, write answers as JSON lines, a batch at a time."""
    from tiger.retriever.config import reads_users
    from tiger.utils.devices import default_batch_size

    lines = enumerate(input_lines(), start=1)
    size = options["batch_size"] or default_batch_size(tiger.device, options["num_beams"])
    while batch := list(islice(lines, size)):
        rows = [_history_of(number, line) for number, line in batch if line.strip()]
        histories, timestamps, at = ([row.pop(name, None) for row in rows] for name in ("history", "timestamps", "at"))
        with print_warnings():
            user_ids = [row.get("user_id") for row in rows] if reads_users(tiger.model) else None
            items, scores = tiger.recommend(histories, timestamps=timestamps, at=at, user_ids=user_ids, **options)
        for row, ids, values in zip(rows, items, scores):
            print(json.dumps(row | {"items": _rows(tiger, ids, values)}, ensure_ascii=False), flush=True)


def _history_of(number: int, line: str) -> dict:
    row = parse_json(line, f"standard input, line {number}")
    row = row if isinstance(row, dict) else {"history": row}
    history = row.get("history")
    if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
        raise DataError(f'standard input, line {number}: ["ID", ...] or {{"history": ["ID", ...], ...}} is needed.')
    from tiger.recommender.histories import check_moment, times_of_history

    where = f"standard input, line {number}, "
    check_moment(
        row.get("at"), times_of_history(row.get("timestamps"), len(history), f"{where}timestamps"), f"{where}at"
    )
    return row


def run_rank(args: argparse.Namespace) -> None:
    tiger = load_recommender(args.model, args.revision, args.device)
    allowed = None if args.filter is None else _compiled(tiger, args.filter)
    with print_warnings():
        (items,), scores = tiger.rank([words(args.history)], [args.candidates], filter=allowed, **_times(args))
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
