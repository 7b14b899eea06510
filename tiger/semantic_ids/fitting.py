"""Fit codes to embeddings and, optionally, to co-occurrences in the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiger.quantizers.auto import fit_quantizer, quantizer_class
from tiger.quantizers.base import Quantizer
from tiger.semantic_ids.packing import Packing
from tiger.utils.errors import DataError
from tiger.utils.sampling import sampled_rows

# Rows that codes are fitted to where text and log are joined, a random sample where there are more; those of the
# k-means of tiger.quantizers are fewer in any case.
MAX_ROWS = 200_000
_COLUMNS, _ROWS = 16, 1 << 16  # held at once


@dataclass(frozen=True)
class Cooccurrence:
    """Co-occurrence vectors of the items, for codes that also say which items are bought together.

    Args:
        vectors: float [n, e], see :func:`tiger.embeddings.item_vectors.cooccurrence_vectors`.
        learned_split: the split of the log, such as ``{"shuffle_ties": None}``, whose training events they are made
            from: codes may be used with no other.
        weight: standard deviation of all of it, where that of the embeddings is 1.
    """

    vectors: np.ndarray
    learned_split: dict
    weight: float = 1.0

    @classmethod
    def of(
        cls, vectors: np.ndarray, learned_split: dict | None = None, cooccurrence_weight: float = 1.0
    ) -> Cooccurrence:
        """From single arguments.

        Raises:
            ValueError: ``learned_split`` is missing.
        """
        if learned_split is None:
            raise ValueError(
                "cooccurrence needs learned_split: codes may be used with no other split than it comes from"
            )
        return cls(vectors, learned_split, cooccurrence_weight)

    def joined_to(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings [n, d] and weighted vectors side by side, [n, d + e]."""
        return self.joiner(embeddings)(slice(None))

    def joiner(self, embeddings: np.ndarray) -> Callable[[slice | np.ndarray], np.ndarray]:
        """A function of rows that returns them as :meth:`joined_to` does, so that not all need be held at once."""
        lengths = [_length(part) for part in (embeddings, self.vectors)]
        weight = self.weight * (lengths[0] or 1.0) / max(lengths[1], 1e-12)  # without texts, the log is all there is
        return lambda rows: np.concatenate([embeddings[rows], weight * self.vectors[rows]], axis=1)


def _length(vectors: np.ndarray) -> Any:
    """Standard deviation of all of a matrix's dimensions together."""
    parts = [vectors[:, start : start + _COLUMNS].var(axis=0) for start in range(0, vectors.shape[1], _COLUMNS)]
    return np.sqrt(np.concatenate(parts).sum())


def fit_codes(
    quantizer: str | type[Quantizer] | Quantizer,
    embeddings: np.ndarray,
    cooccurrence: Cooccurrence | None,
    num_codebooks: int,
    codebook_size: int,
    **options: Any,
) -> tuple[np.ndarray, Quantizer]:
    """Fit a quantizer: its codes of the items, and the quantizer for new items, which reads embeddings alone.

    Raises:
        DataError: the quantizer is unknown, or can't leave co-occurrence out for new items; or too many levels.
    """
    if isinstance(quantizer, str | type):
        Packing(num_codebooks, codebook_size)  # what does not fit is refused before the work
    if cooccurrence is None:
        fitted: Any = fit_quantizer(quantizer, embeddings, num_codebooks, codebook_size, **options)
        return fitted.encode(embeddings), fitted
    kind = quantizer_class(quantizer)
    if not hasattr(kind, "truncate"):
        raise DataError(
            "co-occurrences need residual-kmeans, or another quantizer with truncate(): "
            f"{kind.__name__} can't give codes to new items by their embeddings alone."
        )
    joined, count = cooccurrence.joiner(embeddings), len(embeddings)
    learn: slice | np.ndarray = slice(None)
    if count > MAX_ROWS:
        learn = sampled_rows(count, MAX_ROWS, options.get("seed", 0))
    fitted = fit_quantizer(quantizer, joined(learn), num_codebooks, codebook_size, **options)
    parts = [fitted.encode(joined(slice(start, start + _ROWS))) for start in range(0, count, _ROWS)]
    return np.concatenate(parts), fitted.truncate(embeddings.shape[1])
