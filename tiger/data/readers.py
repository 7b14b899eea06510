"""Item tables and click logs from files and from the Hub: read in batches, their columns checked."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tiger.data.columns import is_number, is_text, plain_table, plain_type, refuse_twice
from tiger.data.hub_data import hub_table
from tiger.utils.errors import DataError, first_line
from tiger.utils.json_files import parse_json
from tiger.utils.paths import is_repo_id, nearest_hint

_TEXT, _SECONDS = "text", "whole seconds (an integer)"
ITEM_COLUMNS = {"item_id": _TEXT}
EVENT_COLUMNS = {"user_id": _TEXT, "item_id": _TEXT, "timestamp": _SECONDS}
_EXTRA_COLUMNS = ("rating", "label")
_BATCH_ROWS = 2**18
_LOG_ROWS = 2**17
MAX_SECONDS = 10**11  # some 3,000 years; milliseconds of today are more


def item_table(rows: pa.Table | Iterable[dict]) -> pa.Table:
    """Rows of an item table as an Arrow table; every key of a list of dicts becomes a column, null where it lacks.

    Raises:
        DataError: a column holds values of several kinds, or occurs twice.
    """
    if isinstance(rows, pa.Table):
        return plain_table(rows)
    rows, columns = list(rows), {}
    if others := [type(row).__name__ for row in rows if not isinstance(row, dict)]:
        raise DataError(f"rows of items are dicts, such as {{'item_id': '1', 'title': 'Tent'}}, not {others[0]}.")
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise DataError(f"column {name!r} holds values that no column can hold together ({error}).") from error
    return pa.table(columns)


def read_items(file: str | os.PathLike) -> pa.Table:
    """Items from a file: ``.parquet``, ``.csv`` with a header, or ``.jsonl`` with one object per line.

    Returns:
        A table with ``item_id``, text and never null, and the file's other columns; those of a CSV file are text as it
        stands there, without blanks around it, and null where it is empty.

    Raises:
        DataError: the file is missing, damaged or of another kind, has no such column or one twice, or a null in it.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file} is missing{nearest_hint(file)}: give a file of items.")
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as source:
                check_columns(source.schema_arrow, ITEM_COLUMNS, str(file))
                table = source.read()
        elif file.suffix == ".csv":
            table = _csv_table(file)
        elif file.suffix == ".jsonl":
            table = item_table(_json_lines(file))
        else:
            raise DataError(f"{file}: items are read from .parquet, .csv and .jsonl.")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} can't be read ({first_line(error)}): write it again.") from error
    table = plain_table(table, file)
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
        for batch in parquet_batches(file, list(EVENT_COLUMNS), _LOG_ROWS):
            yield _checked_events(batch, str(file), start)
            start += len(batch)

    return _whole(batches(), file)


def read_event_groups(file: Any, groups: list[int], start: int, name: str) -> Iterator[pa.Table]:
    """As :func:`read_events`, of some row groups of a log.

    Args:
        file: a path, or a file that is open.
        groups: numbers of the row groups, in order.
        start: row of the log at which the first of them begins.
        name: what errors call the log.
    """

    def batches() -> Iterator[pa.Table]:
        at = start
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as source:
            check_columns(source.schema_arrow, EVENT_COLUMNS, name)
            for batch in source.iter_batches(_LOG_ROWS, groups, list(EVENT_COLUMNS), use_threads=False):
                yield _checked_events(pa.Table.from_batches([batch]), name, at)
                at += len(batch)

    return _whole(batches(), Path(name))


def parquet_batches(file: Path, columns: list[str], rows: int) -> Iterator[pa.Table]:
    """Some columns of a parquet file, so many rows at a time, in the order of the file."""
    # Without these settings it reads far ahead.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as source:
        for batch in source.iter_batches(rows, columns=columns, use_threads=False):
            yield pa.Table.from_batches([batch])


def _csv_table(file: Path) -> pa.Table:
    """All columns as text: what looks like a number or a time may be an id such as 007, 1e5 or 23:59."""
    try:
        with long_fields(), _read_as_text(file), open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, skipinitialspace=True, strict=True)
            names = [name.strip() for name in next((row for row in reader if row), [])]
            if not names:
                raise DataError(f"{file} is empty: its first line names the columns.")
            refuse_twice(names, file)
            columns: list[list[str | None]] = [[] for _ in names]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{file}, line {reader.line_num}: {len(row)} values for {len(names)} columns. "
                        "Put a value that holds a comma in double quotes."
                    )
                for column, value in zip(columns, row):
                    column.append(value.strip() or None)
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num} is not CSV ({error}).") from error
    return pa.table({name: pa.array(column, pa.large_string()) for name, column in zip(names, columns)})


def _json_lines(file: Path) -> Iterator[dict]:
    with _read_as_text(file), open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = parse_json(line, f"{file}, line {number}")
                if not isinstance(row, dict):
                    raise DataError(f'{file}, line {number}: no object, such as {{"item_id": "1", "title": "Tent"}}.')
                yield row


@contextmanager
def long_fields() -> Iterator[None]:
    """Fields of any length: by default the parser of the standard library refuses those of 128 KiB."""
    limit = csv.field_size_limit(2**31 - 1)  # one for the whole process
    try:
        yield
    finally:
        csv.field_size_limit(limit)


@contextmanager
def _read_as_text(file: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error


def refuse_nulls(column: pa.Array | pa.ChunkedArray, file: str, name: str, start: int = 0) -> None:
    """``start``: the row of the file where the column's first row lies."""
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}, row {row}: {name} is null. Fill it in or drop all rows without it.")


def refuse_times(column: pa.ChunkedArray, file: str, start: int = 0) -> None:
    """
    Args:
        column: whole seconds, without nulls.
        start: the row of the file where the column's first row lies.

    Raises:
        DataError: a time is before 1970, or so late that it is none in seconds.
    """
    if not len(column):
        return
    earliest, latest = pc.min_max(column).as_py().values()
    if earliest < 0:
        found, why = earliest, "before 1970. Correct such rows or drop them"
    elif latest > MAX_SECONDS:
        found, why = latest, "thousands of years ahead: timestamps are whole seconds. Divide milliseconds by 1000"
    else:
        return
    row = start + pc.index(column, pa.scalar(found, column.type)).as_py()
    raise DataError(f"{file}, row {row}: timestamp {found} is {why}.")


def _checked_events(batch: pa.Table, file: str, start: int) -> pa.Table:
    """Events in plain types, without nulls and with times that are whole seconds."""
    batch = plain_table(batch, file)
    for name in EVENT_COLUMNS:
        refuse_nulls(batch[name], file, name, start)
    refuse_times(batch["timestamp"], file, start)
    return batch


def collect_events(log: Iterator[pa.Table], file: str) -> dict:
    """Columns of the log by name: (dictionary, int32 [events]) for the ids, arrays [events] for the rest; {} if empty.

    Batch by batch, for the ids as text take several times the room of the arrays that are kept.
    """
    kept: dict[str, list] = {}
    start = 0
    for batch in log:
        if batch.num_rows == 0:
            continue
        batch = _checked_events(batch, file, start)
        for name in EVENT_COLUMNS:
            if name == "timestamp":
                kept.setdefault(name, []).append(batch[name].to_numpy().astype(np.int64, copy=False))
            elif name == "item_id":
                kept.setdefault(name, []).extend(batch[name].dictionary_encode().chunks)
            else:  # users are many: the dictionaries of the batches would hold nearly as much, and cost a second pass
                kept.setdefault(name, []).extend(batch[name].chunks)
        for name in _EXTRA_COLUMNS:
            if name in batch.column_names:
                kept.setdefault(name, []).append(_numbers(batch[name]))
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


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """The values as NumPy keeps them, decimals and columns of nothing as floats."""
    plain = pa.types.is_decimal(column.type) or pa.types.is_null(column.type)
    return (column.cast(pa.float64()) if plain else column).to_numpy()


def open_table(
    path: str | os.PathLike, name: str, required: dict[str, str], revision: str | None, config: str | None = None
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """Schema and batches of one table of a dataset directory or Hub data set, columns checked.

    Args:
        config: a folder in it that holds the tables; None: they lie in it.
    """
    import datasets  # noqa: F401  # a missing extra is told before any file is opened

    wanted = None if name == "items" else (*EVENT_COLUMNS, *_EXTRA_COLUMNS)
    if Path(path).is_dir():
        return _local_table(Path(path) / (config or ""), name, required, wanted)
    if Path(path).is_file():
        raise DataError(f"{path} is a file: make a dataset directory of items and log by `tiger import`.")
    if not is_repo_id(os.fspath(path)):
        raise DataError(
            f"{path} is neither a directory{nearest_hint(path)} nor owner/name on the Hub: give the directory of "
            "items.parquet and interactions.parquet."
        )
    file = Path(path) / (config or "") / f"{name}.parquet"
    loaded = hub_table(str(path), name, config, revision)
    schema = loaded.features.arrow_schema
    check_columns(schema, required, str(file))
    if wanted is not None:
        loaded = loaded.select_columns([column for column in schema.names if column in wanted])
    return schema, _whole(loaded.with_format("arrow").iter(batch_size=_BATCH_ROWS), file)


def _local_table(
    folder: Path, name: str, required: dict[str, str], wanted: tuple[str, ...] | None
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """One file, or a folder of shards in the order of their names. By pyarrow: `datasets` knows fewer types."""
    file = folder / f"{name}.parquet"
    shards = [] if file.exists() else sorted((folder / name).glob("*.parquet"))
    files = shards or [file]
    schemas = [_parquet_schema(one) for one in files]
    for one, schema in zip(files, schemas):
        check_columns(schema, required, str(one))
        if missing := set(schemas[0].names) ^ set(schema.names):
            raise DataError(f"{one} and {files[0]} differ in their columns ({sorted(missing)[0]}). Write both again.")
    columns = [column for column in schemas[0].names if wanted is None or column in wanted]
    kinds = pa.schema([schemas[0].field(column) for column in columns])

    def batches(one: Path) -> Iterator[pa.Table]:
        for batch in _whole(parquet_batches(one, columns, _BATCH_ROWS), one):
            try:
                yield batch if one == files[0] else batch.select(columns).cast(kinds)
            except (pa.ArrowException, ValueError) as error:
                raise DataError(
                    f"{one} and {files[0]} differ in a type ({first_line(error)}). Write both again."
                ) from error

    return schemas[0], chain.from_iterable(batches(one) for one in files)


def _whole(batches: Iterator[pa.Table], file: Path) -> Iterator[pa.Table]:
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged ({first_line(error)}): write it again.") from error


def _parquet_schema(file: Path) -> pa.Schema:
    if not file.exists():
        raise DataError(
            f"{file} is missing: a dataset directory holds items.parquet and interactions.parquet, or folders of "
            "shards of these names."
        )
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty (0 bytes): write it again.")
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        remedy = "write it again"
        if file.suffix != ".parquet":
            remedy = "tiger import makes a dataset of CSV or JSON lines; give its interactions.parquet"
        raise DataError(f"{file} is not a whole parquet file ({first_line(error)}): {remedy}.") from error


def check_columns(schema: pa.Schema, required: dict[str, str], file: str) -> None:
    """
    Args:
        required: maps a column to ``_TEXT`` or ``_SECONDS``.
        file: what error messages call the table.

    Raises:
        DataError: a column is missing, there twice, or of another type; ``rating`` and ``label`` of a log are numbers.
    """
    refuse_twice(schema.names, file)
    missing = [name for name in required if name not in schema.names]
    if missing:
        raise DataError(f"{file} has no column {missing[0]!r} (it has {', '.join(schema.names)}). Add or rename it.")
    for name, wanted in required.items():
        kind = plain_type(schema.field(name).type)
        if not (is_text(kind) if wanted == _TEXT else pa.types.is_integer(kind)):
            raise DataError(f"{file}: column {name!r} is {kind}, expected {wanted}. Convert it.")
    for name in _EXTRA_COLUMNS if "timestamp" in required else ():
        kind = plain_type(schema.field(name).type) if name in schema.names else pa.null()
        if not is_number(kind):
            raise DataError(f"{file}: column {name!r} is {kind}, expected a number. Convert or drop it.")
