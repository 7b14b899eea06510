"""Files of recommendations for all users of a log: parquet, CSV or JSON lines, by the file's suffix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from tiger.serving.answer_parts import SCHEMA
from tiger.utils.errors import DataError
from tiger.utils.files import written_whole
from tiger.utils.stores import is_url

SUFFIXES = (".parquet", ".csv", ".jsonl")


def recommend_to(run: Callable[[str], dict[str, int]], out: str) -> dict[str, int]:
    """Recommend for every user of a log, to a file of the kind that its suffix names.

    Args:
        run: writes the parquet file of a name, and returns counts, as :func:`tiger.serving.offline.recommend_users`.
        out: ``.parquet``, ``.csv`` or ``.jsonl``. The latter two are written from a parquet file beside it, which a
            killed run goes on from.

    Raises:
        DataError: another suffix, a text file that is there already, or as ``run``.
    """
    file = Path(out)
    if file.suffix not in SUFFIXES:
        raise DataError(f"{out}: give a file that ends with {', '.join(SUFFIXES)}.")
    if file.suffix == ".parquet":
        return run(out)
    if is_url(out):
        raise DataError(f"{out}: to a URL, answers are written as .parquet.")
    if file.exists():
        raise DataError(f"{out} is there already: remove it, or write to another file.")
    parquet = file.parent / f".{file.name}.parquet"
    counts = run(str(parquet))
    with written_whole(file) as temporary:
        _write_text(pq.ParquetFile(parquet).iter_batches(), temporary, file.suffix)
    parquet.unlink()
    return counts


def _write_text(batches: Iterator[pa.RecordBatch], file: Path, suffix: str) -> None:
    if suffix == ".csv":
        with csv.CSVWriter(file, SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return
    with open(file, "w", encoding="utf-8") as lines:
        for batch in batches:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
