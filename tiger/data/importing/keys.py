"""The columns that name the item in both tables: by their names, and by whether their values meet."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.importing.identifiers import can_be_ids, id_texts
from tiger.data.importing.names import ITEM_NAMES, named

_MANY = 0.5


@dataclass(frozen=True)
class Keys:
    """Columns of the item ids.

    Args:
        item: in the item table; None: there is none.
        event: in the log; None: there is none.
        guessed: whether the values had to tell, as the names did not.
    """

    item: str | None
    event: str | None
    guessed: bool = False


def find_keys(items: pa.Table, events: pa.Table, item: str | None = None, event: str | None = None) -> Keys:
    """Find the pair of columns that item and event share.

    Of the columns whose names say that they hold item ids, the first pair in which most ids of the log are items;
    where there is none, of all columns.

    Args:
        items: the item table.
        events: the first rows of the log.
        item, event: columns that are known.
    """
    left = [item] if item else named(items.column_names, ITEM_NAMES["item_id"])
    right = [event] if event else named(events.column_names, ITEM_NAMES["item_id"])
    found = _best(items, events, left, right)
    if found and found[2] >= _MANY:
        return Keys(*found[:2])
    tables = ((items, [item] if item else items.column_names), (events, [event] if event else events.column_names))
    every = _best(items, events, *([c for c in names if can_be_ids(table[c].type)] for table, names in tables))
    if every and every[2] >= _MANY:
        return Keys(*every[:2], guessed=True)
    if found and found[2] > 0:
        return Keys(*found[:2])
    return Keys(left[0] if left else None, right[0] if right else None)


def _best(items: pa.Table, events: pa.Table, left: list[str], right: list[str]) -> tuple[str, str, float] | None:
    """The first pair of columns of which at least half of the ids meet, else the one of which most do."""
    best: tuple[str, str, float] | None = None
    known = {name: id_texts(items[name]) for name in left if can_be_ids(items[name].type)}
    for name in right:
        if not can_be_ids(events[name].type):
            continue
        ids = id_texts(events[name]).drop_null().unique()
        for own, values in known.items():
            # An item has one id, or nearly: a column of few values meets others by chance.
            if len(values) == 0 or len(values.unique()) < _MANY * len(values):
                continue
            share = (pc.sum(pc.is_in(ids, value_set=values.combine_chunks())).as_py() or 0) / max(len(ids), 1)
            if best is None or share > best[2]:
                if best is None or best[2] < _MANY:
                    best = own, name, share
    return best
