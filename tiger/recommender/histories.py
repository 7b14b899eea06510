"""Histories as users give them, item ids with the times of their events, as rows of a catalog."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tiger.data.readers import MAX_SECONDS
from tiger.data.sequences import Sequences
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

Times = Sequence[Sequence[int] | None]  # seconds of each event, a list per history; None: unknown
Moments = int | Sequence[int | None]  # seconds, of all histories or of each


def read_times(lengths: Sequence[int], timestamps: Times | None, name: str = "timestamps") -> list[np.ndarray]:
    """Times of the events of each history, int64 [events] each; 0: unknown.

    Args:
        lengths: of each history, the number of its items.
        timestamps: seconds since 1970, a list per history, one for each item, oldest first; None: unknown.
        name: what error messages call them.

    Raises:
        DataError: there are more or fewer lists than histories, or times than items; they are no whole seconds, before
            1970, too far ahead, or a later item has an earlier time.
    """
    given = [None] * len(lengths) if timestamps is None else list(timestamps)
    if len(given) != len(lengths):
        raise DataError(f"{name}: {len(given)} lists for {len(lengths)} histories. Give one, or None, for each.")
    return [
        times_of_history(times, length, f"{name}, row {row}")
        for row, (times, length) in enumerate(zip(given, lengths))
    ]


def times_of_history(times: Sequence[int] | None, length: int, where: str) -> np.ndarray:
    """Times of a history's events, int64 [length], checked.

    Args:
        times: seconds since 1970, oldest first; None: unknown, which is 0 for each.
        length: how many items the history has.
        where: what error messages begin with.

    Raises:
        DataError: see :func:`read_times`.
    """
    if times is None:
        return np.zeros(length, dtype=np.int64)
    if isinstance(times, (str, bytes, int, float)):
        raise DataError(f"{where}: {times!r} is no list of seconds. Give a list, one time for each item.")
    times = list(times)
    if len(times) != length:
        raise DataError(f"{where}: {len(times)} times for {length} items. Give one for each item.")
    for time in times:
        _check_seconds(time, where)
    found = np.array(times, dtype=np.int64)
    if (found[1:] < found[:-1]).any():
        place = int(np.argmax(found[1:] < found[:-1]))
        raise DataError(f"{where}: {found[place + 1]} comes after {found[place]}. Give items and times oldest first.")
    return found


def read_moments(at: Moments | None, times: Sequence[np.ndarray], name: str = "at") -> np.ndarray | None:
    """When recommendations are wanted after each history, int64 [histories]; 0, or None: nobody said.

    Args:
        at: seconds since 1970, for all histories or for each; None: nobody says.
        times: of each history's events, see :func:`read_times`.
        name: what error messages call it.

    Raises:
        DataError: there are more or fewer than histories, it is no time, or one is before the history's last event.
    """
    if at is None:
        return None
    if isinstance(at, (str, bytes)):
        raise DataError(f"{name}: {at!r} is no time. Give whole seconds since 1970.")
    moments: list[Any] = list(at) if isinstance(at, Iterable) else [at] * len(times)
    if len(moments) != len(times):
        raise DataError(f"{name}: {len(moments)} times for {len(times)} histories. Give one, or None, for each.")
    for row, (moment, own) in enumerate(zip(moments, times)):
        check_moment(moment, own, f"{name}, row {row}")
    return np.array([moment or 0 for moment in moments], dtype=np.int64)


def check_moment(moment: int | None, times: np.ndarray, where: str) -> None:
    """
    Args:
        moment: seconds at which recommendations are wanted after a history; None: nobody said.
        times: of the history's events.
        where: what error messages begin with.

    Raises:
        DataError: it is no time, or before the history's last event.
    """
    if moment is not None:
        _check_seconds(moment, where)
        if len(times) and moment < times[-1]:
            raise DataError(f"{where}: {moment} is before the history's last event, {times[-1]}. Leave it out.")


def known_histories(
    tokenizer: SemanticIdTokenizer,
    histories: Sequence[Sequence[str]],
    timestamps: Times | None = None,
    at: Moments | None = None,
) -> Sequences:
    """Rows and times of the histories; items unknown to the catalog are named in a warning and left out.

    Args:
        histories: item ids, oldest first.
        timestamps, at: see :func:`read_times` and :func:`read_moments`.

    Raises:
        DataError: times that don't fit.
    """
    times = read_times([len(history) for history in histories], timestamps)
    moments = read_moments(at, times)
    rows = [tokenizer.rows(history, missing=-1) for history in histories]
    unknown = [item for ids, known in zip(histories, rows) for item, row in zip(ids, known) if row < 0]
    if unknown:
        names = ", ".join(repr(item) for item in dict.fromkeys(unknown[:5]))
        more = ", ..." if len(set(unknown)) > len(set(unknown[:5])) else ""
        # The stack level is that of who called the recommender.
        warnings.warn(f"items unknown and left out of the histories: {names}{more}", stacklevel=3)
    kept = Sequences.from_rows([known[known >= 0] for known in rows])
    if not len(kept.items):
        return replace(kept, at=moments)
    of_known = np.concatenate([own[known >= 0] for own, known in zip(times, rows)])
    return replace(kept, timestamps=of_known, at=moments)


def _check_seconds(time: Any, where: str) -> None:
    if isinstance(time, (bool, np.bool_)) or not isinstance(time, (int, np.integer)):
        raise DataError(f"{where}: {str(time)[:40]!r} is no time. Give whole seconds since 1970.")
    if time < 0:
        raise DataError(f"{where}: {time} is before 1970. Correct it, or give no times.")
    if time > MAX_SECONDS:
        shown = str(time)[:40]
        raise DataError(
            f"{where}: {shown} is thousands of years ahead: times are seconds. Divide milliseconds by 1000."
        )
