"""Steam reviews (McAuley Lab, UCSD; research use): from the published dumps to a dataset directory.

    python data/steam.py --out datasets/steam              # downloads the two dumps into raw/
    python data/steam.py --out datasets/steam --raw DIR    # they are already in DIR

``steam_games.json.gz`` and ``steam_reviews.json.gz`` hold one *Python literal* a line, which runs nothing here. Users
go by their names, as the reviews have nothing else; days are the precision of the times.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amazon_records import parse_literal
from download import gzip_errors
from preparing import locate, options, run, write_objects

from tiger.data.importing.importer import ImportOptions
from tiger.utils.errors import DataError

BASE_URL = "https://cseweb.ucsd.edu/~wckang/"
NAMES = ("steam_games.json.gz", "steam_reviews.json.gz")
GAME = ("id", "app_name", "genres", "tags", "developer", "publisher", "price", "release_date")
REVIEW = ("username", "product_id", "date")


def records(path: Path, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Some fields of each line of a dump.

    Raises:
        DataError: a line is no Python literal, or the dump is cut short.
    """
    opened = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")
    with gzip_errors(path), opened as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                record = parse_literal(line.decode())
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}. Repair the line, or leave it out.") from error
            yield {name: record.get(name) for name in names}


def main(argv: list[str] | None = None) -> int:
    """Command line; see :func:`preparing.run` for the exit status."""
    args = options("Steam reviews to a dataset directory.", core=5).parse_args(argv)
    columns = {"item_id": "id", "event_item_id": "product_id", "title": "app_name", "categories": "genres"}
    columns |= {"brand": "developer", "price": "price", "user_id": "username", "timestamp": "date"}

    def prepare() -> Iterator[tuple[Path, Path, ImportOptions]]:
        games, reviews = locate(args, BASE_URL, NAMES)
        with tempfile.TemporaryDirectory() as scratch:
            items = write_objects(Path(scratch) / "games.jsonl", records(games, GAME))
            events = write_objects(Path(scratch) / "reviews.jsonl", records(reviews, REVIEW))
            yield items, events, ImportOptions(columns, drop_unknown=True, core=args.core)

    return run(prepare, args)


if __name__ == "__main__":
    sys.exit(main())
