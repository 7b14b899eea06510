"""Initialization of hashed prefixes: rows whose sums come closest to the mean vectors of the items beneath.

A prefix's vector is a sum of rows of the table, so the rows that give every prefix the mean of its items are the
solution of sparse linear equations, as many as there are prefixes. There may be more of them than rows: they are
solved by least squares, each prefix counting by its items, so that what few items need gives way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import sparse

from tiger.retriever.hashed_prefixes import HashedPrefixes
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.vocabulary import PAD_TOKEN

# Steps of conjugate gradients, and the weight that draws rows to 0, in units of an item. With 20,000 rows, vectors of
# Beauty's items (MiniLM) lack 2.9% of their variance, those of Sports 4.9%, and with 100 steps no less. A tenth of the
# weight lacks 2.0% and 4.4%, with larger rows, of which a new item gets some; tenfold, 8%. Not tuned by accuracy.
STEPS = 30
RIDGE = 0.1


def write_hashed(
    embeddings: torch.Tensor,
    hashed: HashedPrefixes,
    tokenizer: SemanticIdTokenizer,
    columns: Sequence[Callable[[], torch.Tensor]],
    share: float = 1.0,
) -> None:
    """Write the rows of tokens and the hashed rows of a table.

    Args:
        embeddings: changed in place, [rows, d].
        columns: give the items' vectors, a few columns at a time, float [n, some].
        share: share of the rows' variance that comes from the vectors, from 0 to 1; the rest is random.
    """
    sums, means, counts = prefix_equations(hashed, tokenizer, len(embeddings))
    used = torch.from_numpy(np.flatnonzero(sums.getnnz(axis=0))).to(embeddings.device)
    start = 0
    for block in columns:
        vectors = block()
        solved = least_squares(sums, means @ vectors.cpu().float().numpy(), counts)
        stop = start + vectors.shape[1]
        embeddings[used, start:stop] = torch.from_numpy(solved).to(embeddings)[used]
        start = stop
    noise = torch.randn(len(used), embeddings.shape[1]).to(embeddings)  # drawn in any case, as for other tokens
    if share < 1:
        known = embeddings[used]
        embeddings[used] = share**0.5 * known + (1 - share) ** 0.5 * noise * known.std()


def prefix_equations(
    hashed: HashedPrefixes, tokenizer: SemanticIdTokenizer, rows: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix, np.ndarray]:
    """The equations of all prefixes of a catalog.

    Args:
        rows: of the table.

    Returns:
        How often each row of the table counts in the vector of each prefix, float32 [prefixes, rows]; the share that
        each item has in a prefix's mean, float32 [prefixes, items]; and the number of its items, float32 [prefixes].
    """
    table = torch.from_numpy(tokenizer.token_table).long()
    added = hashed.rows(hashed.parent_keys(table), table).numpy()
    semantic_ids, sums, means, counts = tokenizer.semantic_ids, [], [], []
    for level in range(tokenizer.depth):
        keys = tokenizer.pack(np.where(np.arange(tokenizer.depth) <= level, semantic_ids, 0))
        _, first, prefixes, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        path = added[first, : level + 1].reshape(len(first), -1)
        sums.append(_counted(path, rows))
        weights = (1 / sizes).astype(np.float32)[prefixes]
        items = np.arange(len(keys))
        means.append(sparse.csr_matrix((weights, (prefixes, items)), (len(first), len(keys))))
        counts.append(sizes.astype(np.float32))
    return sparse.vstack(sums, "csr"), sparse.vstack(means, "csr"), np.concatenate(counts)


def _counted(path: np.ndarray, rows: int) -> sparse.csr_matrix:
    """Which rows of a table are summed, int [n, K] without padding, as float32 [n, rows]."""
    starts = np.arange(len(path) + 1) * path.shape[1]
    matrix = sparse.csr_matrix((np.ones(path.size, dtype=np.float32), path.ravel(), starts), (len(path), rows))
    matrix.data[matrix.indices == PAD_TOKEN] = 0
    matrix.eliminate_zeros()
    matrix.sum_duplicates()
    return matrix


def least_squares(matrix: sparse.csr_matrix, wanted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Minimize ``weights * (matrix @ x - wanted) ** 2 + RIDGE * x ** 2`` by conjugate gradients, for each column.

    Args:
        matrix: [equations, n].
        wanted: float32 [equations, columns].
        weights: float32 [equations].

    Returns:
        float32 [n, columns].
    """
    weighted = matrix.multiply(weights[:, None]).tocsr()
    back = weighted.T.tocsr()
    x = np.zeros((matrix.shape[1], wanted.shape[1]), dtype=np.float32)
    # Rows differ a lot in how often they count: each is scaled by that (Jacobi's preconditioner).
    scale = 1 / (matrix.multiply(weighted).sum(axis=0).A1[:, None].astype(np.float32) + RIDGE)
    left = back @ wanted
    step = scale * left
    size = (left * step).sum(axis=0)
    for _ in range(STEPS):
        image = back @ (matrix @ step) + RIDGE * step
        length = size / np.maximum((step * image).sum(axis=0), 1e-30)
        x += length * step
        left -= length * image
        scaled = scale * left
        size, before = (left * scaled).sum(axis=0), size
        step = scaled + size / np.maximum(before, 1e-30) * step
    return x
