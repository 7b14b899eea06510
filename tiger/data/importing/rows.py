"""Row numbers of a file in which some rows were skipped."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class RowNumbers:
    """From the place of a row among those that were read to its number in the file.

    Args:
        skipped: numbers of rows that were not read, from 1, ascending.
        bad: of those that can't be read, the number of the row and the reason; the first three.
        num_bad: how many there are.
    """

    skipped: list[int] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    num_bad: int = 0

    def skip(self, row: int, reason: str = "") -> None:
        """Note that a row was left out; with a reason, that it can't be read."""
        self.skipped.append(row)
        if reason:
            self.num_bad += 1
            if len(self.bad) < 3:
                self.bad.append((row, reason))

    def row(self, place: int) -> int:
        """Number of a row, from 1.

        Args:
            place: from 0, among the rows that were read.
        """
        before = np.asarray(self.skipped, dtype=np.int64) - np.arange(len(self.skipped))
        return place + 1 + int(np.searchsorted(before, place + 1, side="right"))
