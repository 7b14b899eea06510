"""The events of a dataset, from a foreign log: known users and items at real times, each user's in order of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import is_text
from tiger.data.importing.event_columns import EventColumns
from tiger.data.importing.filters import core_filter
from tiger.data.importing.identifiers import id_texts
from tiger.data.importing.prices import parse_prices
from tiger.data.importing.problems import MAX_EXAMPLES, Problems
from tiger.data.importing.source import Source
from tiger.data.importing.timestamps import lost_digits, other_unit, parse_clocks, parse_times, whole_seconds
from tiger.utils.errors import DataError

_UNKNOWN, _MISSING = -1, -2
_BATCH = 2**18
_MAX_HINTS = 10_000
_NO_TIME = "events without a time that can be read (or a date before 1970, a number before 1971, or one after 2200)"
_FLAGS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True)
class Events:
    """Events by user, then time, then place in the file.

    Args:
        user_ids: string array [users], in order of first appearance.
        users, items: int32 [events], numbers of users and rows of the item table.
        seconds: int64 [events].
        extras: ``rating`` and ``label`` where there are any, float32 [events]; NaN: none.
    """

    user_ids: pa.Array
    users: np.ndarray
    items: np.ndarray
    seconds: np.ndarray
    extras: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.users)

    def select(self, keep: np.ndarray) -> Events:
        """Events of a mask."""
        extras = {name: values[keep] for name, values in self.extras.items()}
        return Events(self.user_ids, self.users[keep], self.items[keep], self.seconds[keep], extras)

    def core(self, least: int) -> Events:
        """Events of users and items that have at least so many."""
        return self.select(core_filter(self.users, self.items, least)) if least else self

    def tables(self, item_ids: pa.Array) -> Iterator[pa.Table]:
        """The log of a dataset, some 250,000 events at a time.

        Args:
            item_ids: string array [items].
        """
        for start in range(0, len(self), _BATCH):
            rows = slice(start, start + _BATCH)
            columns = {
                "user_id": self.user_ids.take(pa.array(self.users[rows])),
                "item_id": item_ids.take(pa.array(self.items[rows])),
                "timestamp": pa.array(self.seconds[rows]),
            }
            extras = {name: pa.array(values[rows], from_pandas=True) for name, values in self.extras.items()}
            yield pa.table(columns | extras)


@dataclass
class _Columns:
    """Columns of the log as they come in, one entry per batch."""

    users: list[pa.Array] = field(default_factory=list)
    items: list[np.ndarray] = field(default_factory=list)
    times: list[np.ma.MaskedArray] = field(default_factory=list)
    extras: dict[str, list[np.ndarray]] = field(default_factory=dict)
    unknown: dict[int, str] = field(default_factory=dict)  # the first, by row
    unknown_ids: set[str] = field(default_factory=set)


def build_events(
    source: Source, columns: EventColumns, item_ids: pa.Array, problems: Problems
) -> tuple[Events, list[str]] | None:
    """Read a log; events without user, known item or time are problems, and left out.

    Args:
        source: the log.
        columns: how its columns are read.
        item_ids: string array [items] of the item table.
        problems: takes what can't be used.

    Returns:
        The events and remarks on how they were read; None: what stands for times are none.
    """
    found = _collect(source, columns, item_ids)
    source.report_objects([columns.column(target) or "" for target in ("user_id", "item_id")], problems)
    source.report_bad_rows(problems)
    if not found.items:
        problems.fatal.append(f"{source.name}: no events. Give a log with at least one row.")
        return None
    times = np.ma.concatenate(found.times)
    found.times.clear()
    time = columns.column("timestamp")
    try:
        seconds, has_time, said = whole_seconds(times, columns.time_format)
    except DataError as error:
        problems.fatal.append(f"{source.name}, column {time!r}: {error}")
        return None
    users = pa.chunked_array(found.users, pa.string())
    has_user = users.is_valid().to_numpy()
    items = np.concatenate(found.items)
    mixed = other_unit(times, has_time, said) if columns.time_format.kind == "number" else ""
    _report(source, found, (has_user, items, has_time, mixed), item_ids, problems)
    good = has_user & (items >= 0) & has_time
    order = times.data
    if not good.all():
        users, items, seconds, order = users.filter(pa.array(good)), items[good], seconds[good], order[good]
    coded = users.combine_chunks().dictionary_encode()
    numbers = coded.indices.to_numpy()
    sequence = np.lexsort((order, numbers))
    extras = {name: np.concatenate(parts)[good][sequence] for name, parts in found.extras.items()}
    notes = [f"{time}: {said}"]
    if lost := lost_digits(seconds):
        notes.append(f"{time}: {lost}")
    if len(seconds) and (np.diff(order) < 0).any():
        notes.append("the log is not in order of time: sorted, equal times in the order of the file")
    return Events(coded.dictionary, numbers[sequence], items[sequence], seconds[sequence], extras), notes


def _collect(source: Source, columns: EventColumns, item_ids: pa.Array) -> _Columns:
    found = _Columns()
    names = {target: columns.column(target) for target in ("user_id", "item_id", "timestamp", "rating", "label")}
    present = {target: name for target, name in names.items() if name}
    start = 0
    wanted = [*present.values(), *([columns.clock] if columns.clock else [])]
    for batch in source.batches(list(dict.fromkeys(wanted))):
        if batch.num_rows == 0:
            continue
        found.users += id_texts(batch[present["user_id"]]).chunks
        ids = id_texts(batch[present["item_id"]])
        rows = pc.index_in(ids, value_set=item_ids).fill_null(_UNKNOWN).to_numpy().astype(np.int32)
        if ids.null_count:
            rows[ids.is_null().to_numpy()] = _MISSING
        unknown = np.flatnonzero(rows == _UNKNOWN)
        for row in unknown[: max(0, MAX_EXAMPLES - len(found.unknown))]:
            found.unknown[start + int(row)] = ids[int(row)].as_py()
        if len(unknown) and len(found.unknown_ids) < _MAX_HINTS:
            found.unknown_ids |= set(ids.take(pa.array(unknown[:_MAX_HINTS])).unique().to_pylist())
        found.items.append(rows)
        times = parse_times(batch[present["timestamp"]], columns.time_format)
        found.times.append(times + parse_clocks(batch[columns.clock]) if columns.clock else times)
        for target in ("rating", "label"):
            if target in present:
                found.extras.setdefault(target, []).append(_floats(batch[present[target]]))
        start += batch.num_rows
    return found


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """float32 [events]; NaN: no number."""
    if is_text(column.type):
        coded = column.combine_chunks().dictionary_encode()
        texts = coded.dictionary.to_pylist()
        prices = parse_prices(texts)
        values = [_FLAGS.get(text.strip().lower(), price) for text, price in zip(texts, prices)]
        table = np.array([np.nan if value is None else value for value in [*values, None]], dtype=np.float32)
        return table[coded.indices.fill_null(len(texts)).to_numpy()]
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
        raise DataError(f"ratings and labels can't be read from a column of {column.type}: write numbers.")
    return column.cast(pa.float32(), safe=False).to_numpy().astype(np.float32)


def _report(
    source: Source,
    found: _Columns,
    columns: tuple[np.ndarray, np.ndarray, np.ndarray, str],
    item_ids: pa.Array,
    problems: Problems,
) -> None:
    has_user, items, has_time, mixed = columns
    for kind, wrong, hint in (
        ("events without a user", ~has_user, ""),
        ("events without an item", items == _MISSING, ""),
        (_NO_TIME, ~has_time, mixed),
    ):
        rows = np.flatnonzero(wrong)
        problems.add(kind, len(rows), (source.place(int(row)) for row in rows[:MAX_EXAMPLES]), hint)
    examples = (f"{source.place(row)} ({item!r})" for row, item in found.unknown.items())
    count = int((items == _UNKNOWN).sum())
    problems.add("events of items that the item table lacks", count, examples, _hint(found.unknown_ids, item_ids))


def _hint(unknown: set[str], item_ids: pa.Array) -> str:
    """A change that would make most of these ids known, in words, or an empty text."""
    if not unknown:
        return ""
    changes = {
        "'.0' at their end were not there: write ids as text": lambda one: one.removesuffix(".0"),
        "zeros before them were left out: write ids as text": lambda one: one.lstrip("0"),
        "capitals were small letters": str.lower,
    }
    for said, change in changes.items():
        known = {change(one) for one in item_ids.to_pylist()}
        if sum(change(one) in known for one in unknown) > len(unknown) / 2:
            return f"Most would be known if {said}"
    return ""
