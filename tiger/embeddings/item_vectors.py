"""Item vectors without neural training: co-occurrence vectors from the log, TF-IDF vectors from the texts.

Co-occurrence vectors say which items are bought near each other, as text embeddings say which items are described
alike. A T5 whose token embeddings are initialized with both (:mod:`tiger.retriever.initialization`) need not learn
first what the log says plainly.

TF-IDF vectors are projected at random. A random projection keeps rare words, which tell a product line from its
neighbors; the singular vectors of :class:`tiger.embeddings.LSAEncoder` spend as few dimensions on what all items talk
of. Measured on Beauty by the cosine to a user's last three items, 128 dimensions either way: NDCG@10 .041 against
.023.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from tiger._moved import old_names
from tiger.data.cooccurrence import COUNT_FLOOR, follower_counts
from tiger.data.sequences import Sequences
from tiger.utils.errors import DataError

# Exponent by which a pair's count is divided by its items' totals: between 0, raw counts, which popular items drown,
# and 1/2, the cosine, where rare items weigh as much as popular ones. Not tuned.
DAMPING = 0.375
NO_LENGTH = 1e-6  # relative to the longest vector: shorter ones are rounding errors of the decomposition


def cooccurrence_vectors(train: Sequences, num_items: int, dim: int = 128, seed: int = 0) -> np.ndarray:
    """Factors of the matrix of items that a user had within three events of each other.

    A pair counts 1 / gap, either way round, and is divided by both items' totals to the power of 3/8, so that a few
    popular items don't drown the rest. Totals below 5 count as 5: where every item was filtered to have five events,
    a lower one reveals events that were held out. For the same reason vectors are directions only, since they are
    shorter where events are few, and an item without pairs gets the direction of another, drawn at random: zeros, or
    the mean of all, would mark it.

    Args:
        train: the training log.
        num_items: rows of the catalog.
        dim: factors; fewer where the catalog is smaller.
        seed: of the randomized decomposition: equal logs and seed give equal vectors, with any number of threads.

    Returns:
        float32 [num_items, dim], of length 1; all zero where no item has a pair.
    """
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    counts = follower_counts(train, num_items)
    totals = np.maximum(np.bincount(train.items, minlength=num_items), COUNT_FLOOR).astype(np.float32)
    scale = sparse.diags_array(totals**-DAMPING)
    factors = min(dim, num_items - 1)
    with threadpool_limits(1):  # several share out sums, and their number would show in the last bits
        left, strengths, _ = randomized_svd(scale @ (counts + counts.T) @ scale, factors, random_state=seed)
    vectors = np.zeros((num_items, dim), dtype=np.float32)
    vectors[:, :factors] = left * np.sqrt(strengths)
    return _directions(vectors, seed)


def _directions(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Scale vectors [n, any] to unit length; in place of zeros, the direction of another row drawn at random."""
    lengths = np.linalg.norm(vectors, axis=1)
    known = np.flatnonzero(lengths > NO_LENGTH * lengths.max(initial=0))
    if not len(known):
        return np.zeros_like(vectors)
    source = np.random.default_rng(seed).choice(known, len(vectors))
    source[known] = known
    return vectors[source] / lengths[source, None]


def tfidf_vectors(texts: Sequence[str], dim: int = 128, seed: int = 0) -> np.ndarray:
    """float32 [texts, dim]; the scalar product of two rows is about the cosine of their words.

    Args:
        texts: one per item.
        dim: the error of a product is about 1 / sqrt(dim).
        seed: of the projection.

    Raises:
        DataError: no text has a word.
    """
    from sklearn.exceptions import DataDimensionalityWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.random_projection import SparseRandomProjection

    try:
        words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    except ValueError as error:
        raise DataError(
            "no item's text has a word of two letters or more: give items titles or descriptions."
        ) from error
    projection = SparseRandomProjection(dim, dense_output=True, random_state=seed)
    with warnings.catch_warnings():
        # Few words: more dimensions than there are, which does no harm.
        warnings.simplefilter("ignore", DataDimensionalityWarning)
        return projection.fit_transform(words).astype(np.float32)


def principal_axes(vectors: np.ndarray, size: int) -> np.ndarray:
    """Vectors, float [n, any], on their ``size`` principal axes, each with unit variance, so that fine differences
    count as much as broad ones; float32 [n, size], zero beyond the axes that there are."""
    centered = np.asarray(vectors, dtype=np.float32) - np.mean(vectors, axis=0, dtype=np.float32)
    strengths, axes = np.linalg.eigh(centered.T @ centered / len(centered))  # ascending
    strengths, axes = strengths[::-1][:size], axes[:, ::-1][:, :size]
    used = strengths > 1e-6 * strengths[0]
    reduced = np.zeros((len(centered), size), dtype=np.float32)
    reduced[:, : used.sum()] = centered @ (axes / np.sqrt(np.where(used, strengths, 1)))[:, used]
    return reduced


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
