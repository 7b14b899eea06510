import numpy as np
import pytest

from tiger.data.cooccurrence import follower_counts
from tiger.data.sequences import Sequences
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.evaluation.metrics import auc


def sequences(lists):
    items = np.concatenate(lists).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in lists])])
    return Sequences(offsets, items, np.arange(len(items)))


def test_items_in_the_same_company_are_alike():
    # 0 and 1 are bought with 2 and 3, never with each other; 4 and 5 have company of their own; 8 none at all.
    train = sequences([[0, 2, 3], [1, 2, 3], [0, 3], [1, 3], [4, 6, 7], [5, 6, 7], [4, 7], [5, 7]])
    vectors = cooccurrence_vectors(train, 9, dim=8)
    assert vectors.shape == (9, 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosine = vectors[:8] @ vectors[:8].T
    assert cosine[2, 3] > 0.2 and abs(cosine[0, 4]) < 1e-3 and abs(cosine[1, 6]) < 1e-3
    assert np.array_equal(vectors, cooccurrence_vectors(train, 9, dim=8))


def test_users_do_not_touch_and_the_rows_order_tells_nothing():
    random = np.random.default_rng(0)
    lists = [random.integers(0, 30, 6) for _ in range(80)]
    vectors = cooccurrence_vectors(sequences(lists), 30, dim=12)
    moved = random.permutation(30)
    other = cooccurrence_vectors(sequences([moved[part] for part in lists]), 30, dim=12)
    np.testing.assert_allclose(vectors @ vectors.T, (other @ other.T)[np.ix_(moved, moved)], atol=1e-3)
    apart = cooccurrence_vectors(sequences([[0, 1], [2, 3]]), 4, dim=3)
    assert abs(apart[1] @ apart[2]) < 1e-6


def test_totals_below_five_are_not_told_apart():
    """The scale of a pair must not tell two events from four: only its count may."""
    base = [[0, 1]] * 2 + [[2, 3]] * 2 + [[4, 5]] * 12
    more = base + [[2]] * 2  # 2 has four events now, in no more company
    first, second = (np.abs(cooccurrence_vectors(sequences(lists), 6, dim=5)) for lists in (base, more))
    np.testing.assert_allclose(first, second, atol=1e-4)


def few_and_many(num_items: int = 60, seed: int = 0) -> Sequences:
    """Half of the items have some 30 events, half 1 to 4; two have events but no pair, and the last two none."""
    random = np.random.default_rng(seed)
    weights = np.where(np.arange(num_items) < num_items // 2, 12.0, 1.0)
    weights[-4:] = 0
    lists = [random.choice(num_items, 4, p=weights / weights.sum()) for _ in range(220)]
    return sequences([*lists, [num_items - 4], [num_items - 3]])


def test_lengths_do_not_tell_how_many_events_an_item_has():
    train = few_and_many()
    few = np.bincount(train.items, minlength=60) < 5
    assert 20 < few.sum() < 40
    vectors = cooccurrence_vectors(train, 60, dim=16)
    # The length of the factors did: items with few pairs have short ones.
    pairs = follower_counts(train, 60)
    assert auc(few, -np.asarray((pairs + pairs.T).sum(axis=1)).ravel()) > 0.95
    assert auc(few, np.round(np.linalg.norm(vectors, axis=1), 5)) == 0.5


def test_items_without_pairs_look_like_any_other():
    train = few_and_many()
    vectors = cooccurrence_vectors(train, 60, dim=16)
    paired = np.unique(np.concatenate([part for part in train if len(part) > 1]))
    unpaired = np.setdiff1d(np.arange(60), paired)
    assert {56, 57, 58, 59} <= set(unpaired)
    for row in unpaired:  # the direction of an item with pairs
        assert np.isclose(vectors[paired] @ vectors[row], 1, atol=1e-5).any()
    assert len(np.unique(vectors[unpaired].round(5), axis=0)) > 1  # not all of the same one, which would mark them
    # Nor are they close to the mean or far from it, which is what centered vectors show.
    draws = (cooccurrence_vectors(train, 60, dim=16, seed=seed) for seed in range(20))
    away = np.array([np.linalg.norm(found - found.mean(axis=0), axis=1) for found in draws])
    assert away[:, unpaired].mean() == pytest.approx(away[:, paired].mean(), abs=0.03)


def test_a_log_without_pairs_says_nothing():
    assert not cooccurrence_vectors(sequences([[0], [1], [2]]), 5, dim=3).any()


@pytest.mark.parametrize("num_items", [0, 1])
def test_fewer_than_two_items_have_no_company(num_items):
    vectors = cooccurrence_vectors(sequences([[0] * num_items]), num_items, dim=3)
    assert vectors.tolist() == [[0.0] * 3] * num_items and vectors.dtype == np.float32
