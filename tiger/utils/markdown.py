"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[object], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table; its first ``left`` columns are text, the others numbers, which stand to the right.

    Example:
        >>> print(markdown_table(["model", "recall"], [["hybrid", 0.1045]]))
        | model | recall |
        | --- | ---: |
        | hybrid | 0.1045 |
    """
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (heads, rule, *rows))
