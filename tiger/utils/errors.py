"""The error for input that the user can fix."""

from __future__ import annotations


class DataError(ValueError):
    """Input that can't be used: the message names the file, the column or row, and the remedy."""
