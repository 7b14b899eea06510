"""Item ids of a catalog in 31 bytes each, and their rows by binary search; ids come and go without a copy of all."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK = 1 << 16
_FEW = 256  # ids that are looked up one by one: below it, that is faster than Arrow
# All is laid out anew when the ids that came and went since are a sixteenth: they cost 120 bytes each, not 31.
_CHANGED = 16


class _Table:
    """Ids in Arrow's memory, with their hashes in ascending order. Python's hash of a text differs between processes:
    nobody can choose ids that share one.

    Args:
        values: the ids, none null.
    """

    def __init__(self, values: pa.LargeStringArray):
        self.values = values
        parts = (values[start : start + _CHUNK].to_pylist() for start in range(0, len(values), _CHUNK))
        keys = np.fromiter((hash(item) for part in parts for item in part), np.int64, len(values))
        self.rows = np.argsort(keys, kind="stable").astype(np.int32)
        self.keys = keys[self.rows]

    def __reduce__(self) -> tuple[type[_Table], tuple[pa.LargeStringArray]]:
        """Copy and pickle by the ids: another process has other hashes."""
        return _Table, (self.values,)

    def find(self, item_ids: Sequence[str]) -> np.ndarray:
        """int64 [n]: rows of ids; -1 where there is none."""
        keys = np.fromiter(map(hash, item_ids), np.int64, len(item_ids))
        found = np.full(len(keys), -1)
        left, place = np.arange(len(keys)), np.searchsorted(self.keys, keys)
        while len(left):  # again where an id has the hash of another
            same = place < len(self.keys)
            same[same] = self.keys[place[same]] == keys[left[same]]
            left, place = left[same], place[same]
            rows = self.rows[place]
            equal = self._equal(rows, [item_ids[at] for at in left.tolist()] if len(left) < len(keys) else item_ids)
            found[left[equal]] = rows[equal]
            left, place = left[~equal], place[~equal] + 1
        return found

    def _equal(self, rows: np.ndarray, item_ids: Sequence[Any]) -> np.ndarray:
        """bool [n]: whether these rows have these ids."""
        if len(rows) < _FEW or not all(isinstance(item, str) for item in item_ids):
            return np.array(
                [self.values[row].as_py() == item for row, item in zip(rows.tolist(), item_ids)], dtype=bool
            )
        return pc.equal(self.values.take(pa.array(rows)), pa.array(item_ids, pa.large_string())).to_numpy(False)


class ItemIds(Sequence[str]):
    """Distinct ids of items by row: reads as a list of strings. Never changed in place.

    Args:
        item_ids: strings, or an Arrow array of them.
    """

    def __init__(self, item_ids: Iterable[str] | pa.Array | pa.ChunkedArray):
        if isinstance(item_ids, pa.ChunkedArray):
            item_ids = item_ids.combine_chunks()
        if not isinstance(item_ids, pa.Array):
            item_ids = pa.array(item_ids if isinstance(item_ids, list) else list(item_ids), pa.large_string())
        self._table = _Table(item_ids.cast(pa.large_string()))
        self._names: list[str] = []  # those that came since: their numbers are behind the table's
        self._added: dict[str, int] = {}
        self._numbers: np.ndarray | None = None  # int32 [n]: the number of each row, where some have gone
        self._rows: np.ndarray | None = None  # int32: the row of each number; -1: gone

    @property
    def first_repeated(self) -> str | None:
        """An id that is there twice; None: all are distinct."""
        keys, rows = self._table.keys, self._table.rows
        for place in np.flatnonzero(keys[1:] == keys[:-1]):
            if self._table.values[int(rows[place])] == self._table.values[int(rows[place + 1])]:
                return self._table.values[int(rows[place])].as_py()
        return None

    def __len__(self) -> int:
        return len(self._table.values) + len(self._names) if self._numbers is None else len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place]).to_pylist()
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)} items")
        number = place % len(self)
        number = int(number if self._numbers is None else self._numbers[number])
        known = len(self._table.values)
        return self._table.values[number].as_py() if number < known else self._names[number - known]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            yield from self[start : start + _CHUNK]

    def __contains__(self, item: object) -> bool:
        return isinstance(item, str) and self.rows([item])[0] >= 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ItemIds):
            return self is other or len(self) == len(other) and self.to_arrow().equals(other.to_arrow())
        if isinstance(other, (pa.Array, pa.ChunkedArray)):
            return len(self) == len(other) and pa.chunked_array([self.to_arrow()]).equals(_as_chunks(other))
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(one == item for one, item in zip(self, other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as lists have none

    def __add__(self, others: Sequence[str]) -> list[str]:
        return [*self, *others]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self):,} item ids: {shown}{', ...' if len(self) > 3 else ''}>"

    def to_arrow(self) -> pa.LargeStringArray:
        """All ids."""
        return self._table.values if not self._added and self._numbers is None else self.take(np.arange(len(self)))

    def take(self, rows: np.ndarray) -> pa.LargeStringArray:
        """The ids of these rows, int [m]."""
        numbers = rows if self._numbers is None else self._numbers[rows]
        known = len(self._table.values)
        found = self._table.values.take(pa.array(np.minimum(numbers, known - 1)))
        if not self._names:
            return found
        new = pa.array(self._names, pa.large_string()).take(pa.array(np.maximum(numbers - known, 0)))
        return pc.if_else(pa.array(numbers < known), found, new)

    def rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """int64 [n]: rows of ids; -1 where there is none."""
        item_ids = item_ids if isinstance(item_ids, list) else list(item_ids)
        numbers = self._table.find(item_ids)
        if self._added:
            known = len(self._table.values)
            added = [self._added.get(item, -1) for item in item_ids]
            numbers = np.where(np.array(added, dtype=np.int64) >= 0, known + np.array(added, dtype=np.int64), numbers)
        return numbers if self._rows is None else np.where(numbers < 0, -1, self._rows[numbers]).astype(np.int64)

    def append(self, item_ids: Sequence[str]) -> ItemIds:
        """With these ids behind the others, none of which is there."""
        item_ids = list(item_ids)
        back = any(item in self._added for item in item_ids)  # it had gone: its number is another one now
        if back or self._is_changed(len(item_ids)):
            return ItemIds(pa.concat_arrays([self.to_arrow(), pa.array(item_ids, pa.large_string())]))
        grown, known = copy.copy(self), len(self._table.values) + len(self._names)
        grown._names = self._names + item_ids
        grown._added = self._added | {item: at for at, item in enumerate(item_ids, start=len(self._names))}
        if self._numbers is not None and self._rows is not None:
            new = np.arange(known, known + len(item_ids), dtype=np.int32)
            grown._numbers = np.append(self._numbers, new)
            grown._rows = np.append(self._rows, np.arange(len(self), len(self) + len(item_ids), dtype=np.int32))
        return grown

    def keep(self, rows: np.ndarray) -> ItemIds:
        """The ids of these rows alone, int [m], ascending."""
        if self._is_changed(len(self) - len(rows)):
            return ItemIds(self.take(rows))
        kept, numbers = copy.copy(self), len(self._table.values) + len(self._names)
        own = np.arange(len(self), dtype=np.int32) if self._numbers is None else self._numbers
        kept._numbers = own[rows]
        kept._rows = np.full(numbers, -1, dtype=np.int32)
        kept._rows[kept._numbers] = np.arange(len(rows), dtype=np.int32)
        return kept

    def _is_changed(self, count: int) -> bool:
        """Whether, with so many more changes, all is to be laid out anew."""
        gone = 0 if self._rows is None else int((self._rows < 0).sum())
        return (count + len(self._names) + gone) * _CHANGED > len(self._table.values)


def _as_chunks(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    chunks = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    return chunks.cast(pa.large_string())
