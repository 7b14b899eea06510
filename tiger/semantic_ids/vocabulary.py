"""Vocabularies: the tokens of semantic IDs, and their numbers as the catalog grows.

Token 0 pads and starts the decoder. There are three kinds of the others, each with one token per level:

- :class:`CodeVocabulary`, as in TIGER: each level has a range of tokens of its own. The collision level comes last,
  so that a catalog that outgrows it extends the vocabulary at its end.
- :class:`PrefixVocabulary`: every prefix that occurs in the catalog is a token. The last one of an item stands for
  the whole ID, so a history takes one token per item, and what may follow a prefix are its extensions and nothing
  else. (Prefixes as inputs of a ranker: arXiv 2504.02137.) New prefixes extend the vocabulary at its end.
- :class:`HashedPrefixVocabulary`: the tokens of codes, of a model that hashes the prefix that a token ends
  (:mod:`tiger.retriever.hashed_prefixes`): its table is of one size for every catalog.

A vocabulary is never changed in place: :meth:`extended` gives the tokens of items and the vocabulary that has them.
"""

from __future__ import annotations

import numpy as np

from tiger.semantic_ids.packing import PackedIds, Packing
from tiger.utils.errors import DataError

PAD_TOKEN = 0


class CodeVocabulary:
    """A token for each code of each level, and for each value of the collision token.

    Args:
        packing: how many levels and codes there are.
        collision_size: values that the collision token has room for.

    Attributes:
        starts: int64 [depth], the token of value 0 on each level.
    """

    kind = "codes"

    def __init__(self, packing: Packing, collision_size: int):
        self._packing = packing
        self.collision_size = collision_size
        self._sizes = np.append(np.full(packing.num_codebooks, packing.codebook_size), collision_size)
        self.starts = PAD_TOKEN + 1 + packing.codebook_size * np.arange(packing.num_codebooks + 1)

    @property
    def size(self) -> int:
        """Tokens in all, padding included."""
        return int(self.starts[-1]) + self.collision_size

    @property
    def history_depth(self) -> int:
        """Tokens that an item takes in a history."""
        return len(self._sizes)

    def extended(
        self, semantic_ids: np.ndarray, ids: PackedIds, table: np.ndarray
    ) -> tuple[np.ndarray, CodeVocabulary]:
        """As :meth:`PrefixVocabulary.extended`; the collision level has room for all that come."""
        needed = int(semantic_ids[:, -1].max(initial=-1)) + 1
        vocabulary = type(self)(self._packing, max(self.collision_size, needed))
        return (semantic_ids + self.starts).astype(np.int32), vocabulary

    def rows(self, tokens: np.ndarray, ids: PackedIds, table: np.ndarray) -> np.ndarray:
        """As :meth:`PrefixVocabulary.rows`."""
        values = tokens - self.starts
        valid = np.all((values >= 0) & (values < self._sizes), axis=-1)
        return np.where(valid, ids.rows(np.where(valid[..., None], values, 0)), -1)


class HashedPrefixVocabulary(CodeVocabulary):
    """The tokens of codes, which the model reads and writes together with the prefixes that they end."""

    kind = "hashed_prefixes"


class PrefixVocabulary:
    """A token for each prefix that an item of the catalog has, or has had.

    Args:
        num_prefixes: how many there are.
    """

    kind = "prefixes"
    history_depth = 1

    def __init__(self, num_prefixes: int = 0):
        self.num_prefixes = num_prefixes

    @property
    def size(self) -> int:
        """Tokens in all, padding included."""
        return PAD_TOKEN + 1 + self.num_prefixes

    def extended(
        self, semantic_ids: np.ndarray, ids: PackedIds, table: np.ndarray
    ) -> tuple[np.ndarray, PrefixVocabulary]:
        """Number the prefixes of items: those that known items have as they are, and the others from the end of the
        vocabulary on, level by level, in order.

        Args:
            semantic_ids: int [m, depth].
            ids: of the known items.
            table: int [n, depth], their tokens.

        Returns:
            Tokens, int32 [m, depth], and the vocabulary that has them all.
        """
        keys = ids.packing.pack(semantic_ids)
        tokens, size = np.zeros(semantic_ids.shape, dtype=np.int32), self.size
        for level in range(semantic_ids.shape[1]):
            owners = ids.owners(keys, level)
            new = owners < 0
            tokens[~new, level] = table[owners[~new], level]
            fresh, numbers = np.unique(keys[new] >> ids.packing.bits_below(level), return_inverse=True)
            tokens[new, level] = size + numbers
            size += len(fresh)
        return tokens, PrefixVocabulary(size - self.size + self.num_prefixes)

    def rows(self, tokens: np.ndarray, ids: PackedIds, table: np.ndarray) -> np.ndarray:
        """Tokens, int [..., depth], to rows of the catalog, int64 [...]; -1 where no item has these tokens.

        Args:
            tokens: any integers.
            ids: of the catalog.
            table: int [n, depth], its tokens.
        """
        if not len(table):
            return np.full(tokens.shape[:-1], -1)
        last = tokens[..., -1]
        owners = np.full(self.size, -1)
        owners[table[:, -1]] = np.arange(len(table))
        possible = (last > PAD_TOKEN) & (last < self.size)
        rows = np.where(possible, owners[np.where(possible, last, PAD_TOKEN)], -1)
        return np.where((rows >= 0) & (table[rows] == tokens).all(axis=-1), rows, -1)


VOCABULARIES = (CodeVocabulary.kind, PrefixVocabulary.kind, HashedPrefixVocabulary.kind)
# Kinds whose tokens stand for prefixes: each is one of the few that may follow its parent.
PREFIX_KINDS = (PrefixVocabulary.kind, HashedPrefixVocabulary.kind)


def empty_vocabulary(
    kind: str, packing: Packing, collision_size: int | None = None
) -> CodeVocabulary | PrefixVocabulary:
    """A vocabulary without items, to be extended by those of a catalog.

    Args:
        kind: one of :data:`VOCABULARIES`.
        packing: how many levels and codes there are.
        collision_size: values that the collision token has room for (default: as many as there are codes per level).

    Raises:
        DataError: there is no such kind.
    """
    if kind not in VOCABULARIES:
        raise DataError(f"tokens must be one of {', '.join(VOCABULARIES)}, got {kind!r}.")
    if kind == PrefixVocabulary.kind:
        return PrefixVocabulary()
    of_codes = HashedPrefixVocabulary if kind == HashedPrefixVocabulary.kind else CodeVocabulary
    return of_codes(packing, packing.codebook_size if collision_size is None else collision_size)
