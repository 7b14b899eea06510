"""Amazon reviews of 2023 (McAuley Lab, UCSD; research use): from the published dumps to a dataset directory.

    python data/amazon_2023.py All_Beauty --out datasets/beauty_2023              # downloads the two dumps into raw/
    python data/amazon_2023.py All_Beauty --out datasets/beauty_2023 --raw DIR    # they are already in DIR

A category has ``<Category>.jsonl.gz``, the reviews, and ``meta_<Category>.jsonl.gz``, the products. An item is a
``parent_asin``, all variants of a product; times are milliseconds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from preparing import locate, options, run

from tiger.data.importing.importer import ImportOptions
from tiger.utils.errors import DataError

BASE_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/"
NOT_READ = ("videos", "details", "bought_together", "author", "subtitle", "average_rating", "rating_number")


def main(argv: list[str] | None = None) -> int:
    """Command line; see :func:`preparing.run` for the exit status."""
    parser = options("Amazon reviews of 2023 to a dataset directory.", core=5)
    parser.add_argument("category", help="such as All_Beauty or Video_Games")
    parser.add_argument("--description", action="store_true", help="read descriptions and features too")
    args = parser.parse_args(argv)
    columns = {"item_id": "parent_asin", "title": "title", "brand": "store", "categories": "categories"}
    columns |= {"price": "price", "user_id": "user_id", "timestamp": "timestamp", "rating": "rating"}

    def prepare() -> Iterator[tuple[Path, Path, ImportOptions]]:
        if not re.fullmatch(r"\w+", args.category):
            raise DataError(f"category {args.category!r}: expected a name such as All_Beauty.")
        names = [f"meta_categories/meta_{args.category}.jsonl.gz", f"review_categories/{args.category}.jsonl.gz"]
        items, events = locate(args, BASE_URL, names)
        leave_out = NOT_READ if args.description else (*NOT_READ, "description", "features")
        yield items, events, ImportOptions(columns, leave_out, drop_unknown=True, core=args.core)

    return run(prepare, args)


if __name__ == "__main__":
    sys.exit(main())
