"""Codes against a log, on logs small enough to count by hand."""

from itertools import combinations

import numpy as np
import pytest

from tiger.data.sequences import Sequences
from tiger.quantizers.log_report import (
    cooccurrence_lift,
    expected_distinct,
    head_and_tail,
    log_report,
    prefix_groups,
)


def test_prefixes_are_numbered_by_level():
    codes = np.array([[1, 0], [0, 0], [1, 1], [1, 0]])
    first, second = prefix_groups(codes)
    assert first.tolist() == [1, 0, 1, 1] and second.tolist() == [1, 0, 2, 1]


def test_lift_over_chance_by_hand():
    # Items 0 and 1 share a prefix, and so do 2 and 3. Pairs within two steps: 0-1, 0-2, 1-2 and 2-3; 2-2 is none.
    log = Sequences.from_rows([np.array([0, 1, 2]), np.array([2, 3]), np.array([2, 2])])
    shares, lifts = cooccurrence_lift([np.array([0, 0, 1, 1])], log, max_gap=2)
    assert shares == [0.5]
    # Ends of pairs: 2, 2, 3 and 1 of 8. Two different items by chance: 2 * (2 * 2 + 3 * 1) / (64 - 18).
    assert lifts == pytest.approx([0.5 / (14 / 46)])
    assert cooccurrence_lift([np.arange(4)], log)[1] == [None]  # no two items could share one
    empty = Sequences.from_rows([np.array([0]), np.array([2, 2])])
    assert cooccurrence_lift([np.arange(4)], empty) == ([None], [None])


def test_codes_that_know_nothing_have_lift_one():
    random = np.random.default_rng(0)
    kinds = random.integers(10, size=600)
    rows = [random.permutation(np.flatnonzero(kinds == kind))[:20] for kind in random.integers(10, size=400)]
    log = Sequences.from_rows(rows)
    known = log_report(np.stack([kinds, random.integers(4, size=600)], axis=1), log)
    unknown = [log_report(random.integers([10, 4], size=(600, 2)), log)["cooccurrence_lift"] for _ in range(20)]
    assert known["cooccurrence_share"][0] == 1 and known["cooccurrence_lift"][0] == pytest.approx(10, rel=0.05)
    assert np.mean(unknown, axis=0) == pytest.approx([1, 1], abs=0.05)


def test_expected_distinct_groups():
    sizes = np.array([3, 1, 0, 2])
    owners = np.repeat(np.arange(4), sizes)
    for drawn in range(1, 7):
        every = [len(set(owners[list(chosen)])) for chosen in combinations(range(6), drawn)]
        assert expected_distinct(sizes, drawn) == pytest.approx(np.mean(every))


def test_head_and_tail():
    counts = np.array([9, 8] + [2] * 9 + [0] * 9)
    groups = np.array([0, 0] + [1] * 6 + list(range(2, 14)))
    found = head_and_tail([np.zeros(20, int), groups], counts)
    head, tail = found["head"], found["tail"]
    assert (head["items"], tail["items"], head["compared"], tail["compared"]) == (2, 18, 2, 2)
    assert head["events_share"] == pytest.approx(17 / 35) and head["prefixes_per_item"] == pytest.approx([0.5, 0.5])
    # Of two items of the tail, both are of the group of six with chance 6 * 5 / (18 * 17).
    assert tail["prefixes_per_item"] == pytest.approx([0.5, (2 - 30 / 306) / 2])
    assert head["shared_codes"] == 1 and tail["shared_codes"] == pytest.approx(6 / 18)
    # The order of the rows has no say: those with as many events as the last of the head are in it.
    same = head_and_tail([groups], np.ones(20, int))
    assert same["head"]["items"] == 20 and same["tail"] is None
