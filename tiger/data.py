"""Item tables and click logs: from a dataset directory, or a Hub data set, to compact arrays and their splits.

A *dataset directory* holds ``items.parquet`` (``item_id`` and any text or number columns) and
``interactions.parquet`` (``user_id``, ``item_id``, ``timestamp`` in whole seconds, optionally ``rating`` or
``label``). Inside the library a user and an item are row numbers; their own ids come back only at the edges.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq

SECONDS_PER_DAY = 86_400

_TEXT, _SECONDS = "text", "whole seconds (an integer)"
_ITEM_COLUMNS = {"item_id": _TEXT}
_EVENT_COLUMNS = {"user_id": _TEXT, "item_id": _TEXT, "timestamp": _SECONDS}
_EXTRA_COLUMNS = ("rating", "label")
_BATCH_ROWS = 2**18
_LOG_ROWS = 2**17


class DataError(ValueError):
    """Input that can't be used: the message names the file, the column or row, and the remedy."""


@dataclass(frozen=True)
class Sequences:
    """Sequences of items, one a user, stored end to end.

    Args:
        offsets: int64 [users + 1]; user ``u`` owns ``items[offsets[u]:offsets[u + 1]]``.
        items: int32 [events], row numbers of the item table, oldest first.
        timestamps: int64 [events], seconds.
    """

    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [users]: the number of events of each."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> np.ndarray:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[user] for user in range(len(self)))

    @property
    def users(self) -> np.ndarray:
        """int64 [events]: whose event it is."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def select(self, users: np.ndarray) -> Sequences:
        """The sequences of these users (int [n] or bool [users]) alone, in the order given."""
        users = np.flatnonzero(users) if users.dtype == bool else np.asarray(users, dtype=np.int64)
        return self._gather(self.offsets[users], self.lengths[users])

    def drop_last(self, count: int) -> Sequences:
        """Every sequence without its last ``count`` events."""
        return self._gather(self.offsets[:-1], np.maximum(self.lengths - count, 0))

    def keep_last(self, count: int) -> Sequences:
        """The last ``count`` events of every sequence."""
        lengths = np.minimum(self.lengths, count)
        return self._gather(self.offsets[1:] - lengths, lengths)

    def shuffle_ties(self, seed: int) -> Sequences:
        """Events of one user and one day in random order; days keep theirs.

        Timestamps of day precision say nothing of the order within a day, and files often hold an order that betrays
        the answer: results are reported with ties as published and with ties shuffled.
        """
        order = np.lexsort(
            (np.random.default_rng(seed).random(len(self.items)), self.timestamps // SECONDS_PER_DAY, self.users)
        )
        return Sequences(self.offsets, self.items[order], self.timestamps[order])

    def _gather(self, starts: np.ndarray, lengths: np.ndarray) -> Sequences:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Sequences(offsets, self.items[rows], self.timestamps[rows])


@dataclass(frozen=True)
class LeaveOneOut:
    """Next-item splits (TIGER, arXiv 2305.05065): the last item tests, the one before validates, the rest trains.

    Args:
        users: int64 [n], rows of the data set's users that are in, those with three events or more.
        train: what training may see: all but the last two events.
        valid_targets: int32 [n].
        test_histories: ``train`` followed by the validation target.
        test_targets: int32 [n].
        num_left_out: users with fewer than three events.
    """

    users: np.ndarray
    train: Sequences
    valid_targets: np.ndarray
    test_histories: Sequences
    test_targets: np.ndarray
    num_left_out: int

    @property
    def valid_histories(self) -> Sequences:
        """What precedes the validation target: the training part itself."""
        return self.train

    def part(self, name: str) -> tuple[Sequences, np.ndarray]:
        """Histories and targets of ``valid`` or ``test``."""
        if name not in ("valid", "test"):
            raise DataError(f"part must be valid or test, got {name!r}.")
        if name == "valid":
            return self.valid_histories, self.valid_targets
        return self.test_histories, self.test_targets


@dataclass(frozen=True)
class TemporalSplit:
    """Events before, between and after two days (the protocol of Singh et al., arXiv 2306.08121).

    ``train``, ``valid`` and ``test`` are int64 arrays of event rows of the data set's ``sequences``; ``valid_from``
    and ``test_from`` are the first seconds of validation and test.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    valid_from: int
    test_from: int


@dataclass(frozen=True)
class RecommendationData:
    """An item table and the users' sequences over it.

    Args:
        items: the item table as it was read, ``item_id`` first.
        user_ids: string array [users]; users in order of first appearance.
        sequences: all events.
        extras: ``rating`` or ``label`` where the file has them, aligned with ``sequences.items``.
    """

    items: pa.Table
    user_ids: pa.Array
    sequences: Sequences
    extras: dict[str, np.ndarray]

    @property
    def item_ids(self) -> list[str]:
        """The items' own ids, by row number."""
        return self.items["item_id"].to_pylist()

    @property
    def num_items(self) -> int:
        return self.items.num_rows

    @classmethod
    def load(cls, path: str | os.PathLike, revision: str | None = None) -> RecommendationData:
        """Read a dataset directory, or a Hub data set that holds the same two files.

        Args:
            path: a directory with ``items.parquet`` and ``interactions.parquet``, or ``owner/name`` on the Hub.
            revision: branch, tag or commit, for the Hub.

        Raises:
            DataError: a file or column is missing or of the wrong type, an id is null, an item id occurs twice, or an
                event names an item that the item table lacks.
        """
        items_schema, item_batches = _open(path, "items", _ITEM_COLUMNS, revision)
        _, log_batches = _open(path, "interactions", _EVENT_COLUMNS, revision)
        tables = list(item_batches)
        items = pa.concat_tables(tables) if tables else items_schema.empty_table()
        return cls._from_batches(items, log_batches, str(path))

    @classmethod
    def from_tables(cls, items: pa.Table, interactions: pa.Table, source: str = "") -> RecommendationData:
        """The same from two Arrow tables; ``source`` is what error messages call the place they came from."""
        _check_columns(items.schema, _ITEM_COLUMNS, os.path.join(source, "items.parquet"))
        _check_columns(interactions.schema, _EVENT_COLUMNS, os.path.join(source, "interactions.parquet"))
        return cls._from_batches(items, iter([interactions]), source)

    @classmethod
    def _from_batches(cls, items: pa.Table, log: Iterator[pa.Table], source: str) -> RecommendationData:
        items_file, log_file = os.path.join(source, "items.parquet"), os.path.join(source, "interactions.parquet")
        items = _decode(items)
        item_ids = items["item_id"].combine_chunks().cast(pa.large_string())
        _refuse_nulls(item_ids, items_file, "item_id")
        if len(item_ids) == 0:
            raise DataError(f"{items_file}: no items. Write at least one row.")
        counts = pc.value_counts(item_ids)
        if len(counts) < len(item_ids):
            twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
            raise DataError(
                f"{items_file}: {len(twice)} item ids occur more than once, {twice[0].as_py()!r} for one. "
                "Keep one row an item."
            )
        columns = _read_events(log, log_file)
        if not columns:
            raise DataError(f"{log_file}: no events. Write at least one row.")
        event_items = _item_rows(*columns.pop("item_id"), item_ids, items_file, log_file)
        user_ids, users = columns.pop("user_id")
        timestamps = columns.pop("timestamp")
        if timestamps.max() > 10**11:
            raise DataError(
                f"{log_file}: timestamp {timestamps.max()} is thousands of years ahead: timestamps are whole seconds. "
                "Divide milliseconds by 1000."
            )

        order = _order(users, timestamps)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(user_ids)))]).astype(np.int64)
        extras = {name: values[order] for name, values in columns.items()}
        items = items.select(["item_id"] + [name for name in items.column_names if name != "item_id"])
        return cls(items, user_ids, Sequences(offsets, event_items[order], timestamps[order]), extras)

    def leave_one_out(self, shuffle_ties: int | None = None) -> LeaveOneOut:
        """Last item to test, the one before to validate, the rest to train.

        Args:
            shuffle_ties: a seed: events of one day in random order; None: as published, in the file's order.
        """
        sequences = self.sequences if shuffle_ties is None else self.sequences.shuffle_ties(shuffle_ties)
        enough = sequences.lengths >= 3
        if not enough.any():
            raise DataError("no user has three events or more: nothing to train, validate and test on.")
        users = np.flatnonzero(enough)
        last = sequences.offsets[1:][users]
        return LeaveOneOut(
            users=users,
            train=sequences.drop_last(2).select(users),
            valid_targets=sequences.items[last - 2],
            test_histories=sequences.drop_last(1).select(users),
            test_targets=sequences.items[last - 1],
            num_left_out=int((~enough).sum()),
        )

    def temporal_split(self, train_share: float = 0.8, valid_share: float = 0.1) -> TemporalSplit:
        """Split by day: ``train_share`` of the events before the first cut, ``valid_share`` before the second.

        The cuts fall on day boundaries, so no day is on both sides of one.
        """
        if not 0 < train_share < train_share + valid_share < 1:
            raise ValueError(f"shares must be positive and leave a rest, got {train_share} and {valid_share}")
        days = self.sequences.timestamps // SECONDS_PER_DAY
        ordered = np.sort(days)
        cuts = [ordered[int(share * len(days))] for share in (train_share, train_share + valid_share)]
        return TemporalSplit(
            train=np.flatnonzero(days < cuts[0]),
            valid=np.flatnonzero((days >= cuts[0]) & (days < cuts[1])),
            test=np.flatnonzero(days >= cuts[1]),
            valid_from=int(cuts[0]) * SECONDS_PER_DAY,
            test_from=int(cuts[1]) * SECONDS_PER_DAY,
        )


def item_table(rows: pa.Table | Sequence[dict]) -> pa.Table:
    """Rows of an item table as an Arrow table; every key of a list of dicts becomes a column, null where it lacks.

    Raises:
        DataError: a column holds values of several kinds.
    """
    if isinstance(rows, pa.Table):
        return _decode(rows)
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise DataError(f"column {name!r} holds values that no column can hold together ({error}).") from error
    return pa.table(columns)


def read_items(file: str | os.PathLike) -> pa.Table:
    """Items from a file: ``.parquet``, ``.csv`` with a header, or ``.jsonl``, an object a line.

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
    table = _decode(table)
    _check_columns(table.schema, _ITEM_COLUMNS, str(file))
    _refuse_nulls(table["item_id"], str(file), "item_id")
    return table


def read_events(file: str | os.PathLike) -> Iterator[pa.Table]:
    """The events of a log, some 100,000 at a time: ``user_id``, ``item_id`` and ``timestamp``.

    Raises:
        DataError: at once, the file is missing or lacks a column; while reading, it is damaged or an id is null.
    """
    file = Path(file)
    schema = _parquet_schema(file)
    _check_columns(schema, _EVENT_COLUMNS, str(file))

    def batches() -> Iterator[pa.Table]:
        start = 0
        # Without these it reads far ahead.
        source = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
        for batch in source.iter_batches(_LOG_ROWS, columns=list(_EVENT_COLUMNS), use_threads=False):
            table = _decode(pa.Table.from_batches([batch]))
            for name in _EVENT_COLUMNS:
                _refuse_nulls(table[name], str(file), name, start)
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


def _order(users: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Rows by user, then time, then place in the file: int64 [events]."""
    by_time = np.argsort(timestamps, kind="stable")
    # Keys that differ can be sorted by value, which is several times faster than a second stable argsort.
    keys = users[by_time].astype(np.int64) * len(users) + np.arange(len(users))
    keys.sort()
    return by_time[keys % len(users)]


def _refuse_nulls(column: pa.Array | pa.ChunkedArray, file: str, name: str, start: int = 0) -> None:
    """``start``: the row of the file where the column's first row lies."""
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}, row {row}: {name} is null. Fill it in or drop all rows without it.")


def _read_events(log: Iterator[pa.Table], file: str) -> dict:
    """Columns of the log by name: (dictionary, int32 [events]) for the ids, arrays [events] for the rest; {} if empty.

    Batch by batch, for the ids as text take several times the room of the arrays that are kept.
    """
    kept: dict[str, list] = {}
    start = 0
    for batch in log:
        if batch.num_rows == 0:
            continue
        batch = _decode(batch)
        for name in _EVENT_COLUMNS:
            _refuse_nulls(batch[name], file, name, start)
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
    columns, parts = {}, []
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


def _item_rows(ids: pa.Array, index: np.ndarray, item_ids: pa.Array, items_file: str, log_file: str) -> np.ndarray:
    """Rows of the item table for the events' items ``ids[index]``: int32 [events]."""
    rows = pc.index_in(ids.cast(pa.large_string()), value_set=item_ids).fill_null(-1).to_numpy().astype(np.int32)
    if (rows < 0).any():
        unknown = np.flatnonzero(rows[index] < 0)
        raise DataError(
            f"{log_file}, row {unknown[0]}: item {ids[index[unknown[0]]].as_py()!r} is not in {items_file} "
            f"({len(unknown)} events in all). Add the items or drop the events."
        )
    return rows[index]


def _open(
    path: str | os.PathLike, name: str, required: dict[str, str], revision: str | None
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """Schema and batches of one file of a dataset directory or Hub data set, columns checked."""
    import datasets

    file = Path(path) / f"{name}.parquet"
    wanted = None if name == "items" else (*_EVENT_COLUMNS, *_EXTRA_COLUMNS)
    if Path(path).is_dir():
        schema = _parquet_schema(file)
        _check_columns(schema, required, str(file))
        # Streamed: nothing is copied into the cache of `datasets`, and a file that was written anew is read anew.
        loaded = datasets.load_dataset(
            "parquet",
            data_files=glob.escape(str(file)),
            split="train",
            streaming=True,
            batch_size=_BATCH_ROWS,
            columns=[column for column in schema.names if wanted is None or column in wanted],
            # Without this the whole file is read ahead into memory.
            fragment_scan_options=pa.dataset.ParquetFragmentScanOptions(pre_buffer=False),
        )
    elif str(path).count("/") == 1 and not str(path).startswith((".", "/", "~")):
        loaded = datasets.load_dataset(str(path), data_files=f"{name}.parquet", split="train", revision=revision)
        schema = loaded.features.arrow_schema
        _check_columns(schema, required, f"{path}/{name}.parquet")
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


def _decode(table: pa.Table) -> pa.Table:
    """Dictionary-encoded columns as plain ones."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table[field.name].cast(field.type.value_type))
    return table


def _check_columns(schema: pa.Schema, required: dict[str, str], file: str) -> None:
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
