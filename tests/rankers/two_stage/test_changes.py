"""Items that come to a large catalog, and go: nothing is counted anew, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.rankers.two_stage.test_candidates import catalogue, log
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.features import CandidateFeatures
from tiger.rankers.two_stage.kept_candidates import KeptCandidates, kept

SIZE = 600


def codes_of(count):
    return np.stack([np.arange(count) % 8, np.arange(count) // 80, np.arange(count) % 3], axis=1)


def vectors_of(count):
    return np.random.default_rng(9).normal(size=(count, 6))


@pytest.fixture(scope="module")
def candidates():
    train = log(900, SIZE)
    return Candidates.fit(train, catalogue(SIZE), codes=codes_of(SIZE), vectors=vectors_of(SIZE), num_proposed=30)


def test_added_items_have_features_as_after_a_fit(candidates, monkeypatch):
    items, histories = catalogue(SIZE + 3), log(20, SIZE, seed=1)
    new = vectors_of(SIZE + 3)[SIZE:]
    fits = []
    monkeypatch.setattr(CandidateFeatures, "__init__", lambda *given: fits.append(given))
    one = candidates.extended(items.slice(0, SIZE + 1), codes_of(SIZE + 1), new[:1])
    two = one.extended(items, codes_of(SIZE + 3), new[1:])
    monkeypatch.undo()
    assert not fits and len(two) == SIZE + 3 and len(one) == SIZE + 1 and len(candidates) == SIZE
    refitted = candidates.moved(items, np.append(np.arange(SIZE), [-1] * 3), codes_of(SIZE + 3), new)
    rows = np.tile(np.append(np.arange(20), [SIZE, SIZE + 1, SIZE + 2]), (20, 1))
    left, right = (one.describe(histories, rows).columns for one in (two, refitted))
    differing = {
        name
        for number, name in enumerate(two.names)
        if not np.allclose(left[..., number], right[..., number], equal_nan=True, atol=1e-5)
    }
    # Weights of words are those of the fit, and so are moves to a prefix that nobody had.
    assert differing <= {"text: words, 3", "text: words, last", "text: words, 20", "text: hybrid"}
    np.testing.assert_allclose(left, right, atol=0.05)
    # They are proposed, by their words, and after an item of their own.
    after = replace(histories.select(np.arange(1)), items=np.full(histories.lengths[0], SIZE, dtype=np.int32))
    assert SIZE not in two.propose(after).rows and (two.propose(after, exclude_history=False).rows == SIZE).any()
    # The one before has not changed.
    again = one.describe(histories, rows[:, :-2]).columns
    np.testing.assert_array_equal(again[:, :20], left[:, :20])


def test_removed_items_are_not_proposed_and_leave_the_rest_as_it_was(candidates):
    histories = log(20, SIZE, seed=1)
    gone = np.array([0, 77, SIZE - 1])
    stay = np.setdiff1d(np.arange(SIZE), gone)
    here = np.isin(histories.items, stay)
    histories = replace(
        histories,
        items=histories.items[here],
        timestamps=histories.timestamps[here],
        offsets=np.concatenate([[0], np.cumsum(np.bincount(histories.users[here], minlength=20))]),
    )
    fewer = kept(kept(candidates, np.delete(np.arange(SIZE), 77)), np.arange(1, SIZE - 2))
    assert isinstance(fewer, KeptCandidates) and len(fewer) == SIZE - 3
    assert fewer.items["item_id"].to_pylist() == candidates.items.take(stay)["item_id"].to_pylist()
    moved = replace(histories, items=np.searchsorted(stay, histories.items).astype(np.int32))
    beams, scores = np.tile([3, 9, -1], (20, 1)), np.tile([-1.0, -2.0, -np.inf], (20, 1))
    found = fewer.propose(moved, beams, scores)
    assert found.rows.max() < SIZE - 3
    whole = candidates.propose(histories, np.where(beams < 0, -1, stay[beams]), scores, without=gone)
    np.testing.assert_array_equal(np.where(found.rows < 0, -1, stay[found.rows]), whole.rows)
    np.testing.assert_array_equal(found.columns, whole.columns)
    without = fewer.propose(moved, without=found.rows[0, :5]).rows
    assert not np.isin(without, found.rows[0, :5]).any()
    back = fewer.extended(
        pa.concat_tables([fewer.items, catalogue(SIZE).slice(77, 1)]),
        np.concatenate([fewer.codes, codes_of(SIZE)[77:78]]),
        vectors_of(SIZE)[77:78],
    )
    assert isinstance(back, KeptCandidates) and len(back) == SIZE - 2
    described = back.describe(moved, np.array([[SIZE - 3, 5]] * 20)).columns
    alone = fewer.describe(moved, np.array([[5]] * 20)).columns[:, 0]
    np.testing.assert_allclose(described[:, 1], alone, rtol=1e-5, atol=1e-6)


def test_what_is_saved_is_of_the_items_that_there_are(candidates, tmp_path):
    stay, new = np.delete(np.arange(SIZE), [4, 90]), vectors_of(SIZE + 2)[SIZE:]
    items = pa.concat_tables([catalogue(SIZE).take(stay), catalogue(SIZE + 2).slice(SIZE)])
    codes = np.concatenate([codes_of(SIZE)[stay], codes_of(SIZE + 2)[SIZE:]])
    changed = kept(candidates, stay).extended(items, codes, new)  # as many as before, but not the same
    changed.save(tmp_path / "counts.safetensors")
    read = Candidates.load(
        tmp_path / "counts.safetensors", items, codes=codes, vectors=changed.vectors, num_proposed=30
    )
    direct = candidates.moved(items, np.append(stay, [-1, -1]), codes, new)
    np.testing.assert_array_equal(read.pairs.keys, direct.pairs.keys)
    np.testing.assert_array_equal(read.pairs.values, direct.pairs.values)
    np.testing.assert_array_equal(read.events, direct.events)
    np.testing.assert_allclose(read.vectors, direct.vectors, atol=1e-6)
    np.testing.assert_array_equal(read.cooccurrence, direct.cooccurrence)


def test_many_changes_are_a_new_fit(candidates):
    fewer = kept(candidates, np.arange(100, SIZE))
    assert type(fewer) is Candidates and len(fewer) == SIZE - 100
    more = candidates.extended(catalogue(SIZE + 40), codes_of(SIZE + 40), vectors_of(SIZE + 40)[SIZE:])
    assert more._fitted == SIZE + 40
