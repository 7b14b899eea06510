"""Item tables and click logs from files and from the Hub: read in batches, their columns checked."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tiger.utils.errors import DataError

_TEXT, _SECONDS = "text", "whole seconds (an integer)"
ITEM_COLUMNS = {"item_id": _TEXT}
EVENT_COLUMNS = {"user_id": _TEXT, "item_id": _TEXT, "timestamp": _SECONDS}
_EXTRA_COLUMNS = ("rating", "label")
_BATCH_ROWS = 2**18
_LOG_ROWS = 2**17


def item_table(rows: pa.Table | Sequence[dict]) -> pa.Table:
    """Rows of an item table as an Arrow table; every key of a list of dicts becomes a column, null where it lacks.

    Raises:
        DataError: a column holds values of several kinds.
    """
    if isinstance(rows, pa.Table):
        return decode(rows)
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise DataError(f"column {name!r} holds values that no column can hold together ({error}).") from error
    return pa.table(columns)


def read_items(file: str | os.PathLike) -> pa.Table:
    """Items from a file: ``.parquet``, ``.csv`` with a header, or ``.jsonl`` with one object per line.

    Returns:
        A table with ``item_id``, text and never null, and the file's other columns.

    Raises:
        DataError: the file is missing, damaged or of another kind, has no such column, or a null in it.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file} is missing: give a file of items.")
    try:
        if file.suffix == ".parquet":
            table = pq.read_table(file)
        elif file.suffix == ".csv":
            # In one block, so that a row of any length is whole in it; ids such as 0042 are no numbers.
            block = pyarrow.csv.ReadOptions(block_size=min(file.stat().st_size + 1, 2**31 - 1))
            ids = pyarrow.csv.ConvertOptions(column_types={"item_id": pa.string()}, null_values=[""])
            table = pyarrow.csv.read_csv(file, read_options=block, convert_options=ids)
        elif file.suffix == ".jsonl":
            table = item_table(list(_json_lines(file)))
        else:
            raise DataError(f"{file}: items are read from .parquet, .csv and .jsonl.")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} can't be read ({str(error).splitlines()[0]}): write it again.") from error
    table = decode(table)
    check_columns(table.schema, ITEM_COLUMNS, str(file))
    refuse_nulls(table["item_id"], str(file), "item_id")
    return table


def read_events(file: str | os.PathLike) -> Iterator[pa.Table]:
    """The events of a log, some 100,000 at a time: ``user_id``, ``item_id`` and ``timestamp``.

    Raises:
        DataError: at once, the file is missing or lacks a column; while reading, it is damaged or an id is null.
    """
    file = Path(file)
    schema = _parquet_schema(file)
    check_columns(schema, EVENT_COLUMNS, str(file))

    def batches() -> Iterator[pa.Table]:
        start = 0
        # Without these it reads far ahead.
        source = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
        for batch in source.iter_batches(_LOG_ROWS, columns=list(EVENT_COLUMNS), use_threads=False):
            table = decode(pa.Table.from_batches([batch]))
            for name in EVENT_COLUMNS:
                refuse_nulls(table[name], str(file), name, start)
            start += len(table)
            yield table

    return _whole(batches(), file)


def _json_lines(file: Path) -> Iterator[dict]:
    with open(file, encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(
                            f'{file}, line {number}: no object, such as {{"item_id": "1", "title": "Tent"}}.'
                        )
                    yield row
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number} is not JSON ({error.msg}).") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 ({error.reason}).") from error


def refuse_nulls(column: pa.Array | pa.ChunkedArray, file: str, name: str, start: int = 0) -> None:
    """``start``: the row of the file where the column's first row lies."""
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}, row {row}: {name} is null. Fill it in or drop all rows without it.")


def collect_events(log: Iterator[pa.Table], file: str) -> dict:
    """Columns of the log by name: (dictionary, int32 [events]) for the ids, arrays [events] for the rest; {} if empty.

    Batch by batch, for the ids as text take several times the room of the arrays that are kept.
    """
    kept: dict[str, list] = {}
    start = 0
    for batch in log:
        if batch.num_rows == 0:
            continue
        batch = decode(batch)
        for name in EVENT_COLUMNS:
            refuse_nulls(batch[name], file, name, start)
            if name == "timestamp":
                kept.setdefault(name, []).append(batch[name].to_numpy().astype(np.int64, copy=False))
            elif name == "item_id":
                kept.setdefault(name, []).extend(batch[name].dictionary_encode().chunks)
            else:  # users are many: the dictionaries of the batches would hold nearly as much, and cost a second pass
                kept.setdefault(name, []).extend(batch[name].chunks)
        for name in _EXTRA_COLUMNS:
            if name in batch.column_names:
                kept.setdefault(name, []).append(batch[name].to_numpy())
        start += batch.num_rows
    columns: dict[str, Any] = {}
    parts: list = []
    for name in list(kept):
        parts = kept.pop(name)
        if name.endswith("_id"):
            encode = pa.ChunkedArray.unify_dictionaries if name == "item_id" else pa.ChunkedArray.dictionary_encode
            parts = encode(pa.chunked_array(parts)).chunks
            columns[name] = parts[0].dictionary, np.concatenate([part.indices.to_numpy() for part in parts])
        else:
            columns[name] = np.concatenate(parts)
    del parts
    # Arrow keeps what it freed, hundreds of MiB after a long log; what comes next is numpy's.
    pa.default_memory_pool().release_unused()
    return columns


def open_table(
    path: str | os.PathLike, name: str, required: dict[str, str], revision: str | None
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """Schema and batches of one file of a dataset directory or Hub data set, columns checked."""
    import datasets
    import pyarrow.dataset

    file = Path(path) / f"{name}.parquet"
    wanted = None if name == "items" else (*EVENT_COLUMNS, *_EXTRA_COLUMNS)
    if Path(path).is_dir():
        schema = _parquet_schema(file)
        check_columns(schema, required, str(file))
        # Streamed: nothing is copied into the cache of `datasets`, and a file that was written anew is read anew.
        loaded = datasets.load_dataset(
            "parquet",
            data_files=glob.escape(str(file)),
            split="train",
            streaming=True,
            batch_size=_BATCH_ROWS,
            columns=[column for column in schema.names if wanted is None or column in wanted],
            # Without this the whole file is read ahead into memory.
            fragment_scan_options=pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False),
        )
    elif str(path).count("/") == 1 and not str(path).startswith((".", "/", "~")):
        loaded = datasets.load_dataset(str(path), data_files=f"{name}.parquet", split="train", revision=revision)
        schema = loaded.features.arrow_schema
        check_columns(schema, required, f"{path}/{name}.parquet")
        if wanted is not None:
            loaded = loaded.select_columns([column for column in schema.names if column in wanted])
    else:
        raise DataError(f"{path} is neither a directory nor owner/name on the Hub.")
    return schema, _whole(loaded.with_format("arrow").iter(batch_size=_BATCH_ROWS), file)


def _whole(batches: Iterator[pa.Table], file: Path) -> Iterator[pa.Table]:
    try:
        yield from batches
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is damaged ({str(error).splitlines()[0]}): write it again.") from error


def _parquet_schema(file: Path) -> pa.Schema:
    if not file.exists():
        raise DataError(f"{file} is missing: a dataset directory holds items.parquet and interactions.parquet.")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty (0 bytes): write it again.")
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is not a whole parquet file ({error}): write it again.") from error


def decode(table: pa.Table) -> pa.Table:
    """Dictionary-encoded columns as plain ones."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table[field.name].cast(field.type.value_type))
    return table


def check_columns(schema: pa.Schema, required: dict[str, str], file: str) -> None:
    """``required`` maps a column to ``_TEXT`` or ``_SECONDS``."""
    missing = [name for name in required if name not in schema.names]
    if missing:
        raise DataError(f"{file} has no column {missing[0]!r} (it has {', '.join(schema.names)}). Add or rename it.")
    for name, wanted in required.items():
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (is_text if wanted == _TEXT else pa.types.is_integer(kind)):
            raise DataError(f"{file}: column {name!r} is {kind}, expected {wanted}. Convert it.")
