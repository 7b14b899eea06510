"""Sparse matrices that grow at their end, without a copy of what they have."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tiger.utils.growing import Growing


class GrowingRows:
    """A sparse matrix to which rows are appended without a copy of the others.

    Args:
        matrix: not written to.
    """

    def __init__(self, matrix: sparse.csr_matrix):
        self.matrix = matrix
        self._parts = Growing(matrix.data), Growing(matrix.indices), Growing(matrix.indptr)

    def append(self, rows: sparse.csr_matrix) -> GrowingRows:
        """The matrix and ``rows`` [m, columns] behind it."""
        grown, (data, indices, starts) = object.__new__(GrowingRows), self._parts
        ends = (rows.indptr[1:] + self.matrix.indptr[-1]).astype(starts.values.dtype)
        grown._parts = data.append(rows.data), indices.append(rows.indices), starts.append(ends)
        shape = (self.matrix.shape[0] + rows.shape[0], self.matrix.shape[1])
        grown.matrix = sparse.csr_matrix(tuple(part.values for part in grown._parts), shape=shape)
        return grown


def with_empty(matrix: sparse.csr_matrix, size: int) -> sparse.csr_matrix:
    """A square matrix with empty rows and columns at its end, ``size`` in all; the entries are not copied."""
    starts = np.append(matrix.indptr, np.full(size - matrix.shape[0], matrix.indptr[-1], matrix.indptr.dtype))
    return sparse.csr_matrix((matrix.data, matrix.indices, starts), shape=(size, size))
