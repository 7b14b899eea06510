import numpy as np

from tiger.data.sequences import Sequences
from tiger.embeddings.item_vectors import cooccurrence_vectors


def sequences(lists):
    items = np.concatenate(lists).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in lists])])
    return Sequences(offsets, items, np.arange(len(items)))


def test_items_in_the_same_company_are_alike():
    # 0 and 1 are bought with 2 and 3, never with each other; 4 and 5 have company of their own; 8 none at all.
    train = sequences([[0, 2, 3], [1, 2, 3], [0, 3], [1, 3], [4, 6, 7], [5, 6, 7], [4, 7], [5, 7]])
    vectors = cooccurrence_vectors(train, 9, dim=8)
    assert vectors.shape == (9, 8) and vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[8] < 1e-6 and lengths.max() <= 1 + 1e-6
    cosine = vectors[:8] @ vectors[:8].T / np.outer(lengths[:8], lengths[:8])
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
