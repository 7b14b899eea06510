"""Filters of events: exact repeats, and users and items with few events."""

from __future__ import annotations

import numpy as np


def first_occurrences(users: np.ndarray, items: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """bool [events]: not a repeat of an earlier row with the same user, item and time."""
    order = np.lexsort((timestamps, items, users))  # stable: of equal rows, the first of the file comes first
    repeated = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in (users, items, timestamps):
        values = column[order]
        repeated &= values[1:] == values[:-1]
    keep = np.ones(len(order), dtype=bool)
    keep[order[1:][repeated]] = False
    return keep


def core_filter(users: np.ndarray, items: np.ndarray, core: int) -> np.ndarray:
    """bool [events]: events of users and items that have ``core`` events or more among the events kept.

    Dropping an item's events can put a user below the limit, and the other way round, so it is repeated until
    nothing changes. ``users`` and ``items`` are int [events], numbers from 0.
    """
    keep = np.ones(len(users), dtype=bool)
    if len(users) == 0:
        return keep
    num_users, num_items = int(users.max()) + 1, int(items.max()) + 1
    while True:
        users_stay = np.bincount(users[keep], minlength=num_users) >= core
        items_stay = np.bincount(items[keep], minlength=num_items) >= core
        fewer = keep & users_stay[users] & items_stay[items]
        if fewer.sum() == keep.sum():
            return keep
        keep = fewer
