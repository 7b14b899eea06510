"""Shared by the scripts that prepare public data sets: their options, and the import of the files."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from download import download

from tiger.data.importing.importer import ImportOptions, import_tables
from tiger.utils.errors import DataError


def options(description: str, core: int) -> argparse.ArgumentParser:
    """Options of all of these scripts.

    Args:
        description: the first line of the help.
        core: least events of a user and an item, unless the caller says otherwise.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="dataset directory to write")
    parser.add_argument("--raw", type=Path, help="folder that holds the files already: nothing is downloaded")
    parser.add_argument("--download-to", type=Path, default=Path("raw"), help="where downloads go (default: raw)")
    parser.add_argument(
        "--core", type=int, default=core, help=f"least events a user and an item (default: {core}; 0: any)"
    )
    return parser


def locate(args: argparse.Namespace, base_url: str, names: Sequence[str]) -> list[Path]:
    """Files by their names, compressed or not: those of ``--raw``, or downloaded.

    Raises:
        DataError: one is not in the folder, or can't be downloaded.
    """
    if args.raw is None:
        return [download(base_url + name, args.download_to / Path(name).name) for name in names]
    return [in_folder(args.raw, Path(name).name) for name in names]


def in_folder(folder: Path, name: str) -> Path:
    """The file of this name, or of its name without ``.gz``.

    Raises:
        DataError: it is not there.
    """
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise DataError(f"{folder / name} is missing: put it there, or name another folder with --raw.")


def write_rows(path: Path, names: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """Rows as CSV with a header."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def write_objects(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def run(prepare: Callable[[], Iterator[tuple[Path, Path, ImportOptions]]], args: argparse.Namespace) -> int:
    """Import what a script found; returns the exit status: 0, 1 for files that can't be used, 130 after Ctrl-C.

    Args:
        prepare: yields the files of items and events and how to read them, once; what comes after it cleans up.
        args: of :func:`options`.
    """
    try:
        for items, events, how in prepare():
            print(import_tables(items, events, args.out, how, say=lambda line: print(line, file=sys.stderr)))
    except (DataError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the dataset directory is as it was", file=sys.stderr)
        return 130
    print(f"written to {args.out}")
    return 0
