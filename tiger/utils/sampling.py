"""Random samples of rows."""

from __future__ import annotations

import numpy as np


def sampled_rows(count: int, most: int, seed: int) -> np.ndarray:
    """Rows drawn without replacement, int64 [at most ``most``], ascending; all where there are no more.

    Args:
        count: number of rows to draw from.
        most: number to draw.
        seed: equal arguments give equal rows.
    """
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
