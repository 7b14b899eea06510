"""Nearest neighbors of items by their texts: which items are described alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

_AT_ONCE = 1 << 23  # similarities that are held at a time, 32 MiB of float32
# Items beyond which neighbors are looked for among those of the same group alone: all pairs of 10^6 take hours.
EXACT_UP_TO = 50_000


@dataclass(frozen=True)
class ItemTexts:
    """Items' texts in two forms that see different things; at least one is there.

    Args:
        words: float32 [items, words], TF-IDF of unit length, sparse; None: there is no text.
        vectors: float32 [items, d], an encoder's; all zero where an item has no text; None: there are none.
    """

    words: sparse.csr_matrix | None = None
    vectors: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.words is None and self.vectors is None:
            raise ValueError("neighbors need words or vectors")
        if self.vectors is not None:
            lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
            unit = (self.vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
            object.__setattr__(self, "vectors", unit)

    def __len__(self) -> int:
        known: Any = self.words if self.vectors is None else self.vectors
        return known.shape[0]

    def similarity(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The mean of both squared cosines, 0 for negative ones: float32 [rows, others]."""
        parts = []
        if self.words is not None:
            parts.append((self.words[rows] @ self.words[others].T).toarray())
        if self.vectors is not None:
            parts.append((self.vectors[rows] @ self.vectors[others].T).clip(0))
        total = parts[0] ** 2
        for part in parts[1:]:
            total += part**2
        return total / len(parts)


def word_vectors(texts: Sequence[str]) -> sparse.csr_matrix | None:
    """TF-IDF of texts, float32 [texts, words], of unit length; None: no text holds a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(dtype=np.float32).fit_transform(texts)
    except ValueError:
        return None


def nearest_items(texts: ItemTexts, count: int, groups: np.ndarray | None = None) -> sparse.csr_matrix:
    """Find each item's most similar items.

    Args:
        count: neighbors of each; fewer where fewer are similar at all.
        groups: int [items], such as the first code; above :data:`EXACT_UP_TO` items neighbors are of the same group.

    Returns:
        float32 [items, items]: the similarity, above 0 and up to 1, of each item's neighbors, itself not among them.
    """
    size = len(texts)
    chosen, values = np.zeros((size, count), dtype=np.int32), np.zeros((size, count), dtype=np.float32)
    for rows, others in _blocks(size, groups):
        similar = texts.similarity(rows, others)
        similar[np.arange(len(rows)), np.searchsorted(others, rows)] = 0
        best = _largest(similar, count)
        width = best.shape[1]
        chosen[rows, :width] = others[best]
        values[rows, :width] = np.take_along_axis(similar, best, axis=1)
    starts = np.arange(0, size * count + 1, count)
    found = sparse.csr_matrix((values.ravel(), chosen.ravel(), starts), shape=(size, size))
    found.eliminate_zeros()
    found.sort_indices()
    return found


def _blocks(size: int, groups: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows, and the items that they are compared with, both ascending."""
    if groups is None or size <= EXACT_UP_TO:
        groups = np.zeros(size, dtype=np.int64)
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        step = max(1, _AT_ONCE // len(members))
        for start in range(0, len(members), step):
            yield members[start : start + step], members


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the ``count`` largest of each row, int64, in no order."""
    if scores.shape[1] <= count:
        return np.tile(np.arange(scores.shape[1]), (len(scores), 1))
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]


def truncated(matrix: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """Keep the ``count`` largest entries of each row; of equal ones, those of smaller columns."""
    widths = np.diff(matrix.indptr)
    if not (widths > count).any():
        return matrix
    # Entries by row, then by value: the place within the row says which stay.
    row = np.repeat(np.arange(len(widths)), widths)
    order = np.lexsort((-matrix.data, row))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - matrix.indptr[:-1][row]
    keep = place < count
    starts = np.concatenate([[0], np.cumsum(np.minimum(widths, count))])
    return sparse.csr_matrix((matrix.data[keep], matrix.indices[keep], starts), shape=matrix.shape)
