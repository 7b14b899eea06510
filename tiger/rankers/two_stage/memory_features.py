"""Features of a candidate from a recommender's memory: how a history reaches it, route by route.

What users with the same items went on to, and what is like it by text or codes, is in
:mod:`tiger.rankers.two_stage.features` as well, but pair by pair. A route of the memory
(:mod:`tiger.retriever.memory`) sums over a whole history with weights that were fitted, and over the items that are
like each of them. The rules of features hold for the memory's tables, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tiger.data.sequences import Sequences
from tiger.rankers.base import SearchMemory
from tiger.rankers.two_stage.candidates import Proposals

# The routes of tiger.retriever.memory, which this package doesn't import, in their order.
ROUTES = ("follows", "together", "similar", "follows similar", "similar to follower", "again")
OWN = "t5: log-probability without the memory"
FEATURES = (*(f"memory: {route}" for route in ROUTES), "memory: all routes", OWN)
_FLOOR = 0.01  # raises a route's mass before its logarithm: a tenth of what an item has without any history


def with_memory_features(
    proposals: Proposals, names: Sequence[str], histories: Sequences, memory: SearchMemory | None
) -> Proposals:
    """Append :data:`FEATURES` to the columns of proposals.

    Args:
        names: of the columns so far.
        histories: n sequences of item rows.
        memory: that the search had whose scores are among the columns; None: its features are unknown, NaN.
    """
    shape = (*proposals.rows.shape, len(FEATURES))
    found = np.full(shape, np.nan, dtype=np.float32)
    if memory is not None:
        masses, prior = memory.mass_of(histories, proposals.rows), memory.prior[np.maximum(proposals.rows, 0)]
        found[..., : len(ROUTES)] = np.log(masses + _FLOOR)
        found[..., len(ROUTES)] = np.log(masses.sum(axis=-1) + prior)
        score = proposals.columns[..., names.index("t5: log-probability")]
        found[..., -1] = score - found[..., len(ROUTES)]
        found[proposals.rows < 0] = np.nan
    return Proposals(proposals.rows, np.concatenate([proposals.columns, found], axis=-1))
