"""Columns of the item table as JSON, for answers."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError

MAX_BYTES = 8 * 2**20  # of the columns in one answer: twice a request's largest body. Not tuned.


class UnknownColumn(DataError):
    """A column that the item table lacks."""


class TooMuch(DataError):
    """The columns that were asked for are too large for one answer."""


def item_columns(
    recommender: TigerRecommender, lists: Sequence[Sequence[str]], columns: Sequence[str] | None = None
) -> list[list[dict[str, Any]]]:
    """Values of columns for each item of each list, in JSON's types.

    Args:
        lists: item ids of the catalog.
        columns: names; None: all but ``item_id``.

    Raises:
        UnknownColumn: there is no such column.
        TooMuch: the values take more than :data:`MAX_BYTES`.
    """
    state = recommender.state
    table = state.items
    known = [] if table is None else [name for name in table.column_names if name != "item_id"]
    columns = known if columns is None else list(dict.fromkeys(columns))
    if unknown := [name for name in columns if name not in known]:
        there = f"it has {', '.join(known[:20])}" if known else "it has none: the recommender was saved without texts"
        raise UnknownColumn(f"the item table has no column {unknown[0][:100]!r}: {there}.")
    if table is None or not columns:
        return [[{} for _ in items] for items in lists]
    chosen, size, found = table.select(columns), 0, []
    for items in lists:
        part = chosen.take(pa.array(state.tokenizer.rows(list(items))))
        size += part.nbytes
        if size > MAX_BYTES:
            raise TooMuch(f"these fields take more than {MAX_BYTES} bytes: ask for fewer, or for fewer items.")
        found.append([{name: _plain(value) for name, value in row.items()} for row in part.to_pylist()])
    return found


def _plain(value: Any) -> Any:
    """A value in JSON's types: NaN and infinite numbers become null, times text in ISO form, bytes base64."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
