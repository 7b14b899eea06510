"""Yelp Open Dataset (its own terms of use): from the published files to a dataset directory.

    python data/yelp.py --out datasets/yelp --raw DIR

Yelp asks for an agreement before it gives the files, so they can't be downloaded here: unpack
``yelp_academic_dataset_business.json`` and ``yelp_academic_dataset_review.json`` into DIR, one JSON object a line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from preparing import in_folder, options, run

from tiger.data.importing.importer import ImportOptions
from tiger.utils.errors import DataError

NAMES = ("yelp_academic_dataset_business.json.gz", "yelp_academic_dataset_review.json.gz")


def main(argv: list[str] | None = None) -> int:
    """Command line; see :func:`preparing.run` for the exit status."""
    args = options("Yelp reviews to a dataset directory.", core=5).parse_args(argv)
    columns = {"item_id": "business_id", "title": "name", "categories": "categories", "user_id": "user_id"}
    columns |= {"timestamp": "date", "rating": "stars"}

    def prepare() -> Iterator[tuple[Path, Path, ImportOptions]]:
        if args.raw is None:
            raise DataError("Yelp's files need its agreement: get them from Yelp, and name their folder with --raw.")
        items, events = (in_folder(args.raw, name) for name in NAMES)
        how = ImportOptions(columns, ("hours", "attributes", "postal_code"), drop_unknown=True, core=args.core)
        yield items, events, how

    return run(prepare, args)


if __name__ == "__main__":
    sys.exit(main())
