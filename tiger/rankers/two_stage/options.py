"""Options of a fit of the trees of a second stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tiger.rankers.two_stage.choice import BY_TREES, KEPT
from tiger.utils.errors import DataError

# Not tuned, these two: enough users under a leaf, and trees without a gain, that the number of trees is no accident.
MIN_IN_LEAF = 50
PATIENCE = 60


@dataclass(frozen=True)
class TwoStageOptions:
    """Options of :meth:`TwoStageRanker.fit`.

    Args:
        without: stages whose features are left out, of :data:`STAGES`; without ``t5`` its beams are left out too.
        max_trees: more are not fitted.
        learning_rate, num_leaves: LightGBM's.
        held_out: share of the users on whom the number of trees is chosen; the trees are then fitted anew on all.
        seed: of that choice and of the trees.
        num_seeds: models averaged over seeds.
        time_dropout: share of the users whose times the trees are not told, so that they learn what to do without:
            what a history without times leaves unknown is NaN then. 0: they are told all, and a history without times
            counts as one that ends on the log's last day. On Beauty 0.3 was no better, with times or
            without (``recipes/experiments/timestamps.py``).
        keep: ``trees``, or ``auto``: the order that :class:`tiger.rankers.two_stage.choice.OrderChoice` finds on the
            users held out. The record names it under ``order``; where it is the hybrid's, the ranker has no trees.
        with_memory: whether the beams are of searches with a memory: the ranker then refuses others; None: not known.
    """

    without: tuple[str, ...] = ()
    max_trees: int = 600
    learning_rate: float = 0.04
    num_leaves: int = 31
    held_out: float = 0.5
    seed: int = 0
    num_seeds: int = 1
    time_dropout: float = 0.0
    keep: str = BY_TREES
    with_memory: bool | None = None

    def __post_init__(self) -> None:
        if self.keep not in KEPT:
            raise DataError(f"keep must be {' or '.join(KEPT)}, got {self.keep!r}.")

    def drawn(self, count: int) -> np.ndarray:
        """Users who are held out, bool [count]."""
        order = np.random.default_rng(self.seed).permutation(count)
        return np.isin(np.arange(count), order[: int(self.held_out * count)])

    def lightgbm(self, number: int = 0) -> dict[str, Any]:
        """LightGBM's settings for one of the models."""
        return {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "lambdarank_truncation_level": 20,
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": MIN_IN_LEAF,
            "feature_fraction": 0.7,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "seed": self.seed + 1000 * number,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": torch.get_num_threads(),
            "verbose": -1,
        }
