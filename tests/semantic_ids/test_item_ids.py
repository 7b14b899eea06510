"""Item ids read as the list that they were made from, whatever comes and goes."""

import numpy as np
import pyarrow as pa
import pytest

from tests.processes import in_another_process
from tiger.semantic_ids import item_ids as module
from tiger.semantic_ids.item_ids import ItemIds


@pytest.mark.parametrize("changed", [16, 0])  # laid out anew after a sixteenth, and never
def test_as_a_list_through_many_changes(monkeypatch, changed):
    monkeypatch.setattr(module, "_CHANGED", changed)
    random, ids = np.random.default_rng(0), [f"item {row} ü" for row in range(400)]
    kept, made = ItemIds(ids), 400
    for turn in range(60):
        before, listed = kept, list(ids)
        if turn % 3 == 2:
            stay = np.sort(random.permutation(len(ids))[random.integers(1, 4) :])
            gone = sorted(set(range(len(ids))) - set(stay.tolist()))
            back = [ids[row] for row in gone]
            kept, ids = kept.keep(stay), [ids[row] for row in stay]
            assert (kept.rows(back) == -1).all()
            if turn % 2:  # one that had gone comes back
                kept, ids = kept.append(back[:1]), [*ids, back[0]]
        else:
            new = [f"new {number}" for number in range(made, made + int(random.integers(1, 5)))]
            made += len(new)
            kept, ids = kept.append(new), ids + new
        assert len(kept) == len(ids) and list(kept) == ids and kept == ids and kept[-3:] == ids[-3:]
        assert kept.rows(ids).tolist() == list(range(len(ids)))
        assert kept.rows([ids[-1], "nobody", ids[0]]).tolist() == [len(ids) - 1, -1, 0]
        assert kept.to_arrow().to_pylist() == ids and kept[len(ids) - 1] == ids[-1] and ids[3] in kept
        assert before == listed  # the one before stays as it was


def test_one_hash_for_several_ids(monkeypatch):
    monkeypatch.setitem(vars(module), "hash", lambda item: len(item))
    ids = ItemIds(["aa", "b", "bb", "cc", "ddd"])
    assert ids.rows(["cc", "bb", "aa", "b", "ee", "ddd", "dddd"]).tolist() == [3, 2, 0, 1, -1, 4, -1]
    assert ids.first_repeated is None


def test_what_is_no_text_is_nobody_and_what_is_there_twice_is_named():
    ids = ItemIds(["1", "2"])
    assert ids.rows([1, None, "2"]).tolist() == [-1, -1, 1] and 1 not in ids
    assert ItemIds(["a", "b", "a"]).first_repeated == "a" and ids.first_repeated is None
    assert ids != ["1"] and ids != ["1", "3"] and ids == pa.chunked_array([["1"], ["2"]]) and ids != "12"
    with pytest.raises(IndexError):
        ids[2]


def test_pickled_to_another_process():
    ids = ItemIds([f"item {row}" for row in range(40)]).append(["new"])
    assert in_another_process(ItemIds.rows, ids, ["item 3", "new", "nobody"]).tolist() == [3, 40, -1]


def test_memory_of_an_id():
    ids = ItemIds(pa.array([f"item-{row}" for row in range(100_000)], pa.large_string()))
    table = ids._table
    assert (table.values.nbytes + table.keys.nbytes + table.rows.nbytes) / len(ids) < 40
