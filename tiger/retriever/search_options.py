"""Search options: defaults, limits and help texts, shared by the library, the command line, the service and the app.

Imports no torch, so that ``tiger --help`` can print them at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from tiger.utils.errors import DataError

MAX_BEAMS = 1_000_000  # more would be a slip: their arrays alone take gigabytes
MIN_TEMPERATURE = 1e-3  # below, log-probabilities divided by it leave float32


def _option(default: Any, help: str, kind: type, minimum: float | None = None, maximum: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "kind": kind, "minimum": minimum, "maximum": maximum})


def check_value(name: str, value: Any, kind: type, minimum: float | None = None, maximum: float | None = None) -> None:
    """Refuse a value of another type, or out of range.

    Args:
        name: what error messages call it.
        kind: ``int``, ``float`` (a finite one) or ``bool``; NumPy's own of each will do.

    Raises:
        DataError: it is none of these, or out of range.
    """
    truth = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # NumPy's, without importing it
    if kind is bool:
        fits, what = truth, "True or False"
    elif kind is int:
        fits, what = isinstance(value, Integral) and not truth, "a whole number"
    else:
        fits, what = isinstance(value, Real) and not truth and math.isfinite(value), "a finite number"
    if not fits:
        raise DataError(f"{name} must be {what}, got {value!r}.")
    if minimum is not None and value < minimum:
        raise DataError(f"{name} must be at least {minimum}, got {value}.")
    if maximum is not None and value > maximum:
        raise DataError(f"{name} must be at most {maximum}, got {value}.")


@dataclass(frozen=True)
class SearchOptions:
    """Options of the retriever's search. Each field's help text and minimum are in its ``metadata``.

    Args:
        num_beams: candidates kept while decoding; more find better items and take longer.
        exclude_history: leave out items of the history.
        temperature: None: the most probable items; a number: a sample without replacement, more varied the higher.
        seed: seed of sampling.
        batch_size: histories decoded together; None: 64 on a CPU, 1,024 on a GPU, fewer with over 50 beams.
        memory: mix in the recommender's memory, where it has one; False: the T5 alone.
        bf16: matrix products in bfloat16 or not; None: on a GPU that has it, else as ``torch.autocast`` says.
        progress: show a progress bar.

    Raises:
        DataError: a value is of another type, or out of range.
    """

    num_beams: int = _option(
        50, "candidates kept while decoding; more find better items and take longer", int, 1, MAX_BEAMS
    )
    exclude_history: bool = _option(True, "leave out items of the history", bool)
    temperature: float | None = _option(
        None, "sample items, more varied the higher; by default, the most probable ones", float, MIN_TEMPERATURE
    )
    seed: int | None = _option(None, "seed of sampling", int, 0, 2**63 - 1)
    batch_size: int | None = _option(None, "histories decoded together; by default 64 on a CPU, 1024 on a GPU", int, 1)
    memory: bool = _option(True, "mix in what followed in the log, where the model has a memory", bool)
    bf16: bool | None = _option(None, "matrix products in bfloat16; by default on a GPU that has it", bool)
    progress: bool = _option(False, "show a progress bar", bool)

    def __post_init__(self):
        for one in fields(self):
            value, rule = getattr(self, one.name), one.metadata
            if value is not None or one.default is not None:
                check_value(one.name, value, rule["kind"], rule["minimum"], rule["maximum"])


def option_help(name: str) -> str:
    """The help text of an option."""
    return SearchOptions.__dataclass_fields__[name].metadata["help"]


def option_default(name: str) -> Any:
    """The default of an option."""
    return SearchOptions.__dataclass_fields__[name].default
