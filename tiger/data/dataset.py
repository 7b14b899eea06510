"""Item tables and click logs: from a dataset directory, or a Hub data set, to compact arrays and their splits.

A *dataset directory* holds ``items.parquet`` (``item_id`` and any text or number columns) and
``interactions.parquet`` (``user_id``, ``item_id``, ``timestamp`` in whole seconds, optionally ``rating`` or
``label``). Inside the library a user and an item are row numbers; their own ids come back only at the edges.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import plain_table
from tiger.data.hub_data import pair_of_tables
from tiger.data.importing.names import meant
from tiger.data.readers import (
    EVENT_COLUMNS,
    ITEM_COLUMNS,
    check_columns,
    collect_events,
    open_table,
    refuse_nulls,
)
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.data.splits import ALL, LEAVE_ONE_OUT, SPLITS, LeaveOneOut, TemporalSplit
from tiger.utils.errors import DataError


@dataclass(frozen=True)
class RecommendationData:
    """An item table and the users' sequences over it.

    Args:
        items: the item table as it was read, ``item_id`` first.
        user_ids: string array [users]; users in order of first appearance.
        sequences: all events.
        extras: ``rating`` or ``label`` where the file has them, aligned with ``sequences.items``.
        file_rows: int64 [items], each item's row of the table that was read; None: the same.
    """

    items: pa.Table
    user_ids: pa.Array
    sequences: Sequences
    extras: dict[str, np.ndarray]
    file_rows: np.ndarray | None = None

    @property
    def item_ids(self) -> list[str]:
        """The items' own ids, by row number."""
        return self.items["item_id"].to_pylist()

    @property
    def num_items(self) -> int:
        return self.items.num_rows

    @classmethod
    def load(cls, path: Any, revision: str | None = None, config: str | None = None) -> RecommendationData:
        """Read a dataset directory, a Hub data set that holds the same tables, or objects of ``datasets``.

        Args:
            path: a directory with ``items.parquet`` and ``interactions.parquet``, or with folders ``items`` and
                ``interactions`` of parquet shards; or ``owner/name`` on the Hub; or a ``DatasetDict``, or another
                mapping, of ``items`` and ``interactions``, or a pair of them: ``Dataset``, Arrow tables, data frames.
            revision: branch, tag or commit, for the Hub.
            config: the folder that holds the tables, where a directory or repository has several catalogs.

        Raises:
            DataError: a file or column is missing, there twice or of the wrong type, an id is null, an item id occurs
                twice, a timestamp is before 1970, or an event names an item that the item table lacks.
        """
        if not isinstance(path, str | os.PathLike):
            if revision is not None or config is not None:
                raise DataError("revision and config are of a directory or the Hub: leave them out for tables.")
            return cls.from_tables(*pair_of_tables(path), source="the data")
        if config is not None and (os.path.isabs(config) or ".." in Path(config).parts):
            raise DataError(f"config {config!r} leads out of {path}: give a folder within it.")
        items_schema, item_batches = open_table(path, "items", ITEM_COLUMNS, revision, config)
        _, log_batches = open_table(path, "interactions", EVENT_COLUMNS, revision, config)
        tables = list(item_batches)
        items = pa.concat_tables(tables) if tables else items_schema.empty_table()
        return cls._from_batches(items, log_batches, os.path.join(path, config or ""))

    @classmethod
    def from_tables(cls, items: pa.Table, interactions: pa.Table, source: str = "") -> RecommendationData:
        """The same from two Arrow tables; ``source`` is what error messages call the place they came from."""
        check_columns(items.schema, ITEM_COLUMNS, os.path.join(source, "items.parquet"))
        check_columns(interactions.schema, EVENT_COLUMNS, os.path.join(source, "interactions.parquet"))
        return cls._from_batches(items, iter([interactions]), source)

    @classmethod
    def _from_batches(cls, items: pa.Table, log: Iterator[pa.Table], source: str) -> RecommendationData:
        items_file, log_file = os.path.join(source, "items.parquet"), os.path.join(source, "interactions.parquet")
        items = plain_table(items, items_file)
        item_ids = items["item_id"].combine_chunks().cast(pa.large_string())
        refuse_nulls(item_ids, items_file, "item_id")
        if len(item_ids) == 0:
            raise DataError(f"{items_file}: no items. Write at least one row.")
        counts = pc.value_counts(item_ids)
        if len(counts) < len(item_ids):
            twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
            raise DataError(
                f"{items_file}: {len(twice)} item ids occur more than once, {twice[0].as_py()!r} for one. "
                "Keep one row per item."
            )
        columns = collect_events(log, log_file)
        if not columns:
            raise DataError(f"{log_file}: no events. Write at least one row.")
        ids, index = columns.pop("item_id")
        event_items = _item_rows(ids, index, item_ids, items_file, log_file)
        user_ids, users = columns.pop("user_id")
        timestamps = columns.pop("timestamp")
        _warn_of_unused_columns(items.schema, items_file)
        order = _order(users, timestamps)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(user_ids)))]).astype(np.int64)
        extras = {name: values[order] for name, values in columns.items()}
        items = items.select(["item_id"] + [name for name in items.column_names if name != "item_id"])
        return cls(items, user_ids, Sequences(offsets, event_items[order], timestamps[order], user_ids), extras)

    def in_order(self, item_ids: Sequence[str]) -> RecommendationData:
        """The same data with its items in this order.

        Args:
            item_ids: of all its items.

        Raises:
            DataError: they are other items.
        """
        own = self.item_ids
        if item_ids == own:
            return self
        place = {item: row for row, item in enumerate(item_ids)}
        if len(place) != len(own) or any(item not in place for item in own):
            raise DataError("an order of items needs the same items.")
        moved = np.array([place[item] for item in own], dtype=np.int64)
        rows = np.argsort(moved)
        events = replace(self.sequences, items=moved[self.sequences.items].astype(np.int32))
        file_rows = rows if self.file_rows is None else self.file_rows[rows]
        return replace(self, items=self.items.take(pa.array(rows)), sequences=events, file_rows=file_rows)

    def split(self, name: str = LEAVE_ONE_OUT, shuffle_ties: int | None = None) -> LeaveOneOut:
        """Split as a setting says: ``leave_one_out``, see :meth:`leave_one_out`, or ``all``: all events of all users
        to train, nothing to validate and test.

        Raises:
            DataError: there is no such split.
        """
        if name not in SPLITS:
            raise DataError(f"split must be {' or '.join(SPLITS)}, got {name!r}.")
        if name != ALL:
            return self.leave_one_out(shuffle_ties)
        events = self.sequences if shuffle_ties is None else self.sequences.shuffle_ties(shuffle_ties)
        nothing = np.empty(0, dtype=np.int32)
        return LeaveOneOut(np.arange(len(events)), events, nothing, events, nothing, num_left_out=0, held_out=False)

    def leave_one_out(self, shuffle_ties: int | None = None) -> LeaveOneOut:
        """Last item to test, the one before to validate, the rest to train.

        Args:
            shuffle_ties: a seed: events of one day in random order; None: as published, in the file's order.
        """
        sequences = self.sequences if shuffle_ties is None else self.sequences.shuffle_ties(shuffle_ties)
        enough = sequences.lengths >= 3
        if not enough.any():
            raise DataError(
                "no user has three events or more: nothing to train, validate and test on. Give longer histories, or "
                "more of them."
            )
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

        Raises:
            DataError: a part has no event, as where all events are of a day or two.
        """
        if not 0 < train_share < train_share + valid_share < 1:
            raise ValueError(f"shares must be positive and leave a rest, got {train_share} and {valid_share}")
        days = self.sequences.timestamps // SECONDS_PER_DAY
        ordered = np.sort(days)
        cuts = [ordered[int(share * len(days))] for share in (train_share, train_share + valid_share)]
        train = np.flatnonzero(days < cuts[0])
        valid = np.flatnonzero((days >= cuts[0]) & (days < cuts[1]))
        if not len(train) or not len(valid):
            raise DataError(
                f"a split by day needs events of more days: {len(train):,} of {len(days):,} come before the day of "
                f"the first cut, and {len(valid):,} between the cuts."
            )
        return TemporalSplit(
            train=train,
            valid=valid,
            test=np.flatnonzero(days >= cuts[1]),
            valid_from=int(cuts[0]) * SECONDS_PER_DAY,
            test_from=int(cuts[1]) * SECONDS_PER_DAY,
        )


def _warn_of_unused_columns(schema: pa.Schema, file: str) -> None:
    """Warn of columns that seem to be titles, brands, categories or prices, but have other names or types.

    They are words of the items' texts like any other column, but not shown as titles, and not features of the ranker.
    """
    for wanted, name in meant(schema.names).items():
        warnings.warn(
            f"{file} has no column {wanted!r}: rename {name!r} if that is what it holds, or read the files by "
            "`tiger import`.",
            stacklevel=4,
        )
    if "price" in schema.names and not _is_number(schema.field("price").type):
        warnings.warn(
            f"{file}: the column 'price' is {schema.field('price').type}: only numbers are prices. Convert it, or "
            "read the files by `tiger import`.",
            stacklevel=4,
        )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _order(users: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Rows by user, then time, then place in the file: int64 [events]."""
    by_time = np.argsort(timestamps, kind="stable")
    # Keys that differ can be sorted by value, which is several times faster than a second stable argsort.
    keys = users[by_time].astype(np.int64) * len(users) + np.arange(len(users))
    keys.sort()
    return by_time[keys % len(users)]


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
