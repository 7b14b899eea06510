"""Choice of the order that a second stage keeps, on users whose targets its trees have not learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiger.evaluation.metrics import next_item_metrics_per_user

# Two standard errors: what 1 in 40 sets of users would show of trees that are no better.
ERRORS = 2.0
BY_TREES, BY_HYBRID, BY_T5 = "trees", "hybrid", "t5"
KEPT = ("auto", BY_TREES)  # values of the setting ``keep``


@dataclass(frozen=True)
class OrderChoice:
    """An order of candidates, and what speaks for it.

    Args:
        order: ``trees``, ``hybrid``, or ``t5``: no second stage.
        ndcg: NDCG@10 of each on the users held out.
    """

    order: str
    ndcg: dict[str, float]

    @property
    def record(self) -> dict[str, Any]:
        """Entries for a ranker's record."""
        return {"order": self.order} | {f"held out ndcg@10, {name}": value for name, value in self.ndcg.items()}

    @classmethod
    def of(cls, answers: Mapping[str, np.ndarray], targets: np.ndarray) -> OrderChoice:
        """Keep the trees where they are better than the hybrid by two standard errors, and better than the T5.

        Else the T5's order stays where it is better than the hybrid's by one, so that no second stage is below the
        hybrid but by chance.

        Args:
            answers: int [n, 10] by ``trees``, ``hybrid`` and, where there is one, ``t5``.
            targets: int [n].
        """
        k = min(10, *(found.shape[1] for found in answers.values()))
        metrics = {name: next_item_metrics_per_user(found, targets, (k,)) for name, found in answers.items()}
        users = {name: found[f"ndcg@{k}"] for name, found in metrics.items()}
        ndcg = {name: round(float(values.mean()), 5) for name, values in users.items()}
        if _is_better(users[BY_TREES], users[BY_HYBRID], ERRORS) and ndcg[BY_TREES] > ndcg.get(BY_T5, 0):
            return cls(BY_TREES, ndcg)
        if BY_T5 in users and _is_better(users[BY_T5], users[BY_HYBRID], 1.0):
            return cls(BY_T5, ndcg)
        return cls(BY_HYBRID, ndcg)


def _is_better(first: np.ndarray, second: np.ndarray, errors: float) -> bool:
    """Whether the mean of ``first`` [n] is higher by so many standard errors of the difference."""
    gain = first - second
    return len(gain) > 1 and bool(gain.mean() > errors * gain.std(ddof=1) / len(gain) ** 0.5)
