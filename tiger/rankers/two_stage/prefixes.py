"""Groups of items by the first codes of their semantic IDs, to which items can be added."""

from __future__ import annotations

import copy

import numpy as np

from tiger.semantic_ids.packing import Packing
from tiger.utils.growing import Growing

_BITS = 60  # of all codes of an item together, as many as a semantic ID may have


class PrefixGroups:
    """Items that share their first codes. Never changed in place: :meth:`extended` returns another one.

    Args:
        codes: int [items, levels].
        length: number of codes of a prefix.

    Attributes:
        counts: int64 [groups], items of each.
    """

    def __init__(self, codes: np.ndarray, length: int):
        self._length = length
        self._keys, groups, self.counts = np.unique(_packed(codes, length), return_inverse=True, return_counts=True)
        self._groups, self._numbers = Growing(groups), np.arange(len(self._keys))

    @property
    def groups(self) -> np.ndarray:
        """int64 [items]: the group of each."""
        return self._groups.values

    def extended(self, codes: np.ndarray) -> PrefixGroups:
        """With more items, int [m, levels] codes; prefixes that none has had become groups behind the others."""
        keys, grown = _packed(codes, self._length), copy.copy(self)
        near = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        fresh = np.unique(keys[self._keys[near] != keys])
        if len(fresh):
            at = np.searchsorted(self._keys, fresh)
            grown._keys = np.insert(self._keys, at, fresh)
            grown._numbers = np.insert(self._numbers, at, len(self.counts) + np.arange(len(fresh)))
        groups = grown._numbers[np.searchsorted(grown._keys, keys)]
        grown._groups = self._groups.append(groups)
        grown.counts = np.append(self.counts, np.zeros(len(fresh), dtype=np.int64))
        np.add.at(grown.counts, groups, 1)
        return grown


def _packed(codes: np.ndarray, length: int) -> np.ndarray:
    """uint64 [items]: the first ``length`` codes as one number, in the order of the tuples."""
    levels = codes.shape[1]
    packing = Packing(levels, 1 << _BITS // levels)
    return packing.pack_codes(codes) >> packing.bits_below(length - 1)
