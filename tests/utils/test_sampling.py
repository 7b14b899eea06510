import numpy as np

from tiger.utils.sampling import sampled_rows


def test_rows_are_drawn_in_order_and_by_the_seed():
    rows = sampled_rows(1000, 5, 3)
    assert rows.tolist() == np.sort(np.random.default_rng(3).choice(1000, 5, replace=False)).tolist()
    assert rows.tolist() == [85, 179, 181, 236, 808]
    assert sampled_rows(1000, 5, 4).tolist() != rows.tolist()
    for most in (4, 5):
        assert sampled_rows(4, most, 0).tolist() == [0, 1, 2, 3]
