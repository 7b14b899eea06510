"""Digests of a dataset, kept with what is made from it, so that other data is not taken for the same.

They are of values, not of files: how a table is compressed, split into row groups or encoded does not matter, and
neither does the order of users in the log. The order of items and of columns does: tokenizers and texts follow it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import is_bytes, is_list, is_text
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.data.splits import LeaveOneOut
from tiger.utils.errors import DataError

# Names of digests in the files that keep them, and what error messages call the data.
ITEMS, INTERACTIONS, TRAIN, EMBEDDINGS, PARENT = "items", "interactions", "train", "embeddings", "parent"
_CALLED = {
    ITEMS: "items.parquet",
    INTERACTIONS: "interactions.parquet",
    TRAIN: "the training part of interactions.parquet",
    EMBEDDINGS: "the file of embeddings",
    PARENT: "the model that init_from names",
}


def data_digests(data: RecommendationData, split: LeaveOneOut | None = None) -> dict[str, str]:
    """SHA-256 of the two tables, ``items`` and ``interactions``, and of the training part of a split, ``train``.

    Args:
        data: the dataset.
        split: of this dataset; None: without ``train``.
    """
    found = {
        ITEMS: table_digest(data.items),
        INTERACTIONS: _log_digest(data, data.user_ids, data.sequences, data.extras),
    }
    return found if split is None else found | {TRAIN: train_digest(data, split)}


def table_digest(table: pa.Table) -> str:
    """SHA-256 of a table's values, in hexadecimal."""
    digest = hashlib.sha256()
    for name in table.column_names:
        digest.update(json.dumps(name).encode())
        _add_array(digest, table[name])
    return digest.hexdigest()


def train_digest(data: RecommendationData, split: LeaveOneOut) -> str:
    """SHA-256 of what a model trained on a split has seen: users, and all their events but the last two."""
    return _log_digest(data, data.user_ids.take(pa.array(split.users)), split.train, {})


def differing(recorded: Mapping[str, Any], found: Mapping[str, str]) -> list[str]:
    """Names, for error messages, of data whose digests differ; what only one side has is not compared."""
    return [_CALLED.get(name, name) for name, value in found.items() if recorded.get(name, value) != value]


def check_same_data(
    recorded: Mapping[str, Any], found: Mapping[str, str], dataset: object, made: object, remedy: str
) -> None:
    """Raise an error for other data than something was made from.

    Args:
        recorded: digests that were kept with it; nothing where it is older than digests.
        found: those of the present data.
        dataset: what error messages call the present data.
        made: what error messages call the thing that was made.
        remedy: what to do.

    Raises:
        DataError: naming the table that differs.
    """
    if changed := differing(recorded, found):
        verb = "is" if len(changed) == 1 else "are"
        raise DataError(f"{dataset}: {' and '.join(changed)} {verb} not what {made} was made from: {remedy}.")


def _log_digest(
    data: RecommendationData, user_ids: pa.Array, events: Sequences, extras: Mapping[str, np.ndarray]
) -> str:
    """SHA-256 of sequences by the users' and the items' own ids, the users sorted by id."""
    order = pc.sort_indices(user_ids).to_numpy()
    places = Sequences(events.offsets, np.arange(len(events.items)), events.timestamps).select(order)
    _, first, numbers = np.unique(events.items[places.items], return_index=True, return_inverse=True)
    # Numbered by first appearance: rows of the item table would change with items that nobody has touched.
    by_place = np.argsort(first)
    renumbered = np.empty(len(by_place), dtype=np.int64)
    renumbered[by_place] = np.arange(len(by_place))
    rows = events.items[places.items][first[by_place]]
    digest = hashlib.sha256()
    _add_array(digest, user_ids.take(pa.array(order)))
    _add_array(digest, data.items["item_id"].take(pa.array(rows)))
    for values in (places.offsets, renumbered[numbers.reshape(-1)], places.timestamps):
        digest.update((np.ascontiguousarray(values, dtype=np.int64)).tobytes())
    for name in sorted(extras):
        digest.update(json.dumps(name).encode())
        _add_array(digest, pa.array(extras[name][places.items]))
    return digest.hexdigest()


def _add_array(digest: Any, array: pa.Array | pa.ChunkedArray) -> None:
    """Add values and nulls to a digest, whatever the chunks, widths and encodings that they are kept in."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if is_text(array.type) or is_bytes(array.type):
        array = array.cast(pa.large_binary())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    digest.update(f"{len(array)};".encode())
    digest.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)))
    kind = array.type
    if is_bytes(kind):
        _add_bytes(digest, array.fill_null(b""))
    elif is_list(kind):
        digest.update(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        _add_array(digest, pc.list_flatten(array))
    elif pa.types.is_struct(kind):
        for place, part in enumerate(array.flatten()):
            digest.update(json.dumps(kind.field(place).name).encode())
            _add_array(digest, part)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        digest.update(array.fill_null(0 if kind != pa.bool_() else False).to_numpy(zero_copy_only=False).astype("<i8"))
    elif pa.types.is_float32(kind) or pa.types.is_float64(kind):
        digest.update(array.fill_null(0.0).to_numpy(zero_copy_only=False).astype("<f8"))
    else:  # dates, decimals: rare and small
        digest.update(json.dumps([str(value) for value in array.to_pylist()]).encode())


def _add_bytes(digest: Any, array: pa.Array) -> None:
    """Add a large_binary array without nulls: where its values end, then the values."""
    if not len(array):
        return
    _, ends, values = array.buffers()
    ends = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
    digest.update((ends - ends[0]).tobytes())
    if values is not None:
        digest.update(memoryview(values)[ends[0] : ends[-1]])


def log_summary(data: RecommendationData) -> dict[str, Any]:
    """Facts of a log by which a longer one is recognized: ``events``, ``users``, ``last_day`` (days since 1970), and
    SHA-256 of events: ``before`` that day in any order, since events of the last day itself may come late;
    ``sequences_before`` and ``sequences``, before it and all, in the order of each user's."""
    last = int(data.sequences.timestamps.max() // SECONDS_PER_DAY)
    facts: dict[str, Any] = {"events": len(data.sequences.items), "users": len(data.sequences), "last_day": last}
    facts |= {"sequences": _digest_before(data, last + 1, True), "sequences_before": _digest_before(data, last, True)}
    return facts | {"before": _digest_before(data, last)}


def lacks_events_of(data: RecommendationData, summary: Mapping[str, Any], held_out: bool = False) -> str:
    """Say, in half a sentence, how a log fails to go on from the one that ``summary`` describes; empty: it does.

    Args:
        summary: of :func:`log_summary`.
        held_out: the last two events of each user are held out of either log, so that those of one day must stand in
            the same order: else some of what is held out here may have been trained on there.
    """
    day = int(summary["last_day"])
    until = int((data.sequences.timestamps < (day + 1) * SECONDS_PER_DAY).sum())
    date = np.datetime64(day, "D")
    if until < summary["events"]:
        return f"up to {date} it holds {until:,} events, the parent's log {summary['events']:,}"
    if _digest_before(data, day) != summary["before"]:
        return f"its events before {date} are not those of the parent's log"
    if not held_out or "sequences" not in summary:
        return ""
    late = until > summary["events"]
    order = "sequences_before" if late else "sequences"
    if _digest_before(data, day + (not late), True) != summary[order]:
        return "events of one day stand in another order, so that the parent may have seen what is held out now"
    if late and _may_hold_out_seen(data, day):
        return f"some events of {date} came after the parent's, which may have seen what is held out of that day now"
    return ""


def _may_hold_out_seen(data: RecommendationData, day: int) -> bool:
    """Whether a user has three events on a day, so that one of them may have been trained on, and one of the last two
    of all on it too."""
    events = data.sequences
    counts = np.bincount(events.users[events.timestamps // SECONDS_PER_DAY == day], minlength=len(events))
    some = np.flatnonzero(counts >= 3)
    return bool((events.timestamps[events.offsets[1:][some] - 2] // SECONDS_PER_DAY <= day).any())


def _digest_before(data: RecommendationData, day: int, ordered: bool = False) -> str:
    """SHA-256 of the events before a day, whatever their order, or each user's in the order of the log."""
    events = data.sequences
    some = np.flatnonzero(events.timestamps < day * SECONDS_PER_DAY)
    table = pa.table(
        {
            "user": data.user_ids.take(pa.array(events.users[some])).cast(pa.large_string()),
            "item": data.items["item_id"].combine_chunks().take(pa.array(events.items[some])).cast(pa.large_string()),
            "time": events.timestamps[some],
            "place": some,
        }
    ).sort_by([(name, "ascending") for name in ("user", "time", "place" if ordered else "item")])
    table = table.drop_columns(["place"])
    digest = hashlib.sha256()
    for column in table.columns:
        _add_array(digest, column)
    return digest.hexdigest()
