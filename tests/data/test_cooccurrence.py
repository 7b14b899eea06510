"""Counts of items that users had together are bounded by the number of users, not by one who had everything."""

import numpy as np
from scipy import sparse

from tiger.data import cooccurrence
from tiger.data.cooccurrence import shared_counts
from tiger.data.sequences import Sequences


def log_of(histories):
    lengths = [len(history) for history in histories]
    items = np.concatenate([np.asarray(history, dtype=np.int64) for history in histories])
    return Sequences(np.concatenate([[0], np.cumsum(lengths)]), items, np.zeros(len(items), dtype=np.int64))


def whole(log, num_items):
    rows, parts = zip(*shared_counts(log, num_items))
    assert [one.stop for one in rows[:-1]] == [one.start for one in rows[1:]]
    return sparse.vstack(parts, format="csr")


def test_pairs_that_a_user_had_in_either_order_once():
    counts = whole(log_of([[0, 1, 0, 1], [1, 2], [2, 1]]), 4).toarray()
    assert counts.tolist() == [[0, 1, 0, 0], [1, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0]]


def test_a_user_who_had_too_many_items_is_left_out(monkeypatch):
    monkeypatch.setattr(cooccurrence, "MOST_TOGETHER", 3)
    usual = [[0, 1, 2], [1, 0]]
    counts = whole(log_of([*usual, [0, 1, 2, 3]]), 4)
    assert (counts != whole(log_of(usual), 4)).nnz == 0 and counts[0, 1] == 2


def test_a_robot_costs_no_memory():
    robot = np.arange(cooccurrence.MOST_TOGETHER + 1)
    assert whole(log_of([robot, [0, 1]]), len(robot)).nnz == 2


def test_parts_hold_few_pairs_and_say_what_the_whole_does(monkeypatch):
    random = np.random.default_rng(0)
    log = log_of([random.choice(60, 20) for _ in range(30)])
    expected = whole(log, 60)
    assert len(list(shared_counts(log, 60))) == 1
    monkeypatch.setattr(cooccurrence, "_PAIRS_AT_ONCE", 1000)
    parts = [counts for _, counts in shared_counts(log, 60)]
    assert len(parts) > 5 and max(part.nnz for part in parts) <= 1000
    assert (whole(log, 60) != expected).nnz == 0
