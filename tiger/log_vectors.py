"""Vectors of items by the company they keep: a factorised count of who is bought near whom.

What the log says of an item before any training, as text embeddings are what its text says. A generator whose tokens
start from both (:func:`tiger.token_starts.start_from_items`) need not find out first what the log says plainly.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from tiger.baselines import COUNT_FLOOR
from tiger.data import Sequences

WINDOW = 3


def log_vectors(train: Sequences, num_items: int, dim: int = 128, seed: int = 0) -> np.ndarray:
    """Factors of the matrix of items that a user had within three events of each other.

    A pair counts 1 / gap, either way round, and is divided by both items' totals to the power of 3/8, so that a few
    popular items don't drown the rest. Totals below 5 count as 5: where every item was filtered to have five events,
    a lower one betrays an event that was held out (for the same reason no vector is stretched beyond its due).

    Args:
        train: the training log.
        num_items: rows of the catalogue.
        dim: factors; fewer where the catalogue is smaller.
        seed: of the randomised decomposition.

    Returns:
        float32 [num_items, dim], of length at most 1; zero for items that the log lacks.
    """
    users, items = train.users, train.items
    counts = sparse.csr_matrix((num_items, num_items), dtype=np.float32)
    for gap in range(1, WINDOW + 1):
        together = users[gap:] == users[:-gap]
        weights = np.full(int(together.sum()), 1 / gap, dtype=np.float32)
        pairs = items[:-gap][together], items[gap:][together]
        counts = counts + sparse.csr_matrix((weights, pairs), shape=counts.shape)
    totals = np.maximum(np.bincount(items, minlength=num_items), COUNT_FLOOR).astype(np.float32)
    scale = sparse.diags_array(totals**-0.375)
    factors = min(dim, num_items - 1)
    left, strengths, _ = randomized_svd(scale @ (counts + counts.T) @ scale, factors, random_state=seed)
    vectors = np.zeros((num_items, dim), dtype=np.float32)
    vectors[:, :factors] = left * np.sqrt(strengths)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    typical = np.median(lengths[lengths > 0]) if (lengths > 0).any() else 1.0
    return vectors / np.maximum(lengths, typical)
