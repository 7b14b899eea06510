"""Repeat purchases: their share among the next items, and whether answers should hold items of the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut

# Where hardly anything repeats, keeping the history costs a seventh of the hits (Beauty: R@10 .0881 removed, .0761
# kept). A repeat is found two to three times as easily as another item, so one target in twenty makes up for it.
KEEP_FROM = 0.05


def repeat_share(histories: Sequences, targets: np.ndarray) -> float:
    """Return the share of targets, int [n], that stand in their own history; 0 without targets.

    Example::

        repeat_share(*split.part("test"))
    """
    if not len(targets):
        return 0.0
    again = np.zeros(len(targets), dtype=bool)
    again[histories.users[histories.items == np.repeat(targets, histories.lengths)]] = True
    return float(again.mean())


def excludes_history(
    split: LeaveOneOut, wanted: bool | None = None, training: Mapping[str, Any] | None = None
) -> bool:
    """Decide whether answers leave out items of the history.

    Args:
        split: of the log; its validation items decide, so that the test has no say.
        wanted: what the caller asks for; None: leave them out where fewer than one validation item in twenty stands in
            its own history.
        training: what is recorded of a model's training; what was decided for it holds for all that is built on it.
            Models from before repeats were looked for don't say.
    """
    if wanted is None:
        wanted = (training or {}).get("exclude_history")
    return repeat_share(*split.next_items) < KEEP_FROM if wanted is None else wanted


def repeats_in_words(split: LeaveOneOut, exclude_history: bool) -> str:
    """Say how much of a log repeats, and what is made of it, in one line."""
    share = repeat_share(*split.next_items)
    done = "left out of" if exclude_history else "kept in"
    return f"{share:.1%} of the next items are in the history already: items of the history are {done} the answers"
