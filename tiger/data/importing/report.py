"""The result of an import: counts, and how each column was read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tiger.data.importing.columns import Reading


@dataclass(frozen=True)
class ImportReport:
    """Counts of an import, and the readings of its columns.

    Args:
        out: the dataset directory.
        users, items, events: rows of the dataset.
        trainable_users: users with three events or more; the others' events train no sequence.
        first, last: seconds of the first and the last event.
        repeats: share of the events whose user had met their item before.
        duplicates: events with user, item and time of another; they are kept.
        item_columns, event_columns: how each column was read.
        dropped: rows left out, by the kind of problem.
        notes: remarks on files and columns.
    """

    out: str
    users: int
    items: int
    events: int
    trainable_users: int
    first: int
    last: int
    repeats: float
    duplicates: int
    item_columns: list[Reading]
    event_columns: list[Reading]
    dropped: dict[str, int]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        first, last = (datetime.fromtimestamp(second, UTC).date().isoformat() for second in (self.first, self.last))
        few = self.users - self.trainable_users
        return "\n".join(
            [
                f"{self.users:>12,} {_plural('user', self.users)}"
                + (f", {few:,} of them with fewer than 3 events" if few else ""),
                f"{self.items:>12,} {_plural('item', self.items)}",
                f"{self.events:>12,} {_plural('event', self.events)} from {first} to {last}, "
                f"{self.repeats:.1%} of items met before",
                *(
                    [f"{self.duplicates:>12,} of them repeat user, item and time of another"]
                    if self.duplicates
                    else []
                ),
                *([f"{'':>13}no user has 3 events: too few to train on"] if not self.trainable_users else []),
                *(f"{count:>12,} left out: {kind}" for kind, count in self.dropped.items()),
            ]
        )


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def describe(name: str, readings: list[Reading]) -> list[str]:
    """Lines that say how the columns of a table are read; those left out without a reason on one."""
    silent = [reading.source for reading in readings if not reading.target and not reading.how]
    lines = [f"{name}:", *(f"  {reading}" for reading in readings if reading.target or reading.how)]
    return lines + ([f"  left out: {', '.join(silent)}"] if silent else [])
