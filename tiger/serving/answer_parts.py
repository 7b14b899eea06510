"""Answers for a part of a log: computed, written, read back with their checksums, and put together to one file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tiger.recommender.filters import CompiledFilter
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.log_parts import LogPart
from tiger.utils.errors import DataError
from tiger.utils.json_files import parse_json

SCHEMA = pa.schema({"user_id": pa.string(), "rank": pa.int32(), "item_id": pa.string(), "score": pa.float32()})
DAMAGES = (pa.ArrowException, OSError, ValueError)  # of a table that is no longer as written


def recommend_part(
    tiger: TigerRecommender, part: LogPart, settings: dict[str, Any], filter: CompiledFilter | None = None
) -> pa.Table:
    """Recommend for the users of one part.

    Args:
        settings: of the run: ``bf16``, and ``options`` of :meth:`TigerRecommender.recommend_rows`.
        filter: what may be recommended; None: everything.

    Returns:
        A table of :data:`SCHEMA`, best first for each user.

    Raises:
        DataError: scores are NaN or infinite.
    """
    bf16 = settings["bf16"]
    with torch.autocast(tiger.device.type, torch.bfloat16, enabled=bf16):
        rows, scores = tiger.recommend_rows(part.sequences, filter=filter, bf16=bf16, **settings["options"])
    user, place = np.nonzero(rows >= 0)
    if not np.isfinite(scores[user, place]).all():
        raise DataError("the model scores items NaN or infinite: its weights are damaged. Train it again.")
    items = tiger.tokenizer.item_ids.take(rows[user, place]).cast(pa.string())
    columns = [part.users.take(pa.array(user)), place.astype(np.int32) + 1, items, scores[user, place]]
    return pa.table(columns, schema=SCHEMA)


def part_file(part: int) -> str:
    """Name of the file of a part's answers."""
    return f"{part}.parquet"


def part_bytes(answers: pa.Table, part: int) -> bytes:
    """The file of a part's answers: parquet with checksums, which knows its number."""
    file = io.BytesIO()
    pq.write_table(answers.replace_schema_metadata({"part": str(part)}), file, write_page_checksum=True)
    return file.getvalue()


def read_answers(file: Path | IO[bytes]) -> pa.Table:
    """Read a table whose pages have checksums.

    Raises:
        OSError: one does not fit.
    """
    table = pq.read_table(file, page_checksum_verification=True)
    table.validate(full=True)
    return table


def is_answered(file: Path | IO[bytes], part: int) -> bool:
    """Whether a file holds a part's answers; one that is damaged counts as not, and the part is answered anew."""
    try:
        schema = read_answers(file).schema
    except DAMAGES:
        return False
    return schema.equals(SCHEMA) and (schema.metadata or {}).get(b"part") == str(part).encode()


def put_together(parts: Iterable[pa.Table], file: Path, settings: dict[str, Any]) -> None:
    """Write the answers of all parts to one file, with the settings of the run and its counts.

    Args:
        parts: tables of :data:`SCHEMA`, in the order of the parts.
        file: to write; nobody may read it before this returns.
        settings: of the run, with ``counts``.
    """
    told = json.dumps(settings)
    schema = SCHEMA.with_metadata({"tiger": told, "sha256": hashlib.sha256(told.encode()).hexdigest()})
    with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        for table in parts:
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def counts_of_finished(file: Path | IO[bytes], settings: dict[str, Any], name: str) -> dict[str, int]:
    """The counts that a finished output says of itself, after a look at all of it.

    Args:
        settings: of the run that it should be of.
        name: what errors call it.

    Raises:
        DataError: it is of another run, or damaged.
    """
    metadata: dict[bytes, bytes] = {}
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            metadata = opened.schema_arrow.metadata or {}
            if b"tiger" in metadata:
                rows = 0
                for batch in opened.iter_batches():
                    batch.validate(full=True)
                    rows += len(batch)
                if rows != opened.metadata.num_rows or not opened.schema_arrow.equals(SCHEMA):
                    raise ValueError("not what was written")
        done = parse_json(metadata.get(b"tiger", b"{}").decode(), name)
    except DAMAGES as error:
        why = " ".join(str(error).split())[:100]
        raise DataError(
            f"{name} is there already, but is damaged ({why}): remove it, or name another file."
        ) from error
    told = metadata.get(b"sha256")
    if told is not None and told.decode("ascii", "replace") != hashlib.sha256(metadata[b"tiger"]).hexdigest():
        raise DataError(f"{name} is there already, but its settings are damaged: remove it, or name another file.")
    counts = done.pop("counts", None) if isinstance(done, dict) else None
    if done != settings or not isinstance(counts, dict):
        raise DataError(
            f"{name} is there already, of another log or with other settings: remove it, or name another file."
        )
    return counts
