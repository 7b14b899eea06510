"""``tiger import``."""

from __future__ import annotations

import argparse
import json
import sys

from tiger.cli.common import spellings

_COLUMNS = {
    "item_id": ("item-id", "item ids, in both files"),
    "event_item_id": ("event-item-id", "item ids of the log, where it has another name there"),
    "user_id": ("user-id", "users"),
    "timestamp": ("time", "times"),
    "title": ("title", "titles"),
    "description": ("description", "descriptions"),
    "brand": ("brand", "brands"),
    "categories": ("categories", "categories"),
    "price": ("price", "prices"),
    "image_url": ("image", "URLs of images"),
    "rating": ("rating", "ratings"),
    "label": ("label", "labels, 0 or 1"),
}


def add_import_verb(verbs) -> None:
    """``tiger import``."""
    importing = verbs.add_parser(
        "import",
        help="a dataset from files of items and clicks: CSV, JSON lines, parquet",
        epilog="Columns are found by their names and values, and it says how each is read. All problems are told at "
        "once; nothing is written unless all rows fit.",
    )
    importing.add_argument("items", metavar="ITEMS", help="a file, or a folder of shards")
    importing.add_argument("interactions", metavar="CLICKS", help="the same, of users, items and times")
    importing.add_argument("--out", required=True, metavar="DIR", help="dataset directory to write")
    for target, (option, what) in _COLUMNS.items():
        importing.add_argument(*spellings(f"--{option}"), dest=target, metavar="COLUMN", help=f"column of {what}")
    importing.add_argument(*spellings("--leave-out"), nargs="+", default=[], metavar="COLUMN", help="not read")
    importing.add_argument(
        *spellings("--time-format"), metavar="FORM", help="of the times, such as '%%d/%%m/%%Y %%H:%%M'"
    )
    importing.add_argument(*spellings("--drop-unknown"), action="store_true", help="leave out rows that can't be used")
    importing.add_argument(
        "--core", type=int, default=0, metavar="N", help="keep users and items with N events (default 0: all)"
    )
    importing.add_argument("--json", action="store_true", help="print JSON")
    importing.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> None:
    """Import the files; exit with 2 and one line per problem if they don't fit."""
    from tiger.data.importing.importer import ImportOptions, import_tables
    from tiger.data.importing.problems import ImportProblems

    columns = {target: getattr(args, target) for target in _COLUMNS if getattr(args, target) is not None}
    options = ImportOptions(columns, args.leave_out, args.time_format, args.drop_unknown, args.core)
    try:
        report = import_tables(
            args.items, args.interactions, args.out, options, say=lambda line: print(line, file=sys.stderr)
        )
    except ImportProblems as problems:
        print("error: nothing was written.", *problems.lines, sep="\n  ", file=sys.stderr)
        print(problems.remedy, file=sys.stderr)
        sys.exit(2)
    if args.json:
        print(json.dumps(report.as_dict()))
        return
    print(report)
    if not report.trainable_users:
        print(f"written to {args.out}; tiger train needs users with 3 events or more: give a longer log first")
        return
    name = args.out.rstrip("/").rsplit("/", 1)[-1]
    print(f"written to {args.out}; next: tiger train {args.out} --out runs/{name}")
