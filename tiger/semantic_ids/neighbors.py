"""Items near new ones by their semantic IDs: those that share the longest prefix."""

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
    known, places = len(before), []
    for found in before._ids.sharing(after.codes[known:]):
        step = max(1, -(-len(found) // MOST_NEIGHBORS))
        places.append(found[::step])
    widths = np.array([len(place) for place in places])
    starts = np.concatenate([[0], np.cumsum(widths)])
    values = np.repeat(1 / np.maximum(widths, 1), widths).astype(np.float32)
    return sparse.csr_matrix((values, np.concatenate(places), starts), shape=(len(places), known))
