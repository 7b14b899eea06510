"""MovieLens (GroupLens; research use, no redistribution): from the published files to a dataset directory.

    python data/movielens.py 1m --out datasets/movielens_1m              # downloads ml-1m.zip into raw/
    python data/movielens.py 32m --out datasets/movielens_32m --raw DIR  # the zip, or what was in it, is in DIR

``1m`` has ``movies.dat`` and ``ratings.dat``, Latin-1 with ``::`` between columns and no header; ``32m``, ``25m``,
``20m`` and ``latest-small`` have ``movies.csv`` and ``ratings.csv``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from download import download
from preparing import options, run, write_rows

from tiger.data.importing.importer import ImportOptions
from tiger.utils.errors import DataError

BASE_URL = "https://files.grouplens.org/datasets/movielens/"
DAT_COLUMNS = {"movies": ("movieId", "title", "genres"), "ratings": ("userId", "movieId", "rating", "timestamp")}


def find(name: str, size: str, raw: Path, scratch: Path) -> Path:
    """``movies`` or ``ratings`` as CSV, from a folder or the zip in it.

    Raises:
        DataError: neither is there.
    """
    archive = raw / f"ml-{size}.zip"
    for suffix in (".csv", ".dat"):
        for folder in (raw, raw / f"ml-{size}"):
            if (folder / (name + suffix)).is_file():
                return _as_csv(folder / (name + suffix), scratch)
    if archive.is_file():
        with zipfile.ZipFile(archive) as files:
            for member in files.namelist():
                if Path(member).name in (f"{name}.csv", f"{name}.dat"):
                    with files.open(member) as content, open(scratch / Path(member).name, "wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                    return _as_csv(scratch / Path(member).name, scratch)
    raise DataError(f"{raw} holds neither {name}.csv nor {name}.dat nor {archive.name}: put it there.")


def _as_csv(path: Path, scratch: Path) -> Path:
    if path.suffix == ".csv":
        return path
    with open(path, encoding="latin-1") as lines:
        rows = (line.rstrip("\r\n").split("::") for line in lines)
        return write_rows(scratch / f"{path.stem}_from_dat.csv", DAT_COLUMNS[path.stem], rows)


def main(argv: list[str] | None = None) -> int:
    """Command line; see :func:`preparing.run` for the exit status."""
    parser = options("MovieLens to a dataset directory.", core=0)
    parser.add_argument("size", help="1m, 32m, or another of the published sizes")
    args = parser.parse_args(argv)

    def prepare() -> Iterator[tuple[Path, Path, ImportOptions]]:
        raw = args.raw or args.download_to
        if args.raw is None:
            download(f"{BASE_URL}ml-{args.size}.zip", raw / f"ml-{args.size}.zip")
        with tempfile.TemporaryDirectory() as scratch:
            movies, ratings = (find(name, args.size, raw, Path(scratch)) for name in ("movies", "ratings"))
            yield movies, ratings, ImportOptions({"item_id": "movieId"}, drop_unknown=True, core=args.core)

    return run(prepare, args)


if __name__ == "__main__":
    sys.exit(main())
