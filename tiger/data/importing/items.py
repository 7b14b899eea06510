"""The item table of a dataset, from a foreign one and the readings of its columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import is_text
from tiger.data.importing.columns import NOTHING, Reading
from tiger.data.importing.identifiers import id_texts
from tiger.data.importing.names import is_path_name
from tiger.data.importing.prices import currencies, parse_prices
from tiger.data.importing.problems import Problems
from tiger.data.importing.source import Source
from tiger.data.importing.texts import clean_text, first_url, join_list, parse_list

_FIRST = ("item_id", "title", "description", "brand", "categories", "price", "image_url")
_BATCH = 2**14


def build_items(
    source: Source, table: pa.Table, readings: list[Reading], problems: Problems
) -> tuple[pa.Table, list[Reading], list[str]]:
    """Make the item table; rows without an id and further rows of an id are problems, and left out.

    Args:
        source: where the table comes from, for the places of its rows.
        table: all its rows.
        readings: how each column is read.
        problems: takes what can't be used.

    Returns:
        The table, ``item_id`` first; the readings, corrected where a column turned out to be another; remarks.
    """
    key = next(reading.source for reading in readings if reading.kind == "id")
    source.report_objects([key], problems)
    ids = id_texts(table[key])
    keep = _usable(ids, source, problems)
    everything = bool(keep.all())
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    found, notes = [], []
    for reading in readings:
        if reading.target:
            column = ids if reading.kind == "id" else table[reading.source]
            column = column if everything else column.filter(pa.array(keep))
            columns[reading.target], reading, said = _converted(column, reading)
            notes += said
        found.append(reading)
    if "title" in columns and (missing := columns["title"].null_count):
        notes.append(f"{missing:,} of {len(columns['title']):,} items have no title")
    order = [name for name in _FIRST if name in columns]
    order += [name for name in columns if name not in order]
    return pa.table({name: columns[name] for name in order}), found, notes


def _usable(ids: pa.ChunkedArray, source: Source, problems: Problems) -> np.ndarray:
    """bool [rows]: the first row of each id."""
    missing = ids.is_null().to_numpy()
    rows = np.flatnonzero(missing)
    problems.add("items without an id", len(rows), (source.place(int(row)) for row in rows))
    codes = ids.combine_chunks().dictionary_encode()
    numbers = codes.indices.fill_null(-1).to_numpy()
    keep = np.zeros(len(numbers), dtype=bool)
    keep[np.unique(numbers, return_index=True)[1]] = True
    keep &= ~missing
    again = np.flatnonzero(~keep & ~missing)
    examples = (f"{source.place(int(row))} ({codes.dictionary[numbers[row]].as_py()!r})" for row in again)
    problems.add("rows of an item id that occurred above", len(again), examples)
    return keep


def _converted(column: pa.ChunkedArray, reading: Reading) -> tuple[pa.ChunkedArray | pa.Array, Reading, list[str]]:
    if reading.kind in ("id", "native"):
        return column, reading, []
    column, notes = _without_nothing(column, reading)
    if reading.kind == "price":
        prices, reading, said = _prices(column, reading)
        return prices, reading, notes + said
    if reading.kind == "number":
        numbers = _numbers(column)
        if numbers is not None:
            return numbers, reading, notes
        reading = replace(reading, kind="text", how="text")
    return _texts(column, _reader(reading)), reading, notes


def _without_nothing(column: pa.ChunkedArray, reading: Reading) -> tuple[pa.ChunkedArray, list[str]]:
    """A column of text with nulls where it says that there is no value, and a remark if it does."""
    if not is_text(column.type):
        return column, []
    texts = pc.utf8_trim_whitespace(column)
    no_value = pc.fill_null(pc.is_in(texts, value_set=pa.array(NOTHING[1:])), False)
    count = pc.sum(no_value).as_py() or 0
    if not count:
        return column, []
    examples = ", ".join(map(repr, texts.filter(no_value).unique().to_pylist()[:3]))
    return pc.if_else(no_value, None, column), [
        f"{count:,} of {reading.source!r} say that there is no value ({examples}): left empty"
    ]


def _reader(reading: Reading) -> Callable[[object], str]:
    """From a value of a column of text to its text."""
    if reading.kind == "image":
        return lambda value: first_url(str(value)) or ""
    if reading.kind == "url":
        return lambda value: str(value).strip()
    separator = ", "
    if reading.kind == "categories":
        separator = " > " if is_path_name(reading.source) else " | "

    def read(value: object) -> str:
        if isinstance(value, str):
            parts = parse_list(value)
            text = clean_text(value) if parts is None else join_list(parts, separator)
        else:
            text = join_list(value, separator)
        return re.sub(r"\s*>\s*", " > ", text).strip(" >") if reading.kind == "categories" else text

    return read


def _texts(column: pa.ChunkedArray, read: Callable[[object], str]) -> pa.ChunkedArray:
    def batches() -> Iterator[pa.Array]:
        for chunk in column.chunks:
            for start in range(0, len(chunk), _BATCH):
                values = chunk[start : start + _BATCH].to_pylist()
                yield pa.array([(read(value) or None) if value is not None else None for value in values], pa.string())

    return pa.chunked_array(batches(), pa.string())


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column of numbers, whole ones as such; None: some value is no number."""
    kind = column.type
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if not is_text(kind):
        return column
    texts = pc.utf8_trim_whitespace(column)
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    if pc.any(pc.match_substring_regex(texts, r"^[-+]?0\d|^\+")).as_py():
        return None  # 007 is a code
    for wanted in (pa.int64(), pa.float64()):
        try:
            return texts.cast(wanted)
        except pa.ArrowInvalid:
            pass
    return None


def _prices(column: pa.ChunkedArray, reading: Reading) -> tuple[pa.ChunkedArray | pa.Array, Reading, list[str]]:
    if not is_text(column.type):
        values = column.cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), None, values)
        are_prices = pc.and_(pc.greater_equal(values, 0), pc.is_finite(values))
        unread = values.filter(pc.invert(are_prices)).to_pylist()
        return pc.if_else(are_prices, values, None), reading, _unread_prices(unread, reading)
    texts = [text.strip() or None if text is not None else None for text in column.to_pylist()]
    prices = parse_prices(texts)
    notes = _unread_prices([text for text, price in zip(texts, prices) if text is not None and price is None], reading)
    if len(named := currencies(texts)) > 1:
        notes.append(f"{reading.source!r} has prices in {', '.join(sorted(named))}: not converted")
    return pa.array(prices, pa.float64()), reading, notes


def _unread_prices(values: list, reading: Reading) -> list[str]:
    if not values:
        return []
    examples = ", ".join(map(repr, dict.fromkeys(values[:100])))[:80]
    return [f"{len(values):,} values of {reading.source!r} are no prices, such as {examples}: left empty"]
