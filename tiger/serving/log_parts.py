"""Parts of a log: all events of a user are in one, wherever in the log they were, so that parts need little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset

from tiger.data.sequences import Sequences

MAX_PARTS = 1000
_PARTITIONED = pa.schema(
    {"part": pa.int32(), "user_id": pa.string(), "row": pa.int32(), "timestamp": pa.int64(), "place": pa.int64()}
)


@dataclass(frozen=True)
class LogPart:
    """One part.

    Args:
        users: their ids, text.
        sequences: their events of known items.
        events: number of all their events, those of unknown items too.
    """

    users: pa.Array
    sequences: Sequences
    events: int


def num_parts(events: int, part_events: int) -> int:
    """Number of parts for a log of so many events, with about ``part_events`` in each."""
    return min(MAX_PARTS, max(1, -(-events // part_events)))


def part_folder(part: int) -> str:
    """Name of the folder of a part, within that of all events."""
    return f"part={part}"


def deal_out(
    tables: Iterator[pa.Table],
    rows_of: Callable[[Sequence[str]], np.ndarray],
    folder: Path,
    parts: int,
    *,
    start: int = 0,
    name: str = "part-{i}.arrow",
) -> int:
    """Deal the events of a log, or of a piece of it, out to the folders of the parts.

    Args:
        tables: events, as :func:`tiger.data.readers.read_events` yields them.
        rows_of: rows of items by their ids, int [n], -1 for those that the catalog lacks.
        folder: gets a folder for each part that has events.
        parts: number of parts of the whole log.
        start: row of the log at which the tables begin. Places of events are rows of the whole log, so that the pieces
            of one log make the same parts as all of it at once.
        name: of the files, with ``{i}`` in it; of its own for each piece.

    Returns:
        Number of events of unknown items.
    """
    unknown = 0

    def partitioned() -> Iterator[pa.RecordBatch]:
        nonlocal unknown, start
        for table in tables:
            users = table["user_id"].cast(pa.string()).combine_chunks()
            encoded = users.dictionary_encode()
            hashes = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False)) % np.uint64(parts)
            items = table["item_id"].cast(pa.string()).combine_chunks().dictionary_encode()
            rows = rows_of(items.dictionary.to_pylist()).astype(np.int32)
            rows = np.append(rows, np.int32(-1))[items.indices.fill_null(-1).to_numpy()]
            unknown += int((rows < 0).sum())
            places = np.arange(start, start + len(table))
            times = table["timestamp"].cast(pa.int64()).combine_chunks()
            part = pa.array(hashes.astype(np.int32)[encoded.indices.to_numpy()])
            yield pa.record_batch([part, users, pa.array(rows), times, pa.array(places)], schema=_PARTITIONED)
            start += len(table)

    pyarrow.dataset.write_dataset(
        pa.RecordBatchReader.from_batches(_PARTITIONED, partitioned()),
        folder,
        format="arrow",
        basename_template=name,
        partitioning=pyarrow.dataset.partitioning(pa.schema({"part": pa.int32()}), flavor="hive"),
        max_open_files=512,
        existing_data_behavior="overwrite_or_ignore",
    )
    return unknown


def read_part(folder: Path) -> LogPart:
    """Read a part from its folder."""
    if not folder.exists():  # no user has such a hash
        return part_of(None)
    return part_of(pyarrow.dataset.dataset(folder, format="arrow").to_table())


def part_of(table: pa.Table | None) -> LogPart:
    """A part from the events that were dealt out to it, in any order; None: there are none."""
    if table is None:
        nobody = Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0))
        return LogPart(pa.array([], pa.string()), nobody, 0)
    table = table.sort_by("place")
    encoded = table["user_id"].combine_chunks().dictionary_encode()
    users, rows, times = encoded.indices.to_numpy(), table["row"].to_numpy(), table["timestamp"].to_numpy()
    order = np.lexsort((times, users))  # stable: those of one second stay in the order of the file
    order = order[rows[order] >= 0]
    lengths = np.bincount(users[order], minlength=len(encoded.dictionary))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    sequences = Sequences(offsets, rows[order], times[order], encoded.dictionary)
    return LogPart(encoded.dictionary, sequences, len(table))
