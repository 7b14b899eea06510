"""Search options: defaults, limits and help texts, shared by the library, the command line, the service and the app.

Imports no torch, so that ``tiger --help`` can print them at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from tiger.utils.errors import DataError

MIN_TEMPERATURE = 1e-3  # below, log-probabilities divided by it leave float32


def _option(default: Any, help: str, minimum: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "minimum": minimum})


@dataclass(frozen=True)
class SearchOptions:
    """Options of the retriever's search. Each field's help text and minimum are in its ``metadata``.

    Args:
        num_beams: candidates kept while decoding; more find better items and take longer.
        exclude_history: leave out items of the history.
        temperature: None: the most probable items; a number: a sample without replacement, more varied the higher.
        seed: seed of sampling.
        batch_size: histories decoded together.
        progress: show a progress bar.

    Raises:
        DataError: a value is below its minimum.
    """

    num_beams: int = _option(50, "candidates kept while decoding; more find better items and take longer", 1)
    exclude_history: bool = _option(True, "leave out items of the history")
    temperature: float | None = _option(
        None, "sample items, more varied the higher; by default, the most probable ones", MIN_TEMPERATURE
    )
    seed: int | None = _option(None, "seed of sampling")
    batch_size: int = _option(64, "histories decoded together", 1)
    progress: bool = _option(False, "show a progress bar")

    def __post_init__(self):
        for one in fields(self):
            value, minimum = getattr(self, one.name), one.metadata["minimum"]
            if minimum is not None and value is not None and not value >= minimum:  # NaN is refused, too
                raise DataError(f"{one.name} must be at least {minimum}, got {value}.")


def option_help(name: str) -> str:
    """The help text of an option."""
    return SearchOptions.__dataclass_fields__[name].metadata["help"]


def option_default(name: str) -> Any:
    """The default of an option."""
    return SearchOptions.__dataclass_fields__[name].default
