"""Problems of the tables that are imported: counted, with examples, and told all at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from tiger.utils.errors import DataError

MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """Rows that can't be used.

    Args:
        kind: such as ``"events without a user"``.
        count: how many there are.
        examples: up to three, each with file and row.
        hint: what may be the cause, or empty.
    """

    kind: str
    count: int
    examples: list[str]
    hint: str = ""

    def __str__(self) -> str:
        more = "; ..." if self.count > len(self.examples) else ""
        return f"{self.count:,} {self.kind}: {'; '.join(self.examples)}{more}{'. ' + self.hint if self.hint else ''}"


class ImportProblems(DataError):
    """All that stands in the way of an import.

    Attributes:
        lines: one a problem.
        remedy: what to do.
    """

    def __init__(self, lines: Sequence[str], remedy: str):
        super().__init__(" | ".join([*lines, remedy]))
        self.lines, self.remedy = list(lines), remedy


class Problems:
    """Problems met so far; those that no row can be left out for stand in ``fatal``."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self.fatal: list[str] = []

    def add(self, kind: str, count: int, examples: Iterable[str], hint: str = "") -> None:
        """Note rows that can't be used, if there are any."""
        if count:
            self.found.append(Problem(kind, int(count), list(islice(examples, MAX_EXAMPLES)), hint))

    @property
    def dropped(self) -> dict[str, int]:
        """Number of rows by the kind of problem."""
        return {problem.kind: problem.count for problem in self.found}

    def check(self, drop_unknown: bool = False) -> None:
        """Raise an error with all problems, if there are any.

        Args:
            drop_unknown: only those that no row can be left out for.

        Raises:
            ImportProblems: see above.
        """
        if self.fatal:
            raise ImportProblems([*self.fatal, *map(str, self.found)], "Mend this and run it again.")
        if self.found and not drop_unknown:
            remedy = "Mend the files, or run it again with --drop-unknown, which leaves these rows out."
            raise ImportProblems(list(map(str, self.found)), remedy)
