import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tiger.data.cooccurrence import PairTable
from tiger.data.sequences import Sequences
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.rankers.two_stage.candidates import Candidates, Proposals, _repeated
from tiger.rankers.two_stage.features import DAYS, _branches, _labels, _logarithms, reads_time

DAY = 86_400
WORDS = "tent lamp stove rope boots map pan cup".split()


def sequences(histories: list[list[tuple[int, int]]]) -> Sequences:
    """From (item, day) pairs, a list a user."""
    offsets = np.cumsum([0, *map(len, histories)])
    flat = np.array([event for history in histories for event in history]).reshape(-1, 2)
    return Sequences(offsets, flat[:, 0].astype(np.int32), flat[:, 1].astype(np.int64) * DAY)


def catalogue(count: int = 40) -> pa.Table:
    return pa.table(
        {
            "item_id": [f"item-{row}" for row in range(count)],
            "title": [f"{WORDS[row % 8]} {WORDS[(row * 3 + 1) % 8]} number{row % 11}" for row in range(count)],
            "brand": [f"brand {row % 5}" if row % 7 else None for row in range(count)],
            "price": [float(row % 13) if row % 4 else None for row in range(count)],
        }
    )


def log(num_users: int = 60, count: int = 40, seed: int = 0) -> Sequences:
    random = np.random.default_rng(seed)
    users = []
    for _ in range(num_users):
        length = random.integers(2, 9)
        days = np.sort(random.integers(100, 400, length))
        users.append([(int(item), int(day)) for item, day in zip(random.integers(0, count, length), days)])
    return sequences(users)


def codes(count: int = 40) -> np.ndarray:
    return np.stack([np.arange(count) % 8, np.arange(count) // 8, np.arange(count) % 2], axis=1)


def vectors(count: int = 40) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, 6))


def make(train: Sequences, items: pa.Table, order: np.ndarray | None = None, **options) -> Candidates:
    order = np.arange(items.num_rows) if order is None else order
    options = {"num_proposed": 15} | options
    return Candidates.fit(train, items, codes=codes()[order], vectors=vectors()[order], **options)


def test_pairs_are_counted_as_by_hand():
    table = PairTable.fit(sequences([[(1, 5), (2, 5), (3, 9), (1, 30)], [(1, 7), (2, 8)]]), size=4)
    found = {
        (first, second): dict(zip(PairTable.FACTS, table.padded[table.find(np.array(first), np.array(second))]))
        for first in range(4)
        for second in range(4)
    }
    assert found[1, 2] == {"next": 2, "soon": 2, "before": pytest.approx(1 / 2), "together": 3, "same day": 1}
    assert found[2, 1] == {"next": 0, "soon": pytest.approx(1 / 2), "before": 2, "together": 3, "same day": 1}
    assert found[1, 3]["soon"] == pytest.approx(1 / 2) and found[3, 1]["next"] == 1
    assert not any(found[0, 2].values()) and not any(found[2, 2].values())


def test_groups_add_up_their_items():
    train, groups = log(), np.arange(40) % 6
    mapped = Sequences(train.offsets, groups[train.items].astype(np.int32), train.timestamps)
    own, direct = PairTable.fit(train, 40).grouped(groups), PairTable.fit(mapped, 6)
    assert np.array_equal(own.keys, direct.keys) and np.allclose(own.values, direct.values, atol=1e-4)


def test_the_order_of_the_items_tells_nothing():
    order = np.random.default_rng(3).permutation(40)  # row r of the other table is row order[r] of this one
    place = np.argsort(order)
    train, histories = log(), log(20, seed=1)
    one = make(train, catalogue())
    moved = Sequences(train.offsets, place[train.items].astype(np.int32), train.timestamps)
    other = make(moved, catalogue().take(order), order)
    rows = np.random.default_rng(4).permuted(np.tile(np.arange(40), (20, 1)), axis=1)[:, :12]
    turned = Sequences(histories.offsets, place[histories.items].astype(np.int32), histories.timestamps)
    left, right = one.describe(histories, rows), other.describe(turned, place[rows])
    for number, name in enumerate(one.names):
        assert np.allclose(left.columns[..., number], right.columns[..., number], atol=1e-4, equal_nan=True), name


def test_counts_below_five_do_not_show():
    train, histories = log(), log(20, seed=1)
    rare = int(np.argmin(np.bincount(train.items, minlength=40)))
    count = int((train.items == rare).sum())
    assert count < 5
    days = train.timestamps[train.items == rare]
    # As many further events as make it five, of users who bought nothing else, on a day when it was bought.
    extra = 5 - count
    more = Sequences(
        np.concatenate([train.offsets, train.offsets[-1] + 1 + np.arange(extra)]),
        np.concatenate([train.items, np.full(extra, rare, dtype=np.int32)]),
        np.concatenate([train.timestamps, np.full(extra, np.sort(days)[len(days) // 2])]),
    )
    rows = np.tile(np.arange(40), (20, 1))
    left, right = (make(part, catalogue()).describe(histories, rows) for part in (train, more))
    assert np.allclose(left.columns, right.columns, equal_nan=True)


def test_what_comes_after_a_history_does_not_show_in_days():
    train, histories = log(), log(20, seed=1)
    last = histories.timestamps[histories.offsets[1:] - 1].max() // DAY
    later = sequences([[(item, int(last) + 1 + turn)] for item in range(40) for turn in range(3)])
    more = Sequences(
        np.concatenate([train.offsets, train.offsets[-1] + later.offsets[1:]]),
        np.concatenate([train.items, later.items]),
        np.concatenate([train.timestamps, later.timestamps]),
    )
    rows = np.tile(np.arange(40), (20, 1))
    left, right = (make(part, catalogue()) for part in (train, more))
    windows = [number for number, name in enumerate(left.names) if name.startswith("time: events from")]
    ages = [left.names.index(f"time: days since its {which} event") for which in ("first", "last")]
    known, wider = (one.describe(histories, rows).columns for one in (left, right))
    seen = ~np.isnan(known[..., ages[0]])
    assert windows and np.array_equal(known[seen][:, windows], wider[seen][:, windows])
    assert seen.any() and np.array_equal(known[seen][:, ages], wider[seen][:, ages])
    totals = [left.names.index(name) for name in ("item: total", "log: soon a total, 5")]
    assert np.array_equal(known[..., totals], wider[..., totals])  # three events more of each item, of users with one
    roots = left.names.index("log: together a root of totals, 20")
    assert known[..., roots].any() and np.array_equal(known[..., roots], wider[..., roots])
    before = left.describe(sequences([[(1, 50)]]), rows[:1]).columns  # earlier than any event of the log
    assert np.isnan(before[..., ages]).all() and np.nanmax(before[..., windows]) == 0


def test_an_empty_history_alone_or_beside_others():
    candidates, histories = make(log(), catalogue()), log(3, seed=1)
    empty = sequences([[]])
    alone = candidates.propose(empty)
    assert (alone.rows >= 0).all()
    column = candidates.names.index("item: same brand")
    assert not alone.columns[..., column].any()
    both = sequences([[], [(int(i), 20) for i in histories[0]], []])
    found = candidates.describe(both, np.tile(alone.rows, (3, 1)))
    for place in (0, 2):
        assert np.array_equal(found.columns[place], candidates.describe(empty, alone.rows).columns[0], equal_nan=True)


def test_prices_as_text_and_items_without_text():
    items = catalogue()
    prices = ["$9.99", "", "3.5", None] * 10
    items = items.set_column(3, "price", pa.array(prices)).set_column(
        1, "title", pa.array([None, *["tent lamp"] * 39])
    )
    items = items.set_column(2, "brand", pa.array([None, *["Acme"] * 39]))
    candidates = make(log(), items.drop_columns("price").append_column("price", pa.array(prices)))
    found = candidates.describe(log(2, seed=1), np.tile(np.arange(40), (2, 1)))
    price = found.columns[0, :, candidates.names.index("item: price")]
    assert price[2] == pytest.approx(np.log1p(3.5)) and np.isnan(price[[0, 1, 3]]).all()


def test_items_that_the_log_lacks_do_not_show():
    train = log()
    stay = train.items != 7
    kept = np.concatenate([[0], np.cumsum(np.bincount(train.users[stay], minlength=len(train)))])
    candidates = make(Sequences(kept, train.items[stay], train.timestamps[stay]), catalogue())
    found = candidates.describe(log(20, seed=1), np.tile(np.arange(40), (20, 1))).columns
    columns = [number for number, name in enumerate(candidates.names) if name.startswith("log: company")]
    assert columns and found[:, 7, columns].all()


def test_days_before_1970_and_categories_that_are_numbers():
    train, histories, rows = log(), log(20, seed=1), np.tile(np.arange(40), (20, 1))
    early, later = (
        make(Sequences(train.offsets, train.items, train.timestamps + shift * DAY), catalogue())
        for shift in (-100_000, 1_000_000)
    )
    assert early.events.min() >= 0 and np.array_equal(early.events // DAYS, later.events // DAYS)
    items = catalogue().append_column("categories", pa.array([row % 3 if row % 5 else None for row in range(40)]))
    candidates = make(train, items)
    shared = candidates.describe(histories, rows).columns[..., candidates.names.index("item: branches shared, 20")]
    assert shared.max() > 0 and shared[:, ::5].max() == 0


def test_the_length_of_company_does_not_show():
    """It grows with the events of an item, also below five."""
    one, histories, rows = make(log(), catalogue()), log(20, seed=1), np.tile(np.arange(40), (20, 1))
    lengths = np.random.default_rng(2).uniform(0.2, 1, (40, 1)).astype(np.float32)
    company = cooccurrence_vectors(log(), 40)
    left, right = (
        Candidates(one.items, one.pairs, one.events, vectors, codes()).describe(histories, rows).columns
        for vectors in (company, company * lengths)
    )
    assert np.allclose(left, right, atol=1e-5, equal_nan=True)


def test_proposals_are_distinct_and_new_and_hold_the_beams():
    train, histories = log(), log(20, seed=1)
    candidates = make(train, catalogue())
    beams = np.tile(np.array([5, 17, 30, -1]), (20, 1))
    scores = np.tile(np.array([-1.0, -2.0, -3.0, -np.inf]), (20, 1))
    found = candidates.propose(histories, beams, scores)
    assert found.rows.shape == (20, 19) and found.columns.shape == (20, 19, len(candidates.names))
    place, log_prob = (candidates.names.index(f"t5: {name}") for name in ("place", "log-probability"))
    for user, rows in enumerate(found.rows):
        real = rows[rows >= 0]
        assert len(set(real)) == len(real) and {5, 17, 30} <= set(real)
        assert not set(rows[:15]) & set(histories[user])
        at = int(np.flatnonzero(rows == 17)[0])
        assert found.columns[user, at, place] == 1 and found.columns[user, at, log_prob] == -2
        assert np.isnan(found.columns[user, ~np.isin(rows, [5, 17, 30]), place]).all()
    again = candidates.describe(histories, found.rows)
    assert np.allclose(found.columns[..., :-2], again.columns[..., :-2], equal_nan=True)
    kept = candidates.propose(histories, exclude_history=False)
    assert any(set(rows) & set(history) for rows, history in zip(kept.rows, histories))


def test_what_columns_say():
    often = [[(2, 10 + day)] for day in range(3)]  # six events, as five would have no days
    candidates = make(sequences([[(1, 10), (2, 10)], [(1, 20), (2, 21)], [(3, 30), (2, 40)], *often]), catalogue())
    histories = sequences([[(3, 30), (1, 35)], []])
    found = candidates.describe(histories, np.array([[2, 9], [2, 9]]))

    def column(name):
        return found.columns[..., candidates.names.index(name)]

    assert column("log: next, last")[0].tolist() == [2, 0]
    assert column("log: next, 5")[0] == pytest.approx([2 + 0.8, 0])
    assert column("log: same day, 20")[0].tolist() == [1, 0]
    assert column("codes: shared with last")[0].tolist() == [0, 1]  # codes of 1: (1, 0, 1); of 9: (1, 1, 1)
    assert column("time: days since its first event")[0, 0] == 25 and np.isnan(
        column("time: days since its first event")[0, 1]
    )
    assert np.isfinite(column("item: history length")).all() and not column("log: next, 5")[1].any()
    assert np.isnan(column("time: days since its first event")[1, 0])  # nobody said when the empty history ends


def test_totals_are_counted_up_to_the_day_on_which_the_history_ends():
    buyers = [[(2, day)] for day in range(10, 20)]  # one a day, ten in all
    candidates = make(sequences([*buyers, [(1, 12), (2, 19)]]), catalogue())
    histories = sequences([[(1, 12)], [(1, 15)], [(1, 16)], [(1, 30)], [(1, 0)], []])
    found = candidates.describe(histories, np.tile([2, 1, 9], (6, 1))).columns
    total = np.exp(found[..., candidates.names.index("item: total")])
    np.testing.assert_allclose(total[:, 0], [5, 6, 7, 11, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(total[:4, 1:], 5, rtol=1e-6)
    roots = found[..., 0, candidates.names.index("log: together a root of totals, 20")]
    # 1 and 2 met once, in all the log.
    np.testing.assert_allclose(roots, [*1 / np.sqrt([25, 30, 35, 55]), np.nan, np.nan], rtol=1e-6)


def test_without_times_what_reads_them_is_unknown_and_nothing_else_changes():
    histories, rows = log(20, seed=1), np.tile(np.arange(40), (20, 1))
    candidates = make(log(), catalogue())
    known, unknown = (candidates.describe(part, rows).columns for part in (histories, histories.without_timestamps()))
    named = [name for number, name in enumerate(candidates.names) if np.isnan(unknown[..., number]).all()]
    timed = [name for name in candidates.names if reads_time(name)]
    assert timed == [name for name in named if not name.startswith("t5")] and len(timed) == 12
    rest = [number for number, name in enumerate(candidates.names) if name not in timed]
    assert np.array_equal(known[..., rest], unknown[..., rest], equal_nan=True)
    hidden = candidates.without_times(Proposals(rows, known))
    assert np.array_equal(hidden.columns, unknown, equal_nan=True) and np.isfinite(known[..., -3]).any()
    # What is left does not follow the order of the days, nor that of events within one.
    moved = Sequences(histories.offsets, histories.items, histories.timestamps + 40 * DAY)
    assert np.array_equal(candidates.describe(moved.without_timestamps(), rows).columns, unknown, equal_nan=True)


def test_the_time_of_the_request_takes_the_place_of_the_last_event():
    candidates, rows = make(log(), catalogue()), np.tile(np.arange(40), (3, 1))
    histories = sequences([[(3, 150), (12, 300)], [(3, 150), (12, 160)], [(7, 300)]])
    asked = replace(histories, at=np.array([0, 300, 300]) * DAY)
    assert asked.ends.tolist() == [300 * DAY] * 3
    assert asked.select(np.array([2, 1])).ends.tolist() == [300 * DAY] * 2 and asked.drop_last(1).at is None
    assert asked.keep_last(1).ends.tolist() == [300 * DAY] * 3
    found = candidates.describe(asked, rows).columns
    names = ("time: days since its last event", "time: events from day -30 to -7", "item: total")
    for number in map(candidates.names.index, names):
        np.testing.assert_array_equal(found[1, :, number], found[0, :, number])
        np.testing.assert_array_equal(found[2, :, number], found[0, :, number])
    pace = candidates.names.index("time: days between its last two")
    assert (found[0, :, pace] == 150).all() and (found[1, :, pace] == 10).all()  # of the history alone
    only = replace(histories.without_timestamps(), at=np.full(3, 300 * DAY))
    again = candidates.describe(only, rows).columns
    assert np.isnan(again[..., pace]).all()
    total = candidates.names.index("item: total")
    np.testing.assert_array_equal(again[..., total], found[..., total])


def test_items_come_and_go(tmp_path):
    train, histories = log(), log(20, seed=1)
    candidates = make(train, catalogue())
    rows = np.tile(np.arange(40), (20, 1))
    before = candidates.describe(histories, rows).columns
    candidates.save(tmp_path / "counts.safetensors")
    loaded = Candidates.load(
        tmp_path / "counts.safetensors", catalogue(), codes=codes(), vectors=vectors(), num_proposed=15
    )
    assert np.array_equal(loaded.describe(histories, rows).columns, before, equal_nan=True)

    stay = np.flatnonzero(np.arange(40) != 7)
    fewer = candidates.moved(catalogue().take(stay), stay, codes()[stay], None)
    back = np.concatenate([stay, [7]])
    more = fewer.moved(catalogue().take(back), np.append(np.arange(39), -1), codes()[back], vectors()[7:8])
    history = sequences([[(3, 30), (12, 35)]])
    moved = Sequences(history.offsets, np.searchsorted(stay, history.items).astype(np.int32), history.timestamps)
    wanted = np.array([[20, 21, 33]])
    left = candidates.describe(history, wanted).columns
    log_columns = [number for number, name in enumerate(candidates.names) if name.startswith("log: next")]
    for other in (fewer, more):
        right = other.describe(moved, np.searchsorted(stay, wanted)).columns
        assert np.array_equal(left[..., log_columns], right[..., log_columns])
    assert not more.describe(moved, np.array([[39]])).columns[..., log_columns].any()


def test_repeated():
    rows = np.array([[3, 1, 3, 1, 2], [0, 0, 0, 5, 5]])
    assert _repeated(rows).tolist() == [[False, False, True, True, False], [False, True, True, False, True]]


def test_values_that_say_nothing_are_none():
    items = pa.table(
        {
            "item_id": list("abcdef"),
            "brand": [0.0, math.nan, None, 2.0, 2.0, 0.0],
            "categories": ["A > B", "", " ", None, "A", "B"],
            "price": [math.inf, math.nan, -1.0, 0.0, None, math.e - 1],
        }
    )
    brands = _labels(items, "brand")
    assert (brands == -1).tolist() == [False, True, True, False, False, False]
    assert brands[0] == brands[5] != brands[3] == brands[4]
    assert (_branches(items, "categories") >= 0).sum(axis=1).tolist() == [2, 0, 0, 0, 1, 1]
    np.testing.assert_array_equal(_logarithms(items, "price"), np.float32([np.nan, np.nan, np.nan, 0, np.nan, 1]))
