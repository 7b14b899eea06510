"""Columns of a log: which are read, and as what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from tiger.data.importing.columns import GUESSED, Reading, content_of
from tiger.data.importing.identifiers import can_be_ids, id_texts
from tiger.data.importing.keys import Keys
from tiger.data.importing.names import EVENT_NAMES, named
from tiger.data.importing.timestamps import (
    MICROSECONDS_PER_DAY,
    TimeFormat,
    are_clocks,
    parse_times,
    recognize_times,
    whole_seconds,
)
from tiger.utils.errors import DataError

_FLAGS = frozenset(("true", "false", "yes", "no", "0", "1", "0.0", "1.0"))


@dataclass(frozen=True)
class EventColumns:
    """Columns of a log.

    Args:
        readings: one per column.
        time_format: how the times are written.
        clock: the column of the time of day, where that of the times holds days only.
    """

    readings: list[Reading]
    time_format: TimeFormat
    clock: str | None = None

    def column(self, target: str) -> str | None:
        """The column that stands for one of ours."""
        columns = (reading.source for reading in self.readings if reading.target == target)
        return next((name for name in columns if name != self.clock), None)


def read_event_columns(
    sample: pa.Table, keys: Keys, given: Mapping[str, str], time_format: str | None, problems: list[str]
) -> EventColumns | None:
    """Decide what each column of a log is, by its name and by what is in it.

    Args:
        sample: the first rows.
        keys: the column of item ids.
        given: column by target (``user_id``, ``timestamp``, ...), where the caller knows.
        time_format: pattern of the times, as for ``strptime``.
        problems: takes what is missing.

    Returns:
        None where a column is missing.
    """
    key = keys.event or ""
    taken, guessed = {key: "item_id"}, {key} & keys.guessed
    free = [name for name in sample.column_names if name != key]
    users = [name for name in _named(free, given, "user_id") if can_be_ids(sample[name].type)]
    user = given.get("user_id") or next(iter(users), None)
    time, how = _find_time([name for name in free if name != user], sample, given, time_format, problems, guessed)
    if user is None and (user := _guess_user([name for name in free if name != time], sample)):
        guessed.add(user)
    columns = ", ".join(sample.column_names)
    if user is None:
        problems.append(f"no column of users among {columns}. Name it with --user-id.")
    if user is None or time is None or how is None:
        return None
    taken |= {user: "user_id", time: "timestamp"}
    no_labels: list[str] = []
    for target in ("rating", "label"):
        for name in [given[target]] if target in given else _named(free, given, target):
            content = content_of(sample[name])
            fits = _is_flag(content.values) or (
                target == "rating" and (content.kind == "number" or content.are_prices)
            )
            if name in taken:
                continue
            if fits or (target == "rating" and target in given):
                taken[name] = target
                break
            if target == "label":
                no_labels.append(name)
    if "label" in given and given["label"] in no_labels:
        problems.append(f"{given['label']}: values other than 0 and 1 (or true and false) are no labels.")
    clock = None
    if how.kind != "number" and not (parse_times(sample[time], how).compressed() % MICROSECONDS_PER_DAY).any():
        clock = next((name for name in free if name not in taken and are_clocks(sample[name])), None)
    readings = [
        replace(one, how="values other than 0 and 1, so no label")
        if one.source in no_labels and not one.target
        else one
        for one in _readings(sample.column_names, taken, guessed)
    ]
    if clock:
        place = sample.column_names.index(clock)
        readings[place] = Reading(clock, "timestamp", "time", "the time of day, added")
    return EventColumns(readings, how, clock)


def _readings(columns: list[str], taken: dict[str, str], guessed: set[str]) -> list[Reading]:
    kinds = {"item_id": "id", "user_id": "id", "timestamp": "time", "rating": "rating", "label": "label"}
    return [
        Reading(name, taken[name], kinds[taken[name]], GUESSED if name in guessed else "")
        if name in taken
        else Reading(name, "", "nothing")
        for name in columns
    ]


def _named(free: list[str], given: Mapping[str, str], target: str) -> list[str]:
    return [name for name in named(free, EVENT_NAMES[target]) if name not in given.values()]


def _find_time(
    free: list[str],
    sample: pa.Table,
    given: Mapping[str, str],
    time_format: str | None,
    problems: list[str],
    guessed: set[str],
) -> tuple[str | None, TimeFormat | None]:
    """The column of times and how it writes them: the one given, the first of the names that holds times, or the only
    one of all that does."""
    if "timestamp" in given:
        candidates, others = [given["timestamp"]], []
    else:
        candidates = _named(free, given, "timestamp")
        others = [name for name in free if name not in candidates and name not in given.values()]
    complaints = []
    for name in [*candidates, *others]:
        if time_format:
            form = TimeFormat("format", time_format)
            if can_be_ids(sample[name].type) and not parse_times(sample[name], form).mask.all():
                return name, form
            continue
        try:
            how = recognize_times(sample[name])
            if how is not None and (name in candidates or not _is_plain_number(sample[name], how)):
                whole_seconds(parse_times(sample[name], how), how)
                if name in others:
                    guessed.add(name)
                return name, how
            complaint = "values such as {} are no times that can be read. Give their form with --time-format."
            complaint = complaint.format(repr(next(iter(content_of(sample[name]).values), "")))
        except DataError as error:
            complaint = str(error)
        if name in candidates:
            complaints.append(f"{name}: {complaint}")
    if time_format and candidates:
        complaints.append(
            f"{candidates[0]}: no value is of the form {time_format!r}. Give another with --time-format."
        )
    problems += complaints or [f"no column of times among {', '.join(sample.column_names)}. Name it with --time."]
    return None, None


def _is_plain_number(column: pa.ChunkedArray, how: TimeFormat) -> bool:
    """Whether numbers are too small to be times of the last decades, whatever their unit."""
    if how.kind != "number":
        return False
    values = parse_times(column, how).compressed()
    return len(values) == 0 or float(abs(values).min()) < 6e8


def _guess_user(free: list[str], sample: pa.Table) -> str | None:
    """Of the columns of ids in which values come back, the one with the most different values."""
    counts = {}
    for name in free:
        if can_be_ids(sample[name].type):
            ids = id_texts(sample[name]).drop_null()
            distinct = len(ids.unique())
            if 1 < distinct < len(ids) and content_of(sample[name]).kind in ("text", "number"):
                counts[name] = distinct
    return max(counts, key=lambda name: counts[name], default=None)


def _is_flag(values: list[str]) -> bool:
    return bool(values) and {value.lower() for value in values} <= _FLAGS
