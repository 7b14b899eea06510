"""Item tables and click logs: from a dataset directory, or a Hub data set, to compact arrays and their splits.

A *dataset directory* holds ``items.parquet`` (``item_id`` and any text or number columns) and ``interactions.parquet``
(``user_id``, ``item_id``, ``timestamp`` in whole seconds, optionally ``rating`` or ``label``). Inside the library a user and
an item are row numbers; their own ids come back only at the edges.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SECONDS_PER_DAY = 86_400


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


@dataclass(frozen=True)
class TemporalSplit:
    """Events before, between and after two days (the protocol of Singh et al., arXiv 2306.08121).

    ``train``, ``valid`` and ``test`` are int64 arrays of event rows of the data set's ``sequences``; ``valid_from`` and
    ``test_from`` are the first seconds of validation and test.
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
        items = _read(path, "items", {"item_id": pa.types.is_string}, revision)
        interactions = _read(
            path,
            "interactions",
            {"user_id": pa.types.is_string, "item_id": pa.types.is_string, "timestamp": pa.types.is_integer},
            revision,
        )
        return cls.from_tables(items, interactions, str(path))

    @classmethod
    def from_tables(cls, items: pa.Table, interactions: pa.Table, source: str = "") -> RecommendationData:
        """The same from two Arrow tables; ``source`` is what error messages call the place they came from."""
        items_file, log_file = os.path.join(source, "items.parquet"), os.path.join(source, "interactions.parquet")
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
        if interactions.num_rows == 0:
            raise DataError(f"{log_file}: no events. Write at least one row.")
        for column in ("user_id", "item_id", "timestamp"):
            _refuse_nulls(interactions[column], log_file, column)

        event_items = pc.index_in(interactions["item_id"].cast(pa.large_string()), value_set=item_ids)
        if event_items.null_count:
            row = int(np.flatnonzero(event_items.is_null().to_numpy())[0])
            raise DataError(
                f"{log_file}, row {row}: item {interactions['item_id'][row].as_py()!r} is not in {items_file} "
                f"({event_items.null_count} events in all). Add the items or drop the events."
            )
        event_items = event_items.to_numpy().astype(np.int32, copy=False)
        encoded = interactions["user_id"].cast(pa.large_string()).dictionary_encode().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0)
        user_ids, users = encoded.dictionary, encoded.indices.to_numpy()
        timestamps = interactions["timestamp"].to_numpy().astype(np.int64, copy=False)

        order = _order(users, timestamps)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(user_ids)))]).astype(np.int64)
        extras = {
            name: interactions[name].to_numpy()[order]
            for name in ("rating", "label")
            if name in interactions.column_names
        }
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


def _order(users: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Rows by user, then time, then place in the file: int64 [events]."""
    span = int(timestamps.max()) - int(timestamps.min()) + 1
    if span * (int(users.max()) + 1) < 2**63:
        return np.argsort(users.astype(np.int64) * span + (timestamps - timestamps.min()), kind="stable")
    return np.lexsort((timestamps, users))


def _refuse_nulls(column: pa.Array | pa.ChunkedArray, file: str, name: str) -> None:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}, row {row}: {name} is null ({column.null_count} in all). Fill it in or drop the rows.")


def _read(path: str | os.PathLike, name: str, required: dict, revision: str | None) -> pa.Table:
    import datasets

    file = Path(path) / f"{name}.parquet"
    if Path(path).is_dir():
        if not file.exists():
            raise DataError(f"{file} is missing: a dataset directory holds items.parquet and interactions.parquet.")
        if file.stat().st_size == 0:
            raise DataError(f"{file} is empty (0 bytes): write it again.")
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} is not a whole parquet file ({error}): write it again.") from error
        _check_columns(schema, required, str(file))
        table = pq.read_table(file, columns=None if name == "items" else [c for c in schema.names if c in _EVENTS])
    elif str(path).count("/") == 1 and not str(path).startswith((".", "/", "~")):
        loaded = datasets.load_dataset(
            str(path), data_files=f"{name}.parquet", split="train", revision=revision
        ).with_format("arrow")
        table = loaded[:] if len(loaded) else loaded.data.table
        _check_columns(table.schema, required, f"{path}/{name}.parquet")
    else:
        raise DataError(f"{path} is neither a directory nor owner/name on the Hub.")
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table[field.name].cast(field.type.value_type))
    return table


_EVENTS = ("user_id", "item_id", "timestamp", "rating", "label")


def _check_columns(schema: pa.Schema, required: dict, file: str) -> None:
    missing = [name for name in required if name not in schema.names]
    if missing:
        raise DataError(f"{file} has no column {missing[0]!r} (it has {', '.join(schema.names)}). Add or rename it.")
    for name, is_right in required.items():
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if is_right is pa.types.is_string and pa.types.is_large_string(kind):
            continue
        if not is_right(kind):
            wanted = "text" if is_right is pa.types.is_string else "whole seconds (an integer)"
            raise DataError(f"{file}: column {name!r} is {kind}, expected {wanted}. Convert it.")
