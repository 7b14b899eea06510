"""The columns that name the item in both tables: by their names, and by whether their values meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.importing.identifiers import can_be_ids, id_texts
from tiger.data.importing.names import EVENT_NAMES, ITEM_NAMES, named

_MANY = 0.5
_OTHERS = ("user_id", "timestamp", "rating", "label")


@dataclass(frozen=True)
class Keys:
    """Columns of the item ids.

    Args:
        item: in the item table; None: there is none.
        event: in the log; None: there is none.
        guessed: those of the two that the values had to tell, as the names did not.
        complaint: why neither can be told, with a remedy, or empty.
    """

    item: str | None
    event: str | None
    guessed: frozenset[str] = frozenset()
    complaint: str = ""


def find_keys(items: pa.Table, events: pa.Table, given: Mapping[str, Mapping[str, str]]) -> Keys:
    """Find the pair of columns that item and event share.

    Of the columns whose names say that they hold item ids, the first pair in which most ids of the log are items;
    where there is none, of all columns but those that the names give to something else. Where several fit, nothing is
    guessed.

    Args:
        items: the item table.
        events: the first rows of the log.
        given: under ``items`` and ``events``, columns that the caller knows, by what they stand for.
    """
    item, event = (given[place].get("item_id") for place in ("items", "events"))
    left = [item] if item else named(items.column_names, ITEM_NAMES["item_id"])
    right = [event] if event else named(events.column_names, ITEM_NAMES["item_id"])
    right = [name for name in right if name == event or name not in given["events"].values()]
    shares = _shares(items, events, left, right)
    met = next((pair for pair, share in shares.items() if share >= _MANY), None)
    if met:
        return Keys(*met)
    other = {
        *given["events"].values(),
        *(name for kind in _OTHERS for name in named(events.column_names, EVENT_NAMES[kind])),
    }
    every = [name for name in items.column_names if name not in given["items"].values()]
    free = [name for name in events.column_names if name in right or name not in other]
    guess = _guess(_shares(items, events, [item] if item else every, [event] if event else free), left, right)
    if guess:
        return guess
    if shares and max(shares.values()) > 0:
        return Keys(*max(shares, key=lambda pair: shares[pair]))
    return Keys(left[0] if left else None, right[0] if right else None)


def _guess(shares: dict[tuple[str, str], float], left: list[str], right: list[str]) -> Keys | None:
    """The pair that meets, one of the named columns before others; None: there is none."""
    pairs = {pair: share for pair, share in shares.items() if share >= _MANY}
    pairs = {pair: share for pair, share in pairs.items() if pair[1] in right} or pairs
    pairs = {pair: share for pair, share in pairs.items() if pair[0] in left} or pairs
    if not pairs:
        return None
    events = list(dict.fromkeys(event for _, event in pairs))
    if len(events) > 1:
        return Keys(None, None, complaint=_unsure("log", events, "--event-item-id"))
    best = max(pairs.values())
    items = [item for (item, _), share in pairs.items() if share == best]
    if len(items) > 1:
        return Keys(None, None, complaint=_unsure("items", items, "--item-id"))
    return Keys(items[0], events[0], frozenset({items[0]} - {*left} | {events[0]} - {*right}))


def _unsure(place: str, columns: Iterable[str], option: str) -> str:
    first, *rest = columns
    user = f", or the one of users with --user-id {first}" if place == "log" else ""
    return (
        f"{' and '.join([first, *rest])} of the {place} hold ids of items alike, and no name says which is meant. "
        f"Name it with {option} {rest[-1]} (or another of them){user}."
    )


def _shares(items: pa.Table, events: pa.Table, left: list[str], right: list[str]) -> dict[tuple[str, str], float]:
    """Share of a log's ids that are items, by the columns of items and log; pairs in the order of the log's."""
    found = {}
    known = {name: id_texts(items[name]) for name in left if can_be_ids(items[name].type)}
    # An item has one id, or nearly: a column of few values meets others by chance.
    known = {name: ids for name, ids in known.items() if len(ids) and len(ids.unique()) >= _MANY * len(ids)}
    for name in right:
        if can_be_ids(events[name].type):
            ids = id_texts(events[name]).drop_null().unique()
            for own, values in known.items():
                met = pc.sum(pc.is_in(ids, value_set=values.combine_chunks())).as_py() or 0
                found[own, name] = met / max(len(ids), 1)
    return found
