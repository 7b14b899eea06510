"""Embedding tables of a click ranker that start from what is known of the items beneath each row."""

from __future__ import annotations

import numpy as np
import torch

from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.model import TABLE_STD, SemanticIdRanker

RANDOM, CENTROIDS = "random", "centroids"


def start_at_centroids(
    ranker: SemanticIdRanker, features: ItemFeatures, rows: np.ndarray, vectors: np.ndarray, seed: int = 0
) -> None:
    """Set each row of codes to the mean of its items' vectors, projected at random (as in arXiv 2608.07816).

    The rows' numbers are as large as those of a random start. Rows of ``random_hash``, whose items have nothing in
    common, and rows without items stay as they are.

    Args:
        ranker: made for these features.
        features: how it reads items.
        rows: int32 [items, width], from :meth:`ItemFeatures.rows`.
        vectors: float [items, D], content vectors.
        seed: of the projection.
    """
    centered = np.asarray(vectors, dtype=np.float32) - np.mean(vectors, axis=0, dtype=np.float32)
    shape = centered.shape[1], ranker.config.d_model
    projected = centered @ np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    hashed = np.zeros(features.budget + 1, dtype=bool)
    hashed[features.budget] = True  # the padding
    if "random_hash" in features.tables:
        first = features.tables.index("random_hash") * features.share
        hashed[first : first + features.share] = True
    item, column = np.nonzero(~hashed[rows])
    table = rows[item, column]
    counts = np.bincount(table, minlength=features.budget + 1)
    sums = np.zeros((features.budget + 1, shape[1]), dtype=np.float32)
    np.add.at(sums, table, projected[item])
    there = counts > 0
    means = sums[there] / counts[there, None]
    means *= TABLE_STD / max(float(means.std()) if len(means) else 1.0, 1e-9)
    with torch.no_grad():
        weight = ranker.table.weight
        weight[torch.from_numpy(np.flatnonzero(there)).to(weight.device)] = torch.from_numpy(means).to(weight)
