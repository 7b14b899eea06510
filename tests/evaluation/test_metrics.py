"""Metrics: values worked out by hand, scikit-learn as the referee, and the cases that have no answer."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from tiger.evaluation.hf_metrics import GroupedAUC, NextItemMetrics
from tiger.evaluation.metrics import (
    auc,
    grouped_auc,
    hit_ranks,
    log_loss,
    ndcg_at_k,
    next_item_metrics,
    next_item_metrics_per_user,
    recall_at_k,
)

RANKED = np.array([[7, 3, 5], [1, 2, -1], [4, 0, 9], [8, 6, 2]], dtype=np.int32)
TARGETS = np.array([7, 2, 5, 2])  # first, second, a miss, third


def test_next_item_metrics_by_hand():
    assert hit_ranks(RANKED, TARGETS).tolist() == [0, 1, 3, 2]
    assert recall_at_k(RANKED, TARGETS, 1) == 0.25
    assert recall_at_k(RANKED, TARGETS, 2) == 0.5
    assert recall_at_k(RANKED, TARGETS, 3) == 0.75
    # Gains of the first three places: 1, 1 / log2(3) = .6309, 1 / log2(4) = .5.
    assert ndcg_at_k(RANKED, TARGETS, 2) == pytest.approx((1 + 0.6309298) / 4)
    assert ndcg_at_k(RANKED, TARGETS, 3) == pytest.approx((1 + 0.6309298 + 0.5) / 4)
    assert list(next_item_metrics(RANKED, TARGETS, ks=(1, 3))) == ["recall@1", "ndcg@1", "recall@3", "ndcg@3"]


def test_next_item_metrics_per_user():
    metrics = next_item_metrics_per_user(RANKED, TARGETS, ks=(2,))
    assert metrics["recall@2"].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(metrics["ndcg@2"], [1, 0.6309298, 0, 0], atol=1e-7)


def test_next_item_metrics_without_rows_are_nan():
    metrics = next_item_metrics(np.empty((0, 10), dtype=np.int32), np.empty(0, dtype=np.int32))
    assert list(metrics) == ["recall@5", "ndcg@5", "recall@10", "ndcg@10"]
    assert np.isnan(list(metrics.values())).all()


@pytest.mark.parametrize(
    ("ranked", "targets", "ks", "message"),
    [
        ([[1, 2]], [1, 2], (1,), r"ranked must be \[n, K\]"),
        ([1, 2], [1, 2], (1,), r"ranked must be \[n, K\]"),
        ([[1, 2]], [1], (3,), "k=3 needs lists of at least that many items, got 2"),
        ([[1, 2]], [1], (0,), "k=0"),
        ([[1, -1]], [-1], (1,), "0 or more"),
        ([[3, 4], [2, 2]], [3, 2], (1,), "row 1: item 2 occurs more than once"),
    ],
)
def test_next_item_metrics_refuse(ranked, targets, ks, message):
    with pytest.raises(ValueError, match=message):
        next_item_metrics(np.array(ranked), np.array(targets), ks)


def test_next_item_metrics_are_quick():
    rng = np.random.default_rng(0)
    ranked = np.tile(np.arange(50, dtype=np.int32), (22_363, 1))
    targets = rng.integers(0, 100, 22_363)
    seconds = []
    for _ in range(5):
        start = time.thread_time()
        metrics = next_item_metrics(ranked, targets)
        seconds.append(time.thread_time() - start)
    assert metrics["recall@10"] == pytest.approx((targets < 10).mean())
    assert min(seconds) < 0.05


def test_auc_by_hand():
    assert auc([0, 1], [0.1, 0.9]) == 1.0
    assert auc([1, 0], [0.1, 0.9]) == 0.0
    assert auc([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5]) == 0.5
    # Pairs (positive, negative): .8 over .3 and .8 ties .8; .3 ties .3 and loses to .8: 1 + .5 + .5 + 0 of 4.
    assert auc([1, 0, 1, 0], [0.8, 0.8, 0.3, 0.3]) == 0.5
    assert auc(np.array([True, False, False]), np.array([0.4, 0.4, 0.1], dtype=np.float32)) == 0.75


def test_grouped_auc_by_hand():
    labels = [1, 0, 1, 1, 0, 1, 1]
    scores = [0.9, 0.1, 0.2, 0.3, 0.3, 0.1, 0.5]
    groups = ["b", "b", "a", "a", "a", "c", "c"]
    # b: 1 of 1 pair, two rows. a: 0 + .5 of 2 pairs, three rows. c has positives only and is left out.
    assert grouped_auc(labels, scores, np.array(groups)) == pytest.approx((2 * 1 + 3 * 0.25) / 5)


def test_what_is_undefined_is_nan():
    assert np.isnan(auc([], []))
    assert np.isnan(auc([1, 1], [0.1, 0.2]))
    assert np.isnan(grouped_auc([], [], []))
    assert np.isnan(grouped_auc([0, 1], [0.1, 0.2], [0, 1]))
    assert np.isnan(log_loss([], []))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1"),
        ([0, 1], [0.1], r"must be \[n\]"),
        ([0, 1], [0.1, float("nan")], "row 1: the score is nan"),
    ],
)
def test_binary_metrics_refuse(labels, scores, message):
    for metric in (auc, log_loss, lambda labels, scores: grouped_auc(labels, scores, labels)):
        with pytest.raises(ValueError, match=message):
            metric(labels, scores)


def test_log_loss():
    assert log_loss([1, 0], [0.5, 0.75]) == pytest.approx((np.log(2) + np.log(4)) / 2)
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 1000), rng.random(1000)
    assert log_loss(labels, scores) == pytest.approx(sklearn_log_loss(labels, scores))
    assert log_loss([1, 0], np.array([1.0, 1.0], dtype=np.float32)) == pytest.approx(-np.log(2.0**-23) / 2)
    with pytest.raises(ValueError, match="sigmoid"):
        log_loss([0, 1], [-1.0, 2.0])


ROWS = st.lists(st.tuples(st.booleans(), st.integers(-5, 5), st.integers(0, 3)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(ROWS)
def test_auc_agrees_with_sklearn(rows):
    labels, scores, groups = (np.array(column) for column in zip(*rows))
    if labels.all() or not labels.any():
        assert np.isnan(auc(labels, scores))
        return
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    kept = [groups == group for group in np.unique(groups) if len(np.unique(labels[groups == group])) == 2]
    if kept:
        expected = sum(rows.sum() * roc_auc_score(labels[rows], scores[rows]) for rows in kept)
        assert grouped_auc(labels, scores, groups) == pytest.approx(expected / sum(rows.sum() for rows in kept))
    else:
        assert np.isnan(grouped_auc(labels, scores, groups))


def test_evaluate_wrappers_agree_with_numpy_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rng = np.random.default_rng(0)
    ranked = rng.permuted(np.tile(np.arange(40), (300, 1)), axis=1)[:, :20].astype(np.int32)
    targets = rng.integers(0, 40, 300)
    metric = NextItemMetrics(cache_dir=str(tmp_path))
    assert metric.compute(predictions=ranked, references=targets) == next_item_metrics(ranked, targets)
    for start in range(0, 300, 64):
        metric.add_batch(predictions=ranked[start : start + 64], references=targets[start : start + 64])
    assert metric.compute(ks=(1, 20)) == next_item_metrics(ranked, targets, ks=(1, 20))

    labels, scores, groups = rng.integers(0, 2, 300), rng.random(300), rng.integers(0, 9, 300)
    results = GroupedAUC(cache_dir=str(tmp_path)).compute(predictions=scores, references=labels, groups=groups)
    assert results["grouped_auc"] == grouped_auc(labels, scores, groups)
    assert results["auc"] == auc(labels, scores)
