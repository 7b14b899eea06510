"""Items near new ones by their semantic IDs."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

MOST_NEIGHBORS = 50  # not tuned


def code_neighbors(before: SemanticIdTokenizer, after: SemanticIdTokenizer) -> sparse.csr_matrix:
    """Find the items that share the most codes, from the first on, with items that were added.

    Args:
        before: the catalog so far.
        after: the same, and new items behind.

    Returns:
        float32 [new, items so far]: equal shares of up to :data:`MOST_NEIGHBORS` items, the rows' sums being 1; empty
        where no item shares the first code. Too many items are thinned out evenly over the catalog.
    """
    known = len(before)
    places = [_thinned(found, MOST_NEIGHBORS) for found in before._ids.sharing(after.codes[known:])]
    widths = np.array([len(place) for place in places])
    starts = np.concatenate([[0], np.cumsum(widths)])
    values = np.repeat(1 / np.maximum(widths, 1), widths).astype(np.float32)
    return sparse.csr_matrix((values, np.concatenate(places), starts), shape=(len(places), known))


def items_around(tokenizer: SemanticIdTokenizer, first_code: int, count: int) -> np.ndarray:
    """Gather the items of a first code and, while there are fewer than ``count``, those of the codes nearest to it.

    Returns:
        int64 [m], rows; of a code, either all items or, where they are more than ``count``, as many evenly over the
        catalog. A quantizer without ``codebooks`` doesn't say which codes are near: then only the code's own.
    """
    codebooks = getattr(tokenizer.quantizer, "codebooks", None)
    codes = np.array([first_code])
    if codebooks is not None:
        centers = codebooks[0].detach().float().cpu().numpy()
        codes = np.argsort(np.square(centers - centers[first_code]).sum(axis=1), kind="stable")
    found: list[np.ndarray] = []
    for code in codes:
        found.append(_thinned(tokenizer._ids.with_first_code(int(code)), count))
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)


def _thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly over them."""
    return rows[:: max(1, -(-len(rows) // most))]
