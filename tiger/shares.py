"""Items that training saw and items that it never saw, searched for apart: each kind gets its share of an answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CataloguePart:
    """Items among which beam search chooses.

    Args:
        chosen: bool [n]; None: all.
        scored_levels: levels that the model knows something of; None: all.
    """

    chosen: np.ndarray | None = None
    scored_levels: int | None = None

    @property
    def rows(self) -> np.ndarray | None:
        return None if self.chosen is None else np.flatnonzero(self.chosen)


def shared_places(
    seen: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray], k: int, places: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best of two lists, so many places for each, in the order of their scores.

    Args:
        seen, unseen: rows int [users, m], best first, -1 where none, and scores [users, m] or, the last one ordering
            the rest, [users, m, 2].
        k: length of the answer.
        places: how many of them go to ``unseen``; where one list is too short, the other fills in.

    Returns:
        Rows and scores of ``k`` places, -1 and ``-inf`` where both lists have ended.
    """
    found, found_unseen = ((rows >= 0).sum(axis=1) for rows, _ in (seen, unseen))
    taken_unseen = np.minimum(found_unseen, np.maximum(places, k - found))
    taken = np.minimum(found, k - taken_unseen)
    keep = [np.arange(part[0].shape[1]) < n[:, None] for part, n in ((seen, taken), (unseen, taken_unseen))]
    rows = np.concatenate([np.where(kept, part[0], -1) for kept, part in zip(keep, (seen, unseen))], axis=1)
    scores = np.concatenate([seen[1], unseen[1]], axis=1)
    scores[rows < 0] = -np.inf
    order = np.argsort(-(scores if scores.ndim == 2 else scores[..., -1]), axis=1, kind="stable")[:, :k]
    users = np.arange(len(rows))[:, None]
    return rows[users, order], scores[users, order]
