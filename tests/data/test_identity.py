"""Digests of a dataset: the same for the same values, another for every change that matters."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiger.data.dataset import RecommendationData
from tiger.data.identity import check_same_data, data_digests, table_digest, train_digest
from tiger.utils.errors import DataError

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["soap", None, "", "a lamp"],
        "price": [1.0, 2.5, None, 4.0],
        "tags": [["x", "y"], [], None, ["x"]],
    }
)
EVENTS = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("u", "a", 4), ("v", "c", 1), ("v", "b", 1), ("v", "a", 9)]


def log_of(events, **extras):
    users, items, times = zip(*events)
    return pa.table({"user_id": list(users), "item_id": list(items), "timestamp": list(times)} | extras)


def digests(items=ITEMS, events=EVENTS, **extras):
    data = RecommendationData.from_tables(items, log_of(events, **extras))
    return data_digests(data, data.leave_one_out())


def test_the_same_values_have_the_same_digests(tmp_path):
    expected = digests()
    assert set(expected) == {"items", "interactions", "train"} and len(set(expected.values())) == 3
    # Chunks, encodings, widths, compression and the order of users don't matter.
    encoded = ITEMS.set_column(1, "title", ITEMS["title"].cast(pa.large_string()).dictionary_encode())
    assert digests(pa.concat_tables([encoded.slice(0, 1), encoded.slice(1)])) == expected
    assert digests(ITEMS.set_column(2, "price", ITEMS["price"].cast(pa.float32()))) == expected
    assert digests(events=EVENTS[4:] + EVENTS[:4]) == expected
    pq.write_table(ITEMS, tmp_path / "items.parquet", row_group_size=1, compression="gzip")
    pq.write_table(log_of(EVENTS), tmp_path / "interactions.parquet", row_group_size=2)
    data = RecommendationData.load(tmp_path)
    assert data_digests(data, data.leave_one_out()) == expected
    # A slice is its rows, not the buffers that it shares.
    assert table_digest(ITEMS.slice(1, 2)) == table_digest(pa.concat_tables([ITEMS.slice(1, 1), ITEMS.slice(2, 1)]))


@pytest.mark.parametrize(
    "items",
    [
        ITEMS.set_column(1, "title", pa.array(["soap", "", None, "a lamp"])),
        ITEMS.set_column(1, "title", pa.array(["soa", None, "p", "a lamp"])),
        ITEMS.set_column(1, "name", ITEMS["title"]),
        ITEMS.set_column(2, "price", pa.array([1.0, 2.5, 0.0, 4.0])),
        ITEMS.set_column(3, "tags", pa.array([["x"], ["y"], None, ["x"]])),
        ITEMS.set_column(3, "tags", pa.array([["x", "y"], None, [], ["x"]])),
        ITEMS.take([1, 0, 2, 3]),
        ITEMS.select(["item_id", "price", "title", "tags"]),
    ],
)
def test_a_changed_item_table_is_another(items):
    expected, found = digests(), digests(items)
    assert found["items"] != expected["items"]
    assert (found["interactions"], found["train"]) == (expected["interactions"], expected["train"])


def test_a_changed_log_is_another():
    expected = digests()
    held_out = digests(events=[*EVENTS[:3], ("u", "d", 4), *EVENTS[4:]])
    assert held_out["train"] == expected["train"] and held_out["interactions"] != expected["interactions"]
    changes = (
        [("u", "b", 1), ("u", "a", 2), *EVENTS[2:]],
        [("u", "d", 1), *EVENTS[1:]],
        [("u", "a", 0), *EVENTS[1:]],
        [("w", *event[1:]) if event[0] == "u" else event for event in EVENTS],
        EVENTS[:4],
    )
    for events in changes:
        found = digests(events=events)
        assert found["items"] == expected["items"]
        assert found["interactions"] != expected["interactions"] and found["train"] != expected["train"]
    rated = digests(rating=[1.0] * 7)
    assert rated["interactions"] != expected["interactions"]
    assert digests(rating=[1.0] * 6 + [2.0])["interactions"] != rated["interactions"]
    # Another item table, with items before these, is no other log.
    more = pa.concat_tables([pa.table({"item_id": ["0"], "title": ["new"]}), ITEMS], promote_options="default")
    assert digests(more)["train"] == expected["train"]


def test_of_the_split_that_a_model_was_trained_on():
    data = RecommendationData.from_tables(ITEMS, log_of(EVENTS))
    shuffled = {train_digest(data, data.leave_one_out(seed)) for seed in range(20)}
    assert len(shuffled) > 1 and train_digest(data, data.leave_one_out()) in shuffled


@pytest.mark.parametrize(
    ("plain", "other", "values"),
    [
        (pa.struct([("a", pa.string())]), pa.struct([("a", pa.string_view())]), [{"a": "x"}, {"a": None}, None]),
        (pa.list_(pa.int64()), pa.list_view(pa.int64()), [[1, 2], [], None]),
    ],
)
def test_views_have_the_digests_of_what_they_show(plain, other, values):
    one, another = (table_digest(pa.table({"column": pa.array(values, kind)})) for kind in (plain, other))
    assert one == another != table_digest(pa.table({"column": pa.array(values[::-1], plain)}))


def test_columns_of_other_types():
    table = pa.table({"item_id": ["a", "b"], "day": pa.array([1, None], pa.date32()), "on": [True, None]})
    table = table.append_column("size", pa.array([{"w": 1, "h": None}, None])).append_column("n", pa.nulls(2))
    other = table.set_column(1, "day", pa.array([None, 1], pa.date32()))
    assert table_digest(table) == table_digest(pa.concat_tables([table.slice(0, 1), table.slice(1)]))
    assert table_digest(table) != table_digest(other)
    assert table_digest(pa.table({"item_id": pa.array([], pa.string())})) != table_digest(table.slice(0, 0))
    numbers = [pa.table({"n": pa.array(np.array([1, 2], kind))}) for kind in (np.int8, np.int64, np.uint64)]
    assert len({table_digest(table) for table in numbers}) == 1


def test_the_error_names_the_table_and_the_remedy():
    with pytest.raises(DataError, match="^shop: items.parquet is not what run was made from: do this.$"):
        check_same_data({"items": "1", "train": "2"}, {"items": "3", "train": "2"}, "shop", "run", "do this")
    with pytest.raises(DataError, match="items.parquet and interactions.parquet are not"):
        check_same_data({"items": "1", "interactions": "2"}, {"items": "3", "interactions": "4"}, "shop", "run", "-")
    check_same_data({}, {"items": "3"}, "shop", "run", "-")  # older than digests
