"""Metrics of rankings: recall and NDCG of the next item, AUC, grouped AUC and log loss, in plain numpy.

Next-item metrics count *items*: one true item per row, and a hit is that very row number of the item table, never a
semantic ID that several items share. What is undefined (no rows, labels all alike) is ``nan``; what is wrong (shapes,
duplicates, labels other than 0 and 1) is a ``ValueError``.

The same numbers as ``evaluate`` metrics are in ``tiger.evaluation.hf_metrics``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")  # names of the next item's, at the usual cut-offs


def hit_ranks(ranked: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The place of each row's target in its list: int64 [n], 0 for the first place and K for a miss.

    Args:
        ranked: int [n, K], item rows, best first, padded with -1 at the end of short lists.
        targets: int [n], one true item per row.

    Raises:
        ValueError: the shapes disagree, a target is negative, or a target occurs twice in its list. Other duplicates
            go unnoticed: they can't earn a second hit, they only waste places.
    """
    ranked, targets = np.asarray(ranked), np.asarray(targets)
    if ranked.ndim != 2 or targets.shape != ranked.shape[:1]:
        raise ValueError(f"ranked must be [n, K] and targets [n], got {ranked.shape} and {targets.shape}")
    if len(targets) and targets.min() < 0:
        raise ValueError(f"targets are item rows, 0 or more, got {targets.min()}")
    rows, places = np.nonzero(ranked == targets[:, None])
    if (rows[1:] == rows[:-1]).any():
        row = rows[1:][rows[1:] == rows[:-1]][0]
        raise ValueError(f"row {row}: item {targets[row]} occurs more than once in its ranked list")
    ranks = np.full(len(targets), ranked.shape[1], dtype=np.int64)
    ranks[rows] = places
    return ranks


def next_item_metrics_per_user(
    ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10)
) -> dict[str, np.ndarray]:
    """``recall@k`` and ``ndcg@k`` of every row, for bootstraps and slices.

    Recall is 1 when the target is among the first k, else 0. With a single relevant item the ideal gain is 1, so NDCG
    is 1 / log2(place + 1), places from 1 (Järvelin and Kekäläinen, 2002).

    Args:
        ranked: int [n, K], item rows, best first, padded with -1 at the end of short lists.
        targets: int [n], one true item per row.
        ks: cut-offs, each between 1 and K.

    Returns:
        float64 [n] for each of ``recall@k``, ``ndcg@k``, in the order of ``ks``.

    Raises:
        ValueError: as ``hit_ranks``, or a cut-off is out of range.
    """
    return metrics_of_ranks(hit_ranks(ranked, targets), np.asarray(ranked).shape[1], ks)


def metrics_of_ranks(ranks: np.ndarray, width: int, ks: Sequence[int] = (5, 10)) -> dict[str, np.ndarray]:
    """:func:`next_item_metrics_per_user` from the places of the targets.

    Args:
        ranks: int [n], as :func:`hit_ranks` gives them; ``width`` or more for a miss.
        width: length of the lists.
        ks: cut-offs, each between 1 and ``width``.

    Raises:
        ValueError: a cut-off is out of range.
    """
    gains = 1.0 / np.log2(ranks + 2.0)
    metrics = {}
    for k in ks:
        if not 1 <= k <= width:
            raise ValueError(f"k={k} needs lists of at least that many items, got {width}")
        metrics[f"recall@{k}"] = (ranks < k).astype(np.float64)
        metrics[f"ndcg@{k}"] = np.where(ranks < k, gains, 0.0)
    return metrics


def next_item_metrics(ranked: np.ndarray, targets: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
    """Means of ``next_item_metrics_per_user``: ``{"recall@5": ..., "ndcg@5": ..., "recall@10": ..., "ndcg@10": ...}``.

    ``nan`` when there are no rows.

    Example:
        >>> next_item_metrics(np.array([[3, 1], [2, 0]]), np.array([1, 2]), ks=(1, 2))["recall@2"]
        1.0
    """
    return {name: _mean(values) for name, values in next_item_metrics_per_user(ranked, targets, ks).items()}


def recall_at_k(ranked: np.ndarray, targets: np.ndarray, k: int) -> float:
    """Share of rows whose target is among the first ``k`` of ``ranked`` (int [n, K], -1 pads); ``nan`` for none."""
    return next_item_metrics(ranked, targets, (k,))[f"recall@{k}"]


def ndcg_at_k(ranked: np.ndarray, targets: np.ndarray, k: int) -> float:
    """Mean of 1 / log2(place + 1) of the targets among the first ``k``, else 0; ``nan`` without rows."""
    return next_item_metrics(ranked, targets, (k,))[f"ndcg@{k}"]


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive outscores a negative, ties counting one half. O(n log n).

    Args:
        labels: bool, or numbers 0 and 1, [n].
        scores: float [n], any scale, no nan.

    Returns:
        float in [0, 1]; ``nan`` when one of the two labels is absent.

    Raises:
        ValueError: shapes differ, a label is neither 0 nor 1, or a score is nan.
    """
    labels, scores = _check_binary(labels, scores)
    values, _ = _auc_by_group(labels, scores, np.zeros(len(labels), dtype=np.int64), 1)
    return float(values[0])


def grouped_auc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """Mean of the AUC within each group, weighted by the group's size (GAUC of DIN, arXiv 1706.06978).

    Groups that hold one label only have no AUC and are left out, with their weight.

    Args:
        labels: bool, or numbers 0 and 1, [n].
        scores: float [n].
        groups: [n], anything that sorts: usually user rows or ids.

    Returns:
        float in [0, 1]; ``nan`` when no group holds both labels.

    Raises:
        ValueError: as ``auc``.
    """
    labels, scores = _check_binary(labels, scores)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups must be {labels.shape} like labels, got {groups.shape}")
    names, index = np.unique(groups, return_inverse=True)
    values, sizes = _auc_by_group(labels, scores, index, len(names))
    both = ~np.isnan(values)
    return float(np.average(values[both], weights=sizes[both])) if both.any() else float("nan")


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood in nats of binary labels under ``probabilities`` (float [n] in [0, 1]).

    Probabilities are kept one float epsilon of their type away from 0 and 1, so that a single confident error costs
    much and not everything. ``nan`` without rows.

    Raises:
        ValueError: shapes differ, a label is neither 0 nor 1, or a probability lies outside [0, 1].
    """
    labels, probabilities = _check_binary(labels, probabilities)
    if len(labels) and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("log_loss needs probabilities in [0, 1]: pass logits through a sigmoid first")
    epsilon = np.finfo(probabilities.dtype).eps
    probabilities = np.clip(probabilities, epsilon, 1 - epsilon).astype(np.float64)
    return _mean(-np.log(np.where(labels, probabilities, 1 - probabilities)))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _check_binary(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels and scores must be [n], got {labels.shape} and {scores.shape}")
    if labels.dtype != bool:
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels must be 0 or 1")
        labels = labels == 1
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"row {int(np.flatnonzero(np.isnan(scores))[0])}: the score is nan")
    return labels, scores


def _auc_by_group(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUC (nan where a label is absent) and size of each group: float64 [num_groups], int64 [num_groups]."""
    order = np.lexsort((scores, groups)) if num_groups > 1 else np.argsort(scores)
    labels, scores, groups = labels[order], scores[order], groups[order]
    # A tie is a run of equal scores inside one group; all its members get the middle rank of the run.
    starts_tie = np.ones(len(scores), dtype=bool)
    starts_tie[1:] = (scores[1:] != scores[:-1]) | (groups[1:] != groups[:-1])
    starts = np.flatnonzero(starts_tie)
    lengths = np.diff(np.append(starts, len(scores)))
    sizes = np.bincount(groups, minlength=num_groups)
    group_starts = np.cumsum(sizes) - sizes
    ranks = np.repeat(starts + (lengths + 1) / 2, lengths) - group_starts[groups]
    positives = np.bincount(groups, weights=labels, minlength=num_groups)
    rank_sums = np.bincount(groups, weights=ranks * labels, minlength=num_groups)
    pairs = positives * (sizes - positives)
    wins = rank_sums - positives * (positives + 1) / 2
    return np.divide(wins, pairs, out=np.full(num_groups, np.nan), where=pairs > 0), sizes
