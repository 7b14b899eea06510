"""Arrays that grow at their end: appending a few rows to a million copies the few, not the million."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)
SPARE = 16  # a sixteenth of the rows, at least 1,024: memory against how often all is copied; not tuned
LEAST_SPARE = 1024


class _Buffer(Generic[Array]):
    def __init__(self, array: Array, used: int):
        self.array: Any = array
        self.used, self.lock = used, threading.Lock()


class Growing(Generic[Array]):
    """Rows, and room behind them. Never changed in place: :meth:`append` returns another one.

    Both may share a buffer, whose rows behind the first one's end belong to the first that appends; the second copies.
    Until something is appended, the array is the one that was given, without spare memory.

    Args:
        values: [n, ...], not written to.
    """

    def __init__(self, values: Array):
        self.values: Array = values
        self._buffer: _Buffer[Array] = _Buffer(values, len(values))

    @classmethod
    def empty_like(cls, values: np.ndarray) -> Growing[np.ndarray]:
        """Rows of the shape and type of ``values``, yet to be written, with room behind them from the start."""
        grown: Growing[np.ndarray] = object.__new__(Growing)
        grown._buffer = _Buffer(_with_room(values, len(values)), len(values))
        grown.values = grown._buffer.array[: len(values)]
        return grown

    def append(self, rows: Array) -> Growing[Array]:
        """The values and rows [m, ...] of their type behind them."""
        known, count = len(self.values), len(self.values) + len(rows)
        buffer, mine = self._buffer, False
        with buffer.lock:
            if buffer.used == known and count <= len(buffer.array):
                buffer.used, mine = count, True
        if not mine:
            buffer = _Buffer(_with_room(self.values, count), count)
            buffer.array[:known] = self.values
        # Through .data, a tensor's version counter, which the first shares, stays: none of its rows has changed.
        target: Any = buffer.array.data if isinstance(buffer.array, torch.Tensor) else buffer.array
        target[known:count] = rows
        grown: Growing[Array] = object.__new__(type(self))
        grown.values, grown._buffer = buffer.array[:count], buffer
        return grown

    def __reduce__(self) -> tuple[type[Growing[Array]], tuple[Array]]:
        """Copy and pickle by the values alone, without the room behind them."""
        return type(self), (self.values.clone() if isinstance(self.values, torch.Tensor) else self.values.copy(),)


def _with_room(values: Array, count: int) -> Array:
    """An uninitialized array of the type of ``values`` for ``count`` rows and some more."""
    shape = (count + max(count // SPARE, LEAST_SPARE), *values.shape[1:])
    if isinstance(values, torch.Tensor):
        return values.new_empty(shape)
    return np.empty(shape, values.dtype)
