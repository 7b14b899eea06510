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
from tiger.data.cooccurrence import floored_totals, follower_counts
from tiger.data.sequences import Sequences
from tiger.utils.errors import DataError

# Exponent by which a pair's count is divided by its items' totals: between 0, raw counts, which popular items drown,
# and 1/2, the cosine, where rare items weigh as much as popular ones. Not tuned.
DAMPING = 0.375
# Above so many items the factors of the log are found in place, which gives others than the randomized SVD of
# scikit-learn: those of smaller catalogs stay what results were measured with.
_LARGE = 50_000
_OVERSAMPLED, _ITERATIONS = 10, 8
_BLOCK, _ROWS = 16, 1 << 16  # columns and rows at a time: a row of 16 columns is a line of a CPU's cache
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
    from threadpoolctl import threadpool_limits

    if num_items < 2:  # no factors
        return np.zeros((num_items, dim), dtype=np.float32)
    counts = follower_counts(train, num_items)
    totals = floored_totals(train, num_items)
    with threadpool_limits(1):  # several share out sums, and their number would show in the last bits
        factors = _factors if num_items <= _LARGE else _factors_in_place
        vectors = factors(counts, totals**-DAMPING, min(dim, num_items - 1), seed)
    if vectors.shape[1] < dim:
        vectors = np.pad(vectors, ((0, 0), (0, dim - vectors.shape[1])))
    return _directions(vectors, seed)


def _factors(counts: sparse.csr_matrix, scale: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """float32 [n, dim]: the largest factors of ``counts`` both ways, [n, n], times ``scale`` [n] on either side."""
    from sklearn.utils.extmath import randomized_svd

    scaling = sparse.diags_array(scale)
    left, strengths, _ = randomized_svd(scaling @ (counts + counts.T) @ scaling, dim, random_state=seed)
    return (left * np.sqrt(strengths)).astype(np.float32)


def _factors_in_place(counts: sparse.csr_matrix, scale: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """As :func:`_factors`, in the memory of one matrix [n, dim + 10] beside the counts.

    Subspace iteration (Halko, Martinsson & Tropp, arXiv 0909.4061) on a matrix that is symmetric, so that a column's
    product takes the column's place and nothing else of its size is held.
    """
    backward = counts.T
    basis = np.empty((len(scale), dim + _OVERSAMPLED), dtype=np.float32)
    random = np.random.default_rng(seed)
    blocks = [slice(start, start + _BLOCK) for start in range(0, basis.shape[1], _BLOCK)]
    parts = [slice(start, start + _ROWS) for start in range(0, len(basis), _ROWS)]
    for part in parts:
        basis[part] = random.standard_normal(basis[part].shape, dtype=np.float32)
    for turn in range(_ITERATIONS + 1):
        if turn:
            for block in blocks:
                scaled = scale[:, None] * basis[:, block]
                product = counts @ scaled
                product += backward @ scaled
                np.multiply(product, scale[:, None], out=basis[:, block])
        _orthonormalize(basis, parts)
    _orthonormalize(basis, parts)  # once is not exact where columns are nearly parallel
    small = np.zeros((basis.shape[1], basis.shape[1]))
    for block in blocks:
        scaled = scale[:, None] * basis[:, block]
        small[:, block] = _gram(basis, (counts @ scaled + backward @ scaled) * scale[:, None], parts)
    strengths, axes = np.linalg.eigh((small + small.T) / 2)
    best = np.argsort(-np.abs(strengths), kind="stable")[:dim]
    _turn(basis, parts, axes[:, best] * np.sqrt(np.abs(strengths[best])))
    return basis[:, :dim]


def _orthonormalize(basis: np.ndarray, parts: list[slice]) -> None:
    """Make the columns of a matrix [n, a] orthonormal, in its place."""
    products = _gram(basis, basis, parts)
    products += 1e-6 * np.trace(products) / len(products) * np.eye(len(products))  # columns may depend on each other
    _turn(basis, parts, np.linalg.inv(np.linalg.cholesky(products)).T)


def _gram(left: np.ndarray, right: np.ndarray, parts: list[slice]) -> np.ndarray:
    """float64 [a, b]: products of the columns of [n, a] and [n, b]."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for part in parts:
        total += left[part].T.astype(np.float64) @ right[part].astype(np.float64)
    return total


def _turn(basis: np.ndarray, parts: list[slice], axes: np.ndarray) -> None:
    """Multiply a matrix [n, a] by ``axes`` [a, at most a] in its place; columns beyond those keep what they held."""
    for part in parts:
        basis[part, : axes.shape[1]] = basis[part] @ axes.astype(np.float32)


def _directions(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Scale vectors [n, any] to unit length, in their place; in place of zeros, the direction of another row drawn at
    random."""
    parts = [slice(start, start + _ROWS) for start in range(0, len(vectors), _ROWS)]
    lengths = np.concatenate([np.linalg.norm(vectors[part], axis=1) for part in parts])
    is_known = lengths > NO_LENGTH * lengths.max(initial=0)
    known, unknown = np.flatnonzero(is_known), np.flatnonzero(~is_known)
    if not len(known):
        return np.zeros_like(vectors)
    source = np.random.default_rng(seed).choice(known, len(vectors))[unknown]
    vectors[unknown], lengths[unknown] = vectors[source], lengths[source]
    vectors /= lengths[:, None]
    return vectors


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
