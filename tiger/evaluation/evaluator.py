"""Next-item evaluation of any function that recommends, shared by the command line, recipes and experiments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ParamSpec

import numpy as np

from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.metrics import hit_ranks, metrics_of_ranks
from tiger.utils.errors import DataError

Asked = ParamSpec("Asked")

# Called with n histories, and with ``k`` and ``exclude_history`` by keyword; returns int [n, k], best first, -1 where
# there are no more items, and scores [n, k]: ``TigerRecommender.recommend_rows`` or a baseline's ``recommend``.
Recommend = Callable[..., tuple[np.ndarray, np.ndarray]]
# Called with n histories and whether to leave out their items; yields names and answers, int [n, at least the largest
# cut-off], of one stage after another.
Stages = Callable[[Sequences, bool], Iterator[tuple[str, np.ndarray]]]


@dataclass(frozen=True)
class NextItemEvaluation:
    """Metrics of a model's answers.

    Args:
        per_user: ``recall@k`` and ``ndcg@k`` of each user, float64 [n].
        ranks: int64 [n], the place of each target in its list, from 0, and the list's length where it is not in it.
        empty_places: share of the places up to the largest cut-off that hold no item.
        seconds: how long the answers took.
    """

    per_user: dict[str, np.ndarray]
    ranks: np.ndarray
    empty_places: float
    seconds: float = float("nan")

    @classmethod
    def of(
        cls, ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10), seconds: float = float("nan")
    ) -> NextItemEvaluation:
        """Measure answers, int [n, K], best first, -1 where there is no item, against targets, int [n].

        Raises:
            ValueError: see :func:`tiger.evaluation.metrics.hit_ranks`.
        """
        ranks, ranked = hit_ranks(ranked, targets), np.asarray(ranked)
        empty = float(np.mean(ranked[:, : max(ks)] < 0)) if len(targets) else float("nan")
        return cls(metrics_of_ranks(ranks, ranked.shape[1], ks), ranks, empty, seconds)

    @property
    def metrics(self) -> dict[str, float]:
        """Means over users, ``nan`` without any."""
        return {name: float(values.mean()) if len(values) else float("nan") for name, values in self.per_user.items()}

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors of the means, ``nan`` of fewer than two users."""
        return {
            name: float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
            for name, values in self.per_user.items()
        }


def evaluate(
    recommend: Recommend,
    histories: Sequences,
    targets: np.ndarray,
    ks: Sequence[int] = (5, 10),
    exclude_history: bool = True,
) -> NextItemEvaluation:
    """Measure recall and NDCG of the next item.

    Args:
        recommend: what is measured, called once with all histories.
        histories: n sequences of item rows.
        targets: int [n], each user's next item.
        ks: cut-offs.
        exclude_history: leave out items of the history.

    Raises:
        DataError: scores are NaN, so that the answers have no order.

    Example::

        split = data.leave_one_out()
        evaluate(partial(tiger.recommend_rows, num_beams=50), *split.part("test")).metrics
    """
    start = time.perf_counter()
    ranked, scores = recommend(histories, k=max(ks), exclude_history=exclude_history)
    if scores is not None and np.isnan(np.asarray(scores, dtype=np.float64)).any():
        raise DataError(
            "the model scores items NaN: its training diverged, or its weights are damaged. Train it again with a "
            "lower learning rate."
        )
    return NextItemEvaluation.of(ranked, targets, ks, time.perf_counter() - start)


def metrics_only(
    evaluations: Callable[Asked, dict[str, NextItemEvaluation]],
) -> Callable[Asked, dict[str, dict[str, float]]]:
    """The same function of the same arguments, with each evaluation's metrics alone, by name."""

    def metrics(*args: Asked.args, **options: Asked.kwargs) -> dict[str, dict[str, float]]:
        return {name: one.metrics for name, one in evaluations(*args, **options).items()}

    return metrics


def evaluate_stages(
    stages: Stages,
    split: LeaveOneOut,
    part: str = "test",
    ks: Sequence[int] = (5, 10),
    exclude_history: bool = True,
) -> dict[str, NextItemEvaluation]:
    """:func:`evaluate` for a model of several stages, each of which reads the answers of those before it.

    Args:
        stages: what is measured, called once.
        split: a leave-one-out split.
        part: ``test`` or ``valid``.

    Returns:
        An evaluation for each stage, by its name; ``seconds`` since the first one began.
    """
    histories, targets = split.part(part)
    found, start = {}, time.perf_counter()
    for name, ranked in stages(histories, exclude_history):
        found[name] = NextItemEvaluation.of(ranked, targets, ks, time.perf_counter() - start)
    return found


def rank_bytes(evaluation: NextItemEvaluation, length: int) -> np.ndarray:
    """Ranks as uint8 [users], 0 for the first place and 255 for none of the first ``length``, at most 255."""
    return np.where(evaluation.ranks < min(length, 255), evaluation.ranks, 255).astype(np.uint8)
