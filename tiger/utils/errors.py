"""The error for input that the user can fix, and how others are told within it."""

from __future__ import annotations


class DataError(ValueError):
    """Input that can't be used: the message names the file, the column or row, and the remedy."""


def first_line(error: Exception | str) -> str:
    """The first line of what an error says; of one that says nothing, its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
