"""Amazon reviews of 2014 (McAuley Lab, UCSD): from the published dumps to a dataset directory.

    python data/amazon.py beauty --out datasets/beauty              # downloads into raw/, resumes a broken download
    python data/amazon.py sports --out datasets/sports --raw DIR    # the two dumps are already in DIR

A category has two files: ``reviews_<Category>_5.json.gz``, one JSON object a line, 5-core, and
``meta_<Category>.json.gz``, one *Python literal* a line, read here with ``ast.literal_eval``, which runs nothing.
``beauty``, ``sports`` and ``toys`` are short names; any other category goes by its file stem, such as ``Video_Games``.

Both dumps are read line by line and both tables written by batches: what stays in memory is the ids and a few integers
an event, however long reviews and descriptions are.

Review times have the precision of a day and the dumps are sorted by product, so a user's events of one day come out in
the order of their product codes: report results with ties shuffled as well (``RecommendationData.leave_one_out``).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import sys
import urllib.parse
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from amazon_records import parse_metadata, parse_review
from download import download, gzip_errors, verify
from tqdm import tqdm

from tiger.data.dataset_card import write_dataset_card
from tiger.data.importing.filters import core_filter, first_occurrences
from tiger.utils.errors import DataError
from tiger.utils.files import written_together

BASE_URL = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
CATEGORIES = {"beauty": "Beauty", "sports": "Sports_and_Outdoors", "toys": "Toys_and_Games"}

EVENT_BATCH = 131_072
ITEM_BATCH = 8_192

# Nearly every line of a metadata dump starts with its product code, and most products are not in the 5-core set.
_LEADING_ASIN = re.compile(rb"""\s*\{\s*(['"])asin\1\s*:\s*(['"])([^'"\\]+)\2\s*[,}]""")


@dataclass(frozen=True)
class Summary:
    """What a preparation wrote and what it left out, in rows.

    Args:
        users, items, events: rows in the output.
        duplicates: events dropped because user, item and time occurred before.
        below_core: events dropped by the core filter.
        without_metadata: items that the metadata file doesn't know (their row is all nulls).
        without_title: items with a null title, those without metadata among them.
        bad_lines: unreadable lines skipped, in both files.
    """

    users: int
    items: int
    events: int
    duplicates: int
    below_core: int
    without_metadata: int
    without_title: int
    bad_lines: int

    def __str__(self) -> str:
        return "\n".join(f"{f.name.replace('_', ' '):<17}{getattr(self, f.name):>12,}" for f in fields(self))


@dataclass(frozen=True)
class _Events:
    """Events in the order of the file; users and items are positions in the lists of ids."""

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    ratings: np.ndarray
    user_ids: list[str]
    item_ids: list[str]

    def select(self, rows: np.ndarray) -> _Events:
        return _Events(
            self.users[rows],
            self.items[rows],
            self.timestamps[rows],
            self.ratings[rows],
            self.user_ids,
            self.item_ids,
        )


class _BadLines:
    """What to do with a line that can't be read: refuse it, or skip, count and show the first."""

    def __init__(self, skip: bool):
        self.skip = skip
        self.count = 0

    def add(self, path: Path, number: int, reason: Exception) -> None:
        message = f"{path}, line {number}: {reason or type(reason).__name__}"
        if not self.skip:
            raise DataError(f"{message}. Repair the line, or leave such lines out with --skip-bad-lines.") from reason
        if self.count == 0:
            print(f"skipping bad lines, the first: {message}", file=sys.stderr)
        self.count += 1


def prepare(
    reviews: str | os.PathLike,
    metadata: str | os.PathLike,
    out: str | os.PathLike,
    *,
    core: int = 5,
    description: bool = False,
    skip_bad_lines: bool = False,
) -> Summary:
    """Turn two dumps into ``items.parquet`` and ``interactions.parquet``.

    Events: exact repeats (user, item and time) dropped, then the core filter, then users in order of first appearance,
    each in order of time, equal times in the order of the file. Items: those with an event, sorted by id.
    Both files appear whole or not at all; what was in ``out`` before stays until then.

    Args:
        reviews: ``.json.gz``, a JSON object a line with ``reviewerID``, ``asin``, ``unixReviewTime`` (seconds) and,
            optionally, ``overall``.
        metadata: ``.json.gz``, a Python literal (or a JSON object) a line with ``asin`` and, optionally, ``title``,
            ``brand``, ``categories``, ``price`` (US dollars), ``description``. Lines of products without an event
            are passed over unread.
        out: the dataset directory, made if needed.
        core: keep users and items with this many events, repeated until all have them; 0 keeps all.
        description: write a ``description`` column too.
        skip_bad_lines: leave unreadable lines out and count them, rather than refuse the file.

    Raises:
        DataError: a dump is missing, not gzip, cut short or damaged; a line can't be read; no event is left.
    """
    reviews, metadata, out = Path(reviews), Path(metadata), Path(out)
    for path in (reviews, metadata):
        if not path.is_file():
            raise DataError(f"{path} is missing: download it, or name the directory that holds it with --raw.")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name a directory with --out.")
    bad_lines = _BadLines(skip_bad_lines)
    events = _read_reviews(reviews, bad_lines)
    total = len(events.users)
    events = events.select(first_occurrences(events.users, events.items, events.timestamps))
    unique = len(events.users)
    events = events.select(core_filter(events.users, events.items, core))
    if len(events.users) == 0:
        raise DataError(f"{reviews}: no event is left of {total} with --core {core}. Lower it; 0 keeps all events.")
    events = events.select(np.lexsort((events.timestamps, events.users)))

    with written_together(out, ("items.parquet", "interactions.parquet")) as scratch:
        _write_events(events, scratch / "interactions.parquet")
        kept = np.unique(events.items)
        item_ids = sorted(events.item_ids[item] for item in kept)
        without_metadata, without_title = _write_items(item_ids, metadata, scratch, description, bad_lines)
    write_dataset_card(Path(out), Path(out).name)
    return Summary(
        users=len(np.unique(events.users)),
        items=len(item_ids),
        events=len(events.users),
        duplicates=total - unique,
        below_core=unique - len(events.users),
        without_metadata=without_metadata,
        without_title=without_title,
        bad_lines=bad_lines.count,
    )


def dump_names(category: str) -> tuple[str, str]:
    """File names of a category's reviews and metadata; ``category`` is a short name or a file stem."""
    stem = CATEGORIES.get(category, category)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", stem):
        raise DataError(
            f"category {category!r}: expected {', '.join(CATEGORIES)}, or a dump's stem such as Video_Games."
        )
    return f"reviews_{stem}_5.json.gz", f"meta_{stem}.json.gz"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a gzip file with their numbers from 1, empty ones left out; the bar counts compressed bytes."""
    with (
        gzip_errors(path),
        open(path, "rb") as raw,
        gzip.open(raw) as lines,
        tqdm(desc=path.name, total=path.stat().st_size, unit="B", unit_scale=True, disable=None) as bar,
    ):
        for number, line in enumerate(lines, start=1):
            if number % 4096 == 0:
                bar.update(raw.tell() - bar.n)
            if not line.isspace():
                yield number, line
        bar.update(raw.tell() - bar.n)


def _parsed(path: Path, parse: Callable[[bytes], Any], bad_lines: _BadLines) -> Iterator[Any]:
    for number, line in _lines(path):
        try:
            record = parse(line)
        except (ValueError, RecursionError) as error:
            bad_lines.add(path, number, error)
            continue
        yield record


def _read_reviews(path: Path, bad_lines: _BadLines) -> _Events:
    # Machine arrays and one number an id: some 20 bytes an event, where a list of tuples would take 200.
    users, items, timestamps, ratings = array("i"), array("i"), array("q"), array("f")
    user_numbers: dict[str, int] = {}
    item_numbers: dict[str, int] = {}
    for user, item, timestamp, rating in _parsed(path, parse_review, bad_lines):
        users.append(user_numbers.setdefault(user, len(user_numbers)))
        items.append(item_numbers.setdefault(item, len(item_numbers)))
        timestamps.append(timestamp)
        ratings.append(rating)
    if not users:
        raise DataError(f"{path}: no reviews in it. Delete it and download it again.")
    return _Events(
        users=np.frombuffer(users, dtype=np.int32),
        items=np.frombuffer(items, dtype=np.int32),
        timestamps=np.frombuffer(timestamps, dtype=np.int64),
        ratings=np.frombuffer(ratings, dtype=np.float32),
        user_ids=list(user_numbers),
        item_ids=list(item_numbers),
    )


def _write_events(events: _Events, path: Path) -> None:
    schema = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("rating", pa.float32())]
    )
    user_ids, item_ids = pa.array(events.user_ids, pa.string()), pa.array(events.item_ids, pa.string())
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(events.users), EVENT_BATCH):
            rows = slice(start, start + EVENT_BATCH)
            columns = [
                user_ids.take(pa.array(events.users[rows])),
                item_ids.take(pa.array(events.items[rows])),
                pa.array(events.timestamps[rows]),
                pa.array(events.ratings[rows], from_pandas=True),  # NaN -> null
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_items(
    item_ids: list[str], metadata: Path, scratch: Path, description: bool, bad_lines: _BadLines
) -> tuple[int, int]:
    """Write the rows of ``item_ids``, in that order; returns how many lack metadata and how many a title.

    The dump has another order, and descriptions of a large catalog don't fit in memory, so records are put on disk
    as they come and fetched back by where they begin.
    """
    names = ["title", "brand", "categories", "price"] + (["description"] if description else [])
    schema = pa.schema(
        [("item_id", pa.string())] + [(n, pa.float64() if n == "price" else pa.string()) for n in names]
    )
    rows = {item: row for row, item in enumerate(item_ids)}
    begins = np.full(len(item_ids), -1, dtype=np.int64)
    without_title = 0
    with open(scratch / "records.jsonl", "wb+") as records:
        for record in _parsed(metadata, lambda line: _wanted(line, rows), bad_lines):
            row = rows.get(record["asin"]) if record else None
            if row is None or begins[row] >= 0:  # of two records of one product, the first counts
                continue
            begins[row] = records.tell()
            records.write(json.dumps([record[name] for name in names]).encode() + b"\n")
        with pq.ParquetWriter(scratch / "items.parquet", schema) as writer:
            for start in range(0, len(item_ids), ITEM_BATCH):
                ids = item_ids[start : start + ITEM_BATCH]
                values = [_record_at(records, begin, len(names)) for begin in begins[start : start + ITEM_BATCH]]
                columns = dict(zip(names, zip(*values)))
                without_title += columns["title"].count(None)
                arrays = [pa.array(ids, pa.string())] + [pa.array(columns[n], schema.field(n).type) for n in names]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
    return int((begins < 0).sum()), without_title


def _wanted(line: bytes, rows: dict[str, int]) -> dict[str, Any] | None:
    """The record of a line, or None, unread, if the product code it starts with is none of ours."""
    leading = _LEADING_ASIN.match(line)
    if leading and line.rstrip().endswith(b"}") and leading[3].decode() not in rows:
        return None
    return parse_metadata(line)


def _record_at(records: Any, begin: int, width: int) -> list:
    if begin < 0:
        return [None] * width
    records.seek(begin)
    return json.loads(records.readline())


def _checksums(values: list[str]) -> dict[str, str]:
    pairs = dict(value.rpartition("=")[::2] for value in values)
    for name, digest in pairs.items():
        if not name or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise DataError(f"--sha256 {name}={digest}: expected FILE=HEX with 64 hexadecimal digits.")
    return pairs


def _locate(args: argparse.Namespace) -> list[Path]:
    """The two dumps, downloaded or where they lie, their checksums compared."""
    names, checksums = dump_names(args.category), _checksums(args.sha256)
    if unknown := checksums.keys() - set(names):
        raise DataError(f"--sha256 names {sorted(unknown)[0]!r}, but the files are {' and '.join(names)}.")
    if args.raw is None:
        base = args.base_url.rstrip("/") + "/"
        return [download(urllib.parse.urljoin(base, n), args.download_to / n, checksums.get(n)) for n in names]
    paths = [args.raw / name for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing: put it there, or leave --raw out to download it.")
        verify(path, checksums.get(path.name))
    return paths


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 1 for an input that can't be used, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="Amazon reviews (2014, 5-core) to a dataset directory.")
    parser.add_argument("category", help="beauty, sports, toys, or the stem of a dump's name, such as Video_Games")
    parser.add_argument("--out", type=Path, required=True, help="dataset directory to write")
    parser.add_argument("--raw", type=Path, help="directory that holds the two dumps already: nothing is downloaded")
    parser.add_argument("--download-to", type=Path, default=Path("raw"), help="where downloads go (default: raw)")
    parser.add_argument("--base-url", default=BASE_URL, help="where the dumps are published (default: %(default)s)")
    parser.add_argument(
        "--sha256", action="append", default=[], metavar="FILE=HEX", help="expected SHA-256 of a dump; may be repeated"
    )
    parser.add_argument("--core", type=int, default=5, help="least events a user and an item (default: 5; 0: any)")
    parser.add_argument("--description", action="store_true", help="write descriptions too")
    parser.add_argument("--skip-bad-lines", action="store_true", help="leave unreadable lines out and count them")
    args = parser.parse_args(argv)
    try:
        reviews, metadata = _locate(args)
        summary = prepare(
            reviews,
            metadata,
            args.out,
            core=args.core,
            description=args.description,
            skip_bad_lines=args.skip_bad_lines,
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the dataset directory is as it was", file=sys.stderr)
        return 130
    print(f"{args.out}\n{summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
