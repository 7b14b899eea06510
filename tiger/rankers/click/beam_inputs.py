"""Inputs of a ranker that reorders beams: what the search knows of each candidate.

Three rules of :mod:`tiger.rankers.two_stage.features` hold here as well: no order of item rows, no count below 5, and
nothing but the training log. Times are not read.
"""

from __future__ import annotations

import numpy as np

from tiger.data.cooccurrence import COUNT_FLOOR

_FLOOR = 0.01  # raises a route's mass before its logarithm: a tenth of what an item has without any history
OWN = 4  # inputs that every candidate has: score, score less the best, place, and count


def num_inputs(memory_parts: int) -> int:
    """Number of inputs of a candidate, given the number of parts of a memory's score; 0: no memory."""
    return OWN + (6 + 2 * (memory_parts - 2) if memory_parts else 0)


def beam_inputs(
    beams: np.ndarray, scores: np.ndarray, totals: np.ndarray, memory: np.ndarray | None = None
) -> np.ndarray:
    """Numbers that describe each candidate beside the others of its list.

    Args:
        beams: int [n, K], rows of items; -1: none.
        scores: float [n, K], of the search.
        totals: float [items], events in the training log; those below 5 count as 5.
        memory: float [n, K, routes + 2], see :meth:`tiger.retriever.memory.ItemMemory.parts`; None: no memory.

    Returns:
        float32 [n, K, inputs], finite, 0 where there is no candidate. The first one is the score.
    """
    there = beams >= 0
    scores = np.where(there & np.isfinite(scores), scores, 0).astype(np.float32)
    counts = np.log(np.maximum(totals, COUNT_FLOOR))[np.maximum(beams, 0)]
    columns = [scores, _below_best(scores, there), _place(scores, there), counts]
    if memory is not None:
        *routes, prior, t5 = np.moveaxis(memory.astype(np.float32), -1, 0)
        mass = np.log(np.maximum(sum(routes) + prior, 1e-9))
        for values in (t5, mass):
            columns += [values, _below_best(values, there), _place(values, there)]
        for values in routes:
            columns += [np.log(values + _FLOOR), _place(values, there)]
    found = np.stack(columns, axis=-1).astype(np.float32)
    found[~there] = 0
    return found


def _below_best(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Each value less the largest of its list."""
    best = np.where(there, values, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    return values - np.where(np.isfinite(best), best, 0)


def _place(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Logarithm of 1 + the number of candidates of the list with a larger value: equal ones have equal places."""
    ascending = np.sort(np.where(there, -values, np.inf), axis=1)
    above = [np.searchsorted(row, -own, side="left") for row, own in zip(ascending, values)]
    return np.log1p(np.array(above, dtype=np.float32).reshape(values.shape))
