"""Arrays that grow: nobody's rows change, and few are copied."""

import copy
import pickle

import numpy as np
import pytest
import torch

from tests.processes import in_another_process
from tiger.utils.growing import LEAST_SPARE, Growing


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_two_that_append_to_one_do_not_meet(kind):
    first = Growing(kind(np.arange(6).reshape(3, 2)))
    left = first.append(kind(np.full((2, 2), 7)))
    right = first.append(kind(np.full((1, 2), 8)))
    again = left.append(kind(np.full((1, 2), 9)))
    other = left.append(kind(np.full((1, 2), 5)))
    assert np.asarray(first.values).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert np.asarray(left.values)[3:].tolist() == [[7, 7]] * 2 and np.asarray(right.values)[3:].tolist() == [[8, 8]]
    assert np.asarray(again.values)[3:].tolist() == [[7, 7], [7, 7], [9, 9]]
    assert np.asarray(other.values)[3:].tolist() == [[7, 7], [7, 7], [5, 5]]


def test_a_row_is_appended_without_a_copy_until_the_room_is_used_up():
    given = np.zeros((100_000, 3), dtype=np.float32)
    growing = Growing(given)
    assert growing.values is given  # no spare memory before there is need of it
    growing, places = growing.append(given[:1]), set()
    for _ in range(2000):
        growing = growing.append(given[:1])
        places.add(growing.values.ctypes.data)
    assert len(places) == 1 and len(growing.values) == 102_001
    growing = growing.append(np.ones((2 * LEAST_SPARE + 100_000, 3), dtype=np.float32))
    assert growing.values.ctypes.data not in places and growing.values[-1].tolist() == [1, 1, 1]


def test_versions_of_a_table_that_others_read_stay():
    table = Growing(torch.zeros(4, 2)).append(torch.ones(1, 2))
    before = table.values._version
    assert table.append(torch.ones(3, 2)).values.shape == (8, 2) and table.values._version == before


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_copy_has_rows_of_its_own_and_no_room(kind):
    table = Growing(kind(np.zeros((3, 2)))).append(kind(np.ones((1, 2))))
    assert len(pickle.dumps(table)) < LEAST_SPARE
    for other in (copy.deepcopy(table), in_another_process(copy.copy, table)):
        other.values[:] = 5
        assert np.asarray(table.values).tolist() == [[0, 0]] * 3 + [[1, 1]]
        assert np.asarray(other.append(kind(np.ones((1, 2)))).values).tolist() == [[5, 5]] * 4 + [[1, 1]]
