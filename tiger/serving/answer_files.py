"""Files of recommendations for all users of a log: parquet, CSV or JSON lines, by the file's suffix."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from tiger.recommender.recommender import TigerRecommender
from tiger.serving.offline import SCHEMA, recommend_users
from tiger.utils.errors import DataError
from tiger.utils.files import written_whole

SUFFIXES = (".parquet", ".csv", ".jsonl")


def recommend_to(
    tiger: TigerRecommender, histories: str | os.PathLike, out: str | os.PathLike, **options: Any
) -> dict[str, int]:
    """Recommend for every user of a log, to a file of the kind that its suffix names.

    Args:
        histories, options: of :func:`tiger.serving.offline.recommend_users`.
        out: ``.parquet``, ``.csv`` or ``.jsonl``. The latter two are written from a parquet file beside it, which a
            killed run goes on from.

    Raises:
        DataError: another suffix, a text file that is there already, or as :func:`recommend_users`.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise DataError(f"{out}: give a file that ends with {', '.join(SUFFIXES)}.")
    if out.suffix == ".parquet":
        return recommend_users(tiger, histories, out, **options)
    if out.exists():
        raise DataError(f"{out} is there already: remove it, or write to another file.")
    parquet = out.parent / f".{out.name}.parquet"
    counts = recommend_users(tiger, histories, parquet, **options)
    with written_whole(out) as temporary:
        _write_text(pq.ParquetFile(parquet).iter_batches(), temporary, out.suffix)
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
