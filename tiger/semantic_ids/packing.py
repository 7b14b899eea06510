"""Semantic IDs packed into one integer each, sorted, to look up items and prefixes by their codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiger.utils.errors import DataError


@dataclass(frozen=True)
class Packing:
    """Layout of codes and collision token in a uint64: the first code in the highest bits, the
    collision token in the lowest.

    Packed IDs sort as the tuples do.

    Raises:
        DataError: the codes of one item need more than 60 bits.
    """

    num_codebooks: int
    codebook_size: int

    def __post_init__(self):
        if 64 - self.bits * self.num_codebooks < 4:
            raise DataError(
                f"{self.num_codebooks} codes of {self.bits} bits and a collision token do not fit into 64 bits: "
                f"give num_codebooks={60 // self.bits} or less, or a smaller codebook_size."
            )

    @property
    def bits(self) -> int:
        """Of a code."""
        return max(1, (self.codebook_size - 1).bit_length())

    @property
    def collision_bits(self) -> int:
        return min(64 - self.bits * self.num_codebooks, 32)

    def bits_below(self, level: int) -> np.uint64:
        """Number of bits after those of a prefix that ends on ``level``."""
        if level == self.num_codebooks:
            return np.uint64(0)
        return np.uint64(self.collision_bits + self.bits * (self.num_codebooks - 1 - level))

    def pack(self, semantic_ids: np.ndarray) -> np.ndarray:
        """Semantic IDs, int [..., depth], as uint64 [...].

        Raises:
            DataError: a collision token needs more bits than the codes leave.
        """
        highest = int(semantic_ids[..., -1].max(initial=0))
        if highest >= 2**self.collision_bits:
            raise DataError(
                f"{highest + 1} items share their codes, more than {self.collision_bits} bits can tell apart"
            )
        return self.pack_codes(semantic_ids[..., :-1]) | semantic_ids[..., -1].astype(np.uint64)

    def pack_codes(self, codes: np.ndarray) -> np.ndarray:
        """Codes, int [..., num_codebooks], as :meth:`pack` does where the collision token is 0."""
        key = np.zeros(codes.shape[:-1], dtype=np.uint64)
        for level in range(self.num_codebooks):
            key = (key << np.uint64(self.bits)) | codes[..., level].astype(np.uint64)
        return key << np.uint64(self.collision_bits)

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`pack`: uint64 [...] to int32 [..., depth]."""
        packed = np.asarray(packed, dtype=np.uint64)
        codes = [
            (packed >> self.bits_below(level)) & np.uint64(2**self.bits - 1) for level in range(self.num_codebooks)
        ]
        return np.stack([*codes, packed & np.uint64(2**self.collision_bits - 1)], axis=-1).astype(np.int32)


class PackedIds:
    """The packed IDs of a catalog in ascending order, with the rows that they came from. Never changed in place.

    Args:
        packing: how they are packed.
        semantic_ids: int [n, depth], distinct.
    """

    def __init__(self, packing: Packing, semantic_ids: np.ndarray):
        keys = packing.pack(semantic_ids)
        self.packing = packing
        self._rows = np.argsort(keys)
        self._keys = keys[self._rows]

    def __len__(self) -> int:
        return len(self._keys)

    def insert(self, semantic_ids: np.ndarray) -> PackedIds:
        """Return a copy with the IDs of added items, whose rows follow those that there are."""
        keys = self.packing.pack(semantic_ids)
        order = np.argsort(keys)
        at = np.searchsorted(self._keys, keys[order])
        grown = object.__new__(PackedIds)
        grown.packing = self.packing
        grown._rows = np.insert(self._rows, at, len(self) + order)
        grown._keys = np.insert(self._keys, at, keys[order])
        return grown

    def keep(self, kept: np.ndarray) -> PackedIds:
        """Return a copy with the IDs of some items, bool [n], whose rows move up."""
        fewer, left = object.__new__(PackedIds), kept[self._rows]
        fewer.packing, fewer._keys = self.packing, self._keys[left]
        fewer._rows = (np.cumsum(kept) - 1)[self._rows[left]]
        return fewer

    def rows(self, semantic_ids: np.ndarray) -> np.ndarray:
        """int64 [...]: whose these IDs [..., depth] are; -1 where there is no such item."""
        return self.owners(self.packing.pack(semantic_ids), self.packing.num_codebooks)

    def owners(self, keys: np.ndarray, level: int) -> np.ndarray:
        """int64 [...]: some item's row that shares each packed ID's prefix down to ``level``; -1 where none does."""
        if not len(self):
            return np.full(keys.shape, -1)
        below = self.packing.bits_below(level)
        prefixes = keys >> below
        at = np.minimum(np.searchsorted(self._keys, prefixes << below), len(self) - 1)
        return np.where(self._keys[at] >> below == prefixes, self._rows[at], -1)

    def sharing(self, codes: np.ndarray) -> list[np.ndarray]:
        """For each tuple of codes, int [m, num_codebooks], the rows that share its longest prefix that any has, in
        ascending order; none where no row has its first code."""
        packing = self.packing
        keys, found = packing.pack_codes(codes), [np.zeros(0, dtype=np.int64)] * len(codes)
        for level in range(packing.num_codebooks):
            first, stop = self._spans(keys, level)
            for place in np.flatnonzero(first < stop):
                found[place] = self._rows[first[place] : stop[place]]
        return [np.sort(rows) for rows in found]

    def with_first_code(self, code: int) -> np.ndarray:
        """The rows whose first code is this one, int64 [m], in ascending order."""
        first, stop = self._spans(np.uint64(code) << self.packing.bits_below(0), 0)
        return np.sort(self._rows[first:stop])

    def _spans(self, keys: np.ndarray | np.uint64, level: int) -> tuple[np.ndarray, np.ndarray]:
        """The first place, and the one after the last, of the keys that share each key's prefix down to ``level``."""
        rest = (np.uint64(1) << self.packing.bits_below(level)) - np.uint64(1)
        return np.searchsorted(self._keys, keys & ~rest), np.searchsorted(self._keys, keys | rest, side="right")

    def next_collisions(self, codes: np.ndarray) -> np.ndarray:
        """int64 [m]: for each tuple of codes, one more than the highest collision token that it has."""
        if not len(self):
            return np.zeros(len(codes), dtype=np.int64)
        keys = self.packing.pack_codes(codes)
        rest = np.uint64(2**self.packing.collision_bits - 1)
        # The last packed ID below the next tuple tells.
        last = np.searchsorted(self._keys, keys | rest, side="right") - 1
        highest = self._keys[np.maximum(last, 0)]
        return np.where((last >= 0) & (highest >= keys), (highest & rest).astype(np.int64) + 1, 0)
