"""Import: a table of items and a log, from whatever files they are in, to a dataset directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiger.data.dataset_card import CARD, write_dataset_card
from tiger.data.importing.event_columns import EventColumns, read_event_columns
from tiger.data.importing.events import Events, build_events
from tiger.data.importing.filters import first_occurrences
from tiger.data.importing.item_columns import read_item_columns
from tiger.data.importing.items import build_items
from tiger.data.importing.keys import find_keys
from tiger.data.importing.names import EVENT_NAMES, named
from tiger.data.importing.problems import Problems
from tiger.data.importing.report import ImportReport, describe
from tiger.data.importing.source import Source
from tiger.utils.errors import DataError
from tiger.utils.files import replaced_folder

# Beside the two tables: how they were made. Its presence says that a folder may be replaced.
RECORD = "import.json"
FILES = ("items.parquet", "interactions.parquet", RECORD, CARD)
ITEM_TARGETS = ("title", "description", "brand", "categories", "price", "image_url")
EVENT_TARGETS = ("user_id", "timestamp", "rating", "label")


@dataclass(frozen=True)
class ImportOptions:
    """Choices of an import.

    Args:
        columns: column of a file by what it stands for: ``item_id``, ``event_item_id`` (where it has another name in
            the log), ``title``, ``description``, ``brand``, ``categories``, ``price``, ``image_url``, ``user_id``,
            ``timestamp``, ``rating``, ``label``. The others are found by their names and values.
        leave_out: columns not to read.
        time_format: form of the times as for ``strptime``, where they can be read in two ways.
        drop_unknown: leave out rows that can't be used, rather than refuse the tables.
        core: keep users and items with this many events, repeated until all have them, and no other items; 0: all.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    leave_out: Collection[str] = ()
    time_format: str | None = None
    drop_unknown: bool = False
    core: int = 0


def import_tables(
    items: Any,
    interactions: Any,
    out: str | os.PathLike,
    options: ImportOptions | None = None,
    say: Callable[[str], None] | None = None,
) -> ImportReport:
    """Write a dataset directory from a table of items and a log.

    Both files appear whole, or nothing changes; only what an earlier import wrote is replaced.

    Args:
        items: a file (CSV of any delimiter, JSON lines, parquet, each also compressed), a folder of shards, a list of
            these, an Arrow table, a pandas table or a list of dicts.
        interactions: the same, with users, items and times.
        out: the dataset directory.
        options: columns by name, and what to do with rows that can't be used.
        say: called with each line on how the tables are read.

    Raises:
        DataError: all that stands in the way, at once (:class:`tiger.data.importing.problems.ImportProblems`), or a
            file that can't be read.
        FileExistsError: ``out`` holds something else.
    """
    options, say = options or ImportOptions(), say or (lambda _: None)
    _refuse_other_folder(Path(out))
    problems = Problems()
    item_source = Source(items, "the items", tuple(options.leave_out))
    event_source = Source(interactions, "the interactions", tuple(options.leave_out))
    _refuse_absent(item_source, event_source, problems)
    table, sample = item_source.read(), event_source.sample()
    _refuse_empty(event_source, sample, problems)
    columns = _given_columns(options, table, sample, problems.fatal)
    found = _mapped(table, sample, columns, options, problems.fatal)
    if found is None:
        problems.check()
        raise DataError("the tables can't be read")  # not reached: what is missing has been noted
    readings, event_columns = found
    item_table, readings, notes = build_items(item_source, table, readings, problems)
    del table
    notes = [*item_source.notes, *event_source.notes, *notes]
    for line in [*describe(item_source.name, readings), *describe(event_source.name, event_columns.readings)]:
        say(line)
    item_source.report_bad_rows(problems)
    if item_table.num_rows == 0:
        problems.fatal.append(f"{item_source.name}: no items. Give a table with at least one row.")
    built = build_events(event_source, event_columns, _ids(item_table), problems)
    notes += built[1] if built else []
    for note in notes:
        say(f"note: {note}")
    problems.check(options.drop_unknown)
    assert built is not None
    events = built[0].core(options.core)
    if len(events) == 0:
        raise DataError(f"{event_source.name}: no event is left{' with this core' if options.core else ''}.")
    item_table, events = _used(item_table, events, options.core)
    report = _report(out, item_table, events, (readings, event_columns), problems, notes)
    _write(Path(out), item_table, events, report)
    return report


def _refuse_absent(items: Source, events: Source, problems: Problems) -> None:
    """Note columns to leave out that are in neither table."""
    for name in sorted(items.lacks & events.lacks):
        there = ", ".join([*items.columns, *events.columns])
        problems.fatal.append(f"--leave-out {name}: neither table has this column; they have {there}.")


def _refuse_empty(source: Source, sample: pa.Table, problems: Problems) -> None:
    """Raise an error if a log has no rows, with those that could not be read."""
    if sample.num_rows == 0:
        problems.fatal.append(f"{source.name}: the log has no rows. Give one with at least one event.")
        source.report_bad_rows(problems)
        problems.check()


def _given_columns(
    options: ImportOptions, items: pa.Table, events: pa.Table, problems: list[str]
) -> dict[str, dict[str, str]]:
    """Columns that the caller names, by table and what they stand for."""
    found: dict[str, dict[str, str]] = {"items": {}, "events": {}}
    tables = {"items": items.column_names, "events": events.column_names}
    for target, name in options.columns.items():
        if target in ITEM_TARGETS:
            places, own = ["items"], target
        elif target in EVENT_TARGETS:
            places, own = ["events"], target
        elif target in ("item_id", "event_item_id"):
            places, own = ["items", "events"] if target == "item_id" else ["events"], "item_id"
            if target == "item_id" and "event_item_id" in options.columns:
                places = ["items"]
        else:
            names = ", ".join(("item_id", "event_item_id", *ITEM_TARGETS, *EVENT_TARGETS))
            raise DataError(f"columns can be named for {names}, not for {target!r}.")
        there = [place for place in places if name in tables[place]]
        for place in there:
            found[place][own] = name
        if not there:
            columns = "; ".join(f"{place} have {', '.join(tables[place])}" for place in places)
            problems.append(f"no column {name!r} to read as {target}: {columns}.")
    return found


def _mapped(
    items: pa.Table, events: pa.Table, given: dict[str, dict[str, str]], options: ImportOptions, problems: list[str]
):
    """Readings of the item table's columns and of the log's; None: something is missing, which ``problems`` tells."""
    keys = find_keys(items, events, given)
    if keys.complaint:
        problems.append(keys.complaint)
        return None
    if keys.item is None:
        problems.append(
            f"no column of item ids among those of the items ({', '.join(items.column_names)}). Name it with "
            "--item-id."
        )
    if keys.event is None:
        problems.append(
            f"no column of item ids among those of the log ({', '.join(events.column_names)}). Name it with "
            "--event-item-id."
        )
    event_columns: EventColumns | None = read_event_columns(
        events, keys, given["events"], options.time_format, problems
    )
    if event_columns is None and named(items.column_names, EVENT_NAMES["user_id"]):
        problems.append("the first table looks like the log. Give the items first, then the log.")
    if problems or keys.item is None or event_columns is None:
        return None
    return read_item_columns(items, keys, given["items"]), event_columns


def _ids(items: pa.Table) -> pa.Array:
    ids = items["item_id"].combine_chunks()
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def _used(items: pa.Table, events: Events, core: int) -> tuple[pa.Table, Events]:
    """Tables without items and users that have no event; all items stay without a core filter."""
    users, user_numbers = np.unique(events.users, return_inverse=True)
    user_ids, item_rows = events.user_ids.take(pa.array(users)), events.items
    if core:
        kept, item_rows = np.unique(events.items, return_inverse=True)
        items = items.take(pa.array(kept))
    numbers = user_numbers.astype(np.int32), item_rows.astype(np.int32)
    return items, Events(user_ids, *numbers, events.seconds, events.extras)


def _report(
    out: str | os.PathLike,
    items: pa.Table,
    events: Events,
    columns: tuple[list, EventColumns],
    problems: Problems,
    notes: list[str],
) -> ImportReport:
    pairs = np.unique(events.users.astype(np.int64) * items.num_rows + events.items)
    return ImportReport(
        out=str(out),
        users=len(events.user_ids),
        items=items.num_rows,
        events=len(events),
        trainable_users=int((np.bincount(events.users) >= 3).sum()),
        first=int(events.seconds.min()),
        last=int(events.seconds.max()),
        repeats=1 - len(pairs) / len(events),
        duplicates=int((~first_occurrences(events.users, events.items, events.seconds)).sum()),
        item_columns=columns[0],
        event_columns=columns[1].readings,
        dropped=problems.dropped,
        notes=notes,
    )


def _refuse_other_folder(out: Path) -> None:
    """Raise an error if there is a folder of this name that no import wrote, or one with other files in it.

    Raises:
        FileExistsError: see above.
    """
    if out.is_dir() and (names := {part.name for part in out.iterdir()}) and (names - {*FILES} or RECORD not in names):
        other = sorted(names - {*FILES} or names - {CARD} or names)[0]
        raise FileExistsError(f"{out} holds {other}, which no import wrote: give a folder of its own")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: give a folder")


def _write(out: Path, items: pa.Table, events: Events, report: ImportReport) -> None:
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replaced_folder(out, RECORD) as fresh:
        pq.write_table(items, fresh / "items.parquet")
        writer = None
        for table in events.tables(_ids(items)):
            writer = writer or pq.ParquetWriter(fresh / "interactions.parquet", table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
        write_dataset_card(fresh, out.name, out)
        (fresh / RECORD).write_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")
