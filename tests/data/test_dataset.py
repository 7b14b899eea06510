"""Loading, sequences and splits; input that can't be used is refused with its file, row and remedy."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.demo import write_demo
from tiger.data.dataset import RecommendationData
from tiger.data.readers import read_events
from tiger.data.sequences import Sequences
from tiger.utils.errors import DataError

DAY = 86_400
ITEMS = {"item_id": ["a", "b", "c", "d"], "title": ["A", "B", "C", "D"]}
# u2 appears first; u1's rows are out of order; u3 has two events only; u2's first two share a second.
LOG = {
    "user_id": ["u2", "u1", "u1", "u2", "u3", "u1", "u2", "u3", "u1"],
    "item_id": ["c", "d", "a", "a", "b", "b", "d", "c", "c"],
    "timestamp": [5, 40, 10, 5, 7, 20, 9, 8, 30],
}


def write(folder: Path, items: dict | pa.Table = ITEMS, log: dict | pa.Table = LOG) -> Path:
    for name, table in (("items", items), ("interactions", log)):
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), folder / f"{name}.parquet")
    return folder


def replaced(table: dict, column: str, row: int, value) -> dict:
    values = list(table[column])
    values[row] = value
    return {**table, column: values}


def as_lists(sequences: Sequences) -> list[list[int]]:
    return [sequence.tolist() for sequence in sequences]


def example() -> Sequences:
    return Sequences(
        np.array([0, 3, 3, 5], dtype=np.int64),
        np.array([4, 5, 6, 7, 8], dtype=np.int32),
        np.array([10, 20, DAY, 5, 6], dtype=np.int64),
    )


def test_sequences_by_hand():
    sequences = example()
    assert len(sequences) == 3
    assert sequences.lengths.tolist() == [3, 0, 2]
    assert sequences.users.tolist() == [0, 0, 0, 2, 2]
    assert as_lists(sequences) == [[4, 5, 6], [], [7, 8]]
    assert as_lists(sequences.select(np.array([2, 0, 2]))) == [[7, 8], [4, 5, 6], [7, 8]]
    assert as_lists(sequences.select(np.array([True, True, False]))) == [[4, 5, 6], []]
    assert as_lists(sequences.select(np.array([], dtype=np.int64))) == []
    assert as_lists(sequences.drop_last(2)) == [[4], [], []]
    assert as_lists(sequences.keep_last(2)) == [[5, 6], [], [7, 8]]
    assert sequences.keep_last(1).timestamps.tolist() == [DAY, 6]
    assert as_lists(sequences.keep_last(0)) == [[], [], []]
    assert sequences.select(np.array([2])).items.dtype == np.int32


SEQUENCES = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4 * DAY)), max_size=6), max_size=6)


def build(users: list[list[tuple[int, int]]]) -> Sequences:
    users = [sorted(user, key=lambda event: event[1]) for user in users]
    events = [event for user in users for event in user]
    return Sequences(
        np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64),
        np.array([item for item, _ in events], dtype=np.int32),
        np.array([second for _, second in events], dtype=np.int64),
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(SEQUENCES, st.integers(0, 7))
def test_sequences_agree_with_lists(users, count):
    sequences = build(users)
    lists = as_lists(sequences)
    assert as_lists(sequences.keep_last(count)) == [items[max(len(items) - count, 0) :] for items in lists]
    assert as_lists(sequences.drop_last(count)) == [items[: max(len(items) - count, 0)] for items in lists]
    rows = np.arange(len(lists))[::-1]
    assert as_lists(sequences.select(rows)) == lists[::-1]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(SEQUENCES, st.integers(0, 3))
def test_shuffle_ties_moves_events_within_their_day_only(users, seed):
    sequences = build(users)
    shuffled = sequences.shuffle_ties(seed)
    assert shuffled.offsets.tolist() == sequences.offsets.tolist()
    assert (shuffled.timestamps // DAY).tolist() == (sequences.timestamps // DAY).tolist()

    def events(sequences):
        return sorted(zip(sequences.users.tolist(), sequences.timestamps.tolist(), sequences.items.tolist()))

    assert events(shuffled) == events(sequences)
    assert shuffled.items.tolist() == sequences.shuffle_ties(seed).items.tolist()


def test_shuffle_ties_reaches_every_order():
    sequences = Sequences(np.array([0, 3]), np.arange(3, dtype=np.int32), np.array([1, 2, DAY]))
    orders = {tuple(sequences.shuffle_ties(seed).items.tolist()) for seed in range(20)}
    assert orders == {(0, 1, 2), (1, 0, 2)}


def test_load_orders_by_time_and_keeps_the_file_order_of_ties(tmp_path):
    data = RecommendationData.load(write(tmp_path))
    assert data.user_ids.to_pylist() == ["u2", "u1", "u3"]
    assert data.item_ids == ["a", "b", "c", "d"] and data.num_items == 4
    assert as_lists(data.sequences) == [[2, 0, 3], [0, 1, 2, 3], [1, 2]]
    assert data.sequences.timestamps.tolist() == [5, 5, 9, 10, 20, 30, 40, 7, 8]
    kinds = (data.sequences.offsets.dtype, data.sequences.items.dtype, data.sequences.timestamps.dtype)
    assert kinds == (np.int64, np.int32, np.int64)
    assert data.extras == {}
    assert data.items.column_names == ["item_id", "title"]


def test_ties_stay_in_file_order_in_a_long_log(tmp_path):
    rng = np.random.default_rng(0)
    users, seconds = rng.integers(0, 30, 5000), rng.integers(0, 4, 5000) * 3 * 10**10
    data = RecommendationData.from_tables(
        pa.table({"item_id": [str(row) for row in range(5000)]}),
        pa.table({"user_id": users.astype(str), "item_id": np.arange(5000).astype(str), "timestamp": seconds}),
    )
    for user, items in zip(data.user_ids.to_pylist(), data.sequences):
        own = np.flatnonzero(users == int(user))
        assert items.tolist() == own[np.argsort(seconds[own], kind="stable")].tolist()


def test_milliseconds_are_not_taken_for_seconds():
    log = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1_700_000_000_000]})
    with pytest.raises(DataError, match="whole seconds"):
        RecommendationData.from_tables(pa.table({"item_id": ["a"]}), log)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pa.array([3, -5, -9]), "row 2: timestamp -9 is before 1970"),
        (
            pa.array([3, 4, 2**64 - 1], pa.uint64()),
            "row 2: timestamp 18446744073709551615 is thousands of years ahead",
        ),
        (pa.array([10**12, 3, 4]), "row 0: timestamp 1000000000000 is thousands .*Divide milliseconds by 1000"),
    ],
)
def test_times_out_of_range_are_refused_with_their_row(tmp_path, times, message):
    log = pa.table({"user_id": ["u"] * 3, "item_id": ["a"] * 3, "timestamp": times})
    with pytest.raises(DataError, match=message):
        RecommendationData.from_tables(pa.table(ITEMS), log)
    with pytest.raises(DataError, match=rf"interactions.parquet, {message}"):
        RecommendationData.load(write(tmp_path, log=log))
    with pytest.raises(DataError, match=message):
        list(read_events(tmp_path / "interactions.parquet"))


def test_extras_follow_their_events(tmp_path):
    log = {
        **LOG,
        "rating": [float(second) for second in LOG["timestamp"]],
        "label": [1, 0] * 4 + [1],
        "note": ["x"] * 9,
    }
    data = RecommendationData.load(write(tmp_path, log=log))
    assert data.extras["rating"].tolist() == data.sequences.timestamps.tolist()
    assert sorted(data.extras) == ["label", "rating"]
    assert data.extras["label"].sum() == 5


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_id_columns_may_be_any_text(tmp_path, kind):
    log = pa.table(LOG)
    for index, name in enumerate(("user_id", "item_id")):
        log = log.set_column(index, name, log[name].cast(kind))
    items = pa.table(ITEMS)
    items = items.set_column(0, "item_id", items["item_id"].cast(kind))
    expected = [[2, 0, 3], [0, 1, 2, 3], [1, 2]]
    assert as_lists(RecommendationData.load(write(tmp_path, items, log)).sequences) == expected
    data = RecommendationData.from_tables(items, log)
    assert as_lists(data.sequences) == expected and data.item_ids == ["a", "b", "c", "d"]


def test_batches_and_their_borders_do_not_matter(tmp_path, monkeypatch):
    whole = RecommendationData.load(write(tmp_path))
    monkeypatch.setattr("tiger.data.readers._BATCH_ROWS", 2)
    batched = RecommendationData.load(tmp_path)
    assert as_lists(batched.sequences) == as_lists(whole.sequences)
    assert batched.user_ids.to_pylist() == whole.user_ids.to_pylist()
    assert batched.items.equals(whole.items)
    # Row numbers in messages are the file's, in whichever batch the row lies.
    with pytest.raises(DataError, match=r"interactions.parquet, row 6: timestamp is null"):
        RecommendationData.load(write(tmp_path, log=replaced(LOG, "timestamp", 6, None)))
    with pytest.raises(
        DataError, match=r"interactions.parquet, row 7: item 'zzz' is not in .*items.parquet \(1 events"
    ):
        RecommendationData.load(write(tmp_path, log=replaced(LOG, "item_id", 7, "zzz")))


def test_paths_with_wildcards_are_taken_literally(tmp_path):
    folder = tmp_path / "a[b]*"
    folder.mkdir()
    assert len(RecommendationData.load(write(folder)).sequences) == 3


def test_a_file_written_anew_is_read_anew(tmp_path):
    RecommendationData.load(write(tmp_path))
    assert RecommendationData.load(write(tmp_path, items={"item_id": list("abcde")})).num_items == 5


def test_hub_data_sets(tmp_path, monkeypatch):
    write(tmp_path)
    calls = []

    def load_dataset(path, data_files, split, revision):
        calls.append((path, data_files, split, revision))
        return datasets.Dataset(pq.read_table(tmp_path / data_files))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    files = {"items.parquet", "interactions.parquet"}
    monkeypatch.setattr("tiger.data.hub_data._files", lambda path, revision: files)
    data = RecommendationData.load("someone/shop", revision="v1")
    assert as_lists(data.sequences) == [[2, 0, 3], [0, 1, 2, 3], [1, 2]]
    assert calls == [("someone/shop", f"{name}.parquet", "train", "v1") for name in ("items", "interactions")]

    write(tmp_path, log={"user_id": ["u"], "item_id": ["a"]})
    with pytest.raises(DataError, match="someone/shop/interactions.parquet has no column 'timestamp'"):
        RecommendationData.load("someone/shop")
    write(tmp_path, log=pa.table(LOG).slice(0, 0))
    with pytest.raises(DataError, match="no events"):
        RecommendationData.load("someone/shop")
    files.remove("interactions.parquet")
    with pytest.raises(DataError, match=r"someone/shop has no interactions.parquet and no interactions/\*.parquet"):
        RecommendationData.load("someone/shop")


def test_shards_and_folders_on_the_hub(tmp_path, monkeypatch):
    write(tmp_path)
    asked = []

    def load_dataset(path, data_files, split, revision):
        asked.append(data_files)
        return datasets.Dataset(pq.read_table(tmp_path / f"{data_files.split('/')[1]}.parquet"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    files = {"one/items/train-0.parquet", "one/interactions/train-0.parquet", "one/interactions/train-1.parquet"}
    monkeypatch.setattr("tiger.data.hub_data._files", lambda path, revision: files)
    assert as_lists(RecommendationData.load("someone/shops", config="one").sequences) == [
        [2, 0, 3],
        [0, 1, 2, 3],
        [1, 2],
    ]
    assert asked == ["one/items/*.parquet", "one/interactions/*.parquet"]


def test_without_the_hub_the_cache_alone_is_asked(monkeypatch):
    """`datasets` by itself would try six times, half a minute long."""
    given = []

    def load_dataset(*args, download_config, **options):
        given.append(download_config.local_files_only)
        raise ConnectionError("not in the cache")

    def unreachable(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(DataError, match=r"someone/shop is neither .*\(not in the cache\)\. Check the name"):
        RecommendationData.load("someone/shop")
    assert given == [True]


@pytest.mark.parametrize("config", [None, "one"])
def test_shards_of_a_directory(tmp_path, config):
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole")
    folder = tmp_path / "shards" / (config or "")
    for name in ("items", "interactions"):
        table = pq.read_table(tmp_path / "whole" / f"{name}.parquet")
        (folder / name).mkdir(parents=True)
        pq.write_table(table.slice(0, 2), folder / name / "part-0.parquet")
        kinds = [pa.large_string() if kind == pa.string() else kind for kind in table.schema.types]
        large = table.slice(2).cast(pa.schema(list(zip(table.column_names, kinds))))
        pq.write_table(large, folder / name / "part-1.parquet")
    whole = RecommendationData.load(tmp_path / "whole")
    found = RecommendationData.load(tmp_path / "shards", config=config)
    assert as_lists(found.sequences) == as_lists(whole.sequences) and found.item_ids == whole.item_ids
    pq.write_table(table.drop_columns("timestamp"), folder / "interactions" / "part-2.parquet")
    with pytest.raises(DataError, match="part-2.parquet has no column 'timestamp'"):
        RecommendationData.load(tmp_path / "shards", config=config)
    pq.write_table(table.append_column("more", table["user_id"]), folder / "interactions" / "part-2.parquet")
    with pytest.raises(DataError, match="part-2.parquet and .*part-0.parquet differ in their columns .more"):
        RecommendationData.load(tmp_path / "shards", config=config)
    with pytest.raises(DataError, match="leads out"):
        RecommendationData.load(tmp_path / "shards", config="../whole")


def test_objects_of_datasets(tmp_path):
    write(tmp_path)
    items, log = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("items", "interactions"))
    expected = RecommendationData.load(tmp_path)
    both = datasets.DatasetDict({"items": datasets.Dataset(items), "interactions": datasets.Dataset(log)})
    picked = both["interactions"].select(range(len(log)))
    for one in (both, (both["items"], picked), (items, log), {"items": items.to_pandas(), "interactions": log}):
        found = RecommendationData.load(one)
        assert as_lists(found.sequences) == as_lists(expected.sequences) and found.item_ids == expected.item_ids
    with pytest.raises(DataError, match="no 'interactions' .it has items, log"):
        RecommendationData.load({"items": items, "log": log})
    with pytest.raises(DataError, match="without streaming"):
        RecommendationData.load((items, both["interactions"].to_iterable_dataset()))
    with pytest.raises(DataError, match="items: a int is no table"):
        RecommendationData.load((3, log))
    with pytest.raises(DataError, match="the data is a Dataset"):
        RecommendationData.load(both["items"])
    with pytest.raises(DataError, match="leave them out"):
        RecommendationData.load(both, config="one")


def test_a_dataset_card_that_datasets_reads(tmp_path, monkeypatch):
    """Offline, by the names of the tables; a card of the owner's stays."""
    write_demo(tmp_path / "demo", num_items=100, num_users=5)
    monkeypatch.chdir(tmp_path)
    data = RecommendationData.load("demo")
    cache = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    assert datasets.load_dataset("demo", "items", **cache)["item_id"][:] == data.item_ids
    assert len(datasets.load_dataset("demo", "interactions", **cache)) == len(data.sequences.items)
    (tmp_path / "demo" / "README.md").write_text("mine")
    write_demo(tmp_path / "demo", num_items=100, num_users=5)
    assert (tmp_path / "demo" / "README.md").read_text() == "mine"


@pytest.mark.parametrize("path", ["nowhere", "./no/where", "/no/where/at/all", "a/b/c"])
def test_what_is_no_place_is_refused(path):
    with pytest.raises(DataError, match="neither a directory nor owner/name"):
        RecommendationData.load(path)


def test_mistyped_places_are_named(tmp_path, monkeypatch):
    (tmp_path / "datasets" / "beauty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"neither a directory \(is datasets/beauty meant\?\) nor owner/name"):
        RecommendationData.load("./datasets/Beuty")

    def absent(*args, **options):
        raise ConnectionError("Couldn't reach it\nat all")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    monkeypatch.setattr("tiger.data.hub_data._files", lambda path, revision: None)
    with pytest.raises(
        DataError, match=r"directory here \(is datasets/beauty meant\?\) .*reach it\)\. Check the name"
    ):
        RecommendationData.load("datasets/beuty")


@pytest.mark.parametrize("name", ["items", "interactions"])
def test_missing_empty_and_truncated_files_are_refused(tmp_path, name):
    file = write(tmp_path) / f"{name}.parquet"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"item_id\na\n"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}.parquet is not a whole parquet file .*write it again"):
            RecommendationData.load(tmp_path)
    file.write_bytes(whole[:8] + bytes(24) + whole[32:])
    with pytest.raises(DataError, match=rf"{name}.parquet is damaged .*write it again"):
        RecommendationData.load(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name}.parquet is empty \(0 bytes\): write it again"):
        RecommendationData.load(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=rf"{name}.parquet is missing: a dataset directory holds"):
        RecommendationData.load(tmp_path)


@pytest.mark.parametrize(
    ("items", "log", "message"),
    [
        ({"title": ["A"]}, LOG, r"items.parquet has no column 'item_id' \(it has title\). Add or rename it"),
        (ITEMS, {"user_id": ["u"], "item_id": ["a"]}, r"interactions.parquet has no column 'timestamp'"),
        (ITEMS, {"item_id": ["a"], "timestamp": [1]}, r"interactions.parquet has no column 'user_id'"),
        ({"item_id": [1, 2]}, LOG, r"items.parquet: column 'item_id' is int64, expected text. Convert it"),
        (ITEMS, {**LOG, "user_id": list(range(9))}, r"column 'user_id' is int64, expected text"),
        (ITEMS, {**LOG, "timestamp": [0.5] * 9}, r"column 'timestamp' is double, expected whole seconds"),
        (ITEMS, {**LOG, "timestamp": ["1"] * 9}, r"column 'timestamp' is string, expected whole seconds"),
        (replaced(ITEMS, "item_id", 2, None), LOG, r"items.parquet, row 2: item_id is null. Fill it in"),
        (ITEMS, replaced(LOG, "user_id", 3, None), r"interactions.parquet, row 3: user_id is null"),
        (ITEMS, replaced(LOG, "item_id", 8, None), r"interactions.parquet, row 8: item_id is null"),
        (ITEMS, replaced(LOG, "timestamp", 0, None), r"interactions.parquet, row 0: timestamp is null"),
        (
            ITEMS,
            replaced(LOG, "item_id", 4, "e"),
            r"interactions.parquet, row 4: item 'e' is not in .*\(1 events in all",
        ),
        (
            {"item_id": ["a", "b", "d"]},
            LOG,
            r"interactions.parquet, row 0: item 'c' is not in .*\(3 events in all\). Add the items or drop the events",
        ),
        (replaced(ITEMS, "item_id", 1, "a"), LOG, r"items.parquet: 1 item ids occur more than once, 'a' for one"),
        (
            pa.Table.from_arrays([pa.array(["a"])] * 3, names=["item_id", "title", "title"]),
            LOG,
            r"items.parquet has the column 'title' twice",
        ),
        (ITEMS, pa.table(LOG).append_column("timestamp", pa.array([1] * 9)), r"has the column 'timestamp' twice"),
        (ITEMS, {**LOG, "rating": [[1]] * 9}, r"interactions.parquet: column 'rating' is list<.*>, expected a number"),
        (ITEMS, {**LOG, "label": ["a"] * 9}, r"interactions.parquet: column 'label' is string, expected a number"),
        ({"item_id": [b"a"]}, LOG, r"items.parquet: column 'item_id' is binary, expected text"),
        (pa.table(ITEMS).slice(0, 0), LOG, r"items.parquet: no items. Write at least one row"),
        (ITEMS, pa.table(LOG).slice(0, 0), r"interactions.parquet: no events. Write at least one row"),
    ],
)
def test_bad_tables_are_refused(tmp_path, items, log, message):
    with pytest.raises(DataError, match=message):
        RecommendationData.load(write(tmp_path, items, log))
    items, log = (table if isinstance(table, pa.Table) else pa.table(table) for table in (items, log))
    with pytest.raises(DataError, match=message):
        RecommendationData.from_tables(items, log)


def test_leave_one_out_by_hand(tmp_path):
    split = RecommendationData.load(write(tmp_path)).leave_one_out()
    assert split.users.tolist() == [0, 1] and split.num_left_out == 1
    assert as_lists(split.train) == [[2], [0, 1]]
    assert as_lists(split.valid_histories) == [[2], [0, 1]]
    assert split.valid_targets.tolist() == [0, 2]
    assert as_lists(split.test_histories) == [[2, 0], [0, 1, 2]]
    assert split.test_targets.tolist() == [3, 3]


def test_leave_one_out_with_ties_shuffled(tmp_path):
    data = RecommendationData.load(write(tmp_path))
    targets = {tuple(data.leave_one_out(shuffle_ties=seed).test_targets.tolist()) for seed in range(60)}
    assert targets == {(last, other) for last in (0, 2, 3) for other in range(4)}  # all on day 0
    same = [data.leave_one_out(shuffle_ties=3).train.items.tolist() for _ in range(2)]
    assert same[0] == same[1]


def test_leave_one_out_needs_three_events():
    log = pa.table({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]})
    with pytest.raises(DataError, match="no user has three events or more"):
        RecommendationData.from_tables(pa.table(ITEMS), log).leave_one_out()


def test_temporal_split_cuts_between_days():
    seconds = [day * DAY + hour * 3600 for day in range(10) for hour in (1, 2, 23)]
    log = {"user_id": [f"u{row % 4}" for row in range(30)], "item_id": ["a"] * 30, "timestamp": seconds}
    data = RecommendationData.from_tables(pa.table(ITEMS), pa.table(log))
    split = data.temporal_split(train_share=0.5, valid_share=0.25)
    days = data.sequences.timestamps // DAY
    # Event 15 of 30 lies on day 5, event 22 on day 7: these days begin validation and test.
    assert (split.valid_from, split.test_from) == (5 * DAY, 7 * DAY)
    assert set(days[split.train]) == {0, 1, 2, 3, 4}
    assert set(days[split.valid]) == {5, 6}
    assert set(days[split.test]) == {7, 8, 9}
    assert sorted(np.concatenate([split.train, split.valid, split.test])) == list(range(30))


@pytest.mark.parametrize("shares", [(0, 0.1), (0.8, 0.2), (0.9, -0.1), (0.5, 0.6)])
def test_temporal_split_refuses_shares(shares):
    data = RecommendationData.from_tables(pa.table(ITEMS), pa.table(LOG))
    with pytest.raises(ValueError, match="shares must be positive"):
        data.temporal_split(*shares)


LOAD = """
import resource, sys, time
import datasets
from tiger.data import RecommendationData
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
data = RecommendationData.load(sys.argv[1])
seconds = time.process_time() - start
print(len(data.sequences.items), seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_a_million_events_load_quickly_and_small(tmp_path):
    """A tenth of the promise of 10 million events in 10 s and 1 GiB, with room for a busy machine."""
    rng = np.random.default_rng(0)
    events, users, items = 1_000_000, 100_000, 10_000
    item_ids = pa.array([f"item-{row:08d}" for row in range(items)])
    user_ids = pa.array([f"user-{row:08d}" for row in range(users)])
    log = pa.table(
        {
            "user_id": user_ids.take(pa.array(rng.integers(0, users, events))),
            "item_id": item_ids.take(pa.array(rng.integers(0, items, events))),
            "timestamp": rng.integers(0, 10**9, events),
        }
    )
    write(tmp_path, pa.table({"item_id": item_ids}), log)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["USE_TORCH"] = "0"  # `datasets` would import it midway and spoil both figures
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    loaded, seconds, mebibytes = (float(word) for word in run.stdout.split())
    assert loaded == events
    assert seconds < 5
    assert mebibytes < 300


def test_special_columns_of_other_names_are_told(tmp_path):
    items = {"item_id": ["a", "b", "c", "d"], "name": list("ABCD"), "category": list("xxyy"), "price": ["$1"] * 4}
    with pytest.warns(UserWarning) as caught:
        RecommendationData.load(write(tmp_path, items=items))
    told = [str(warning.message) for warning in caught if "items.parquet" in str(warning.message)]
    assert (
        "has no column 'title': rename 'name' if that is what it holds, or read the files by `tiger import`" in told[0]
    )
    assert "has no column 'categories': rename 'category'" in told[1]
    assert "the column 'price' is string: only numbers are prices" in told[2] and len(told) == 3


def test_the_usual_columns_are_no_reason_for_a_warning(tmp_path, recwarn):
    items = {**ITEMS, "brand": list("ABCD"), "categories": list("xxyy"), "price": [1.0] * 4, "note": list("nnnn")}
    RecommendationData.load(write(tmp_path, items=items))
    assert not [warning for warning in recwarn if "items.parquet" in str(warning.message)]


def test_temporal_split_refuses_a_log_of_one_day():
    items = pa.table({"item_id": ["a", "b"]})
    events = pa.table({"user_id": ["u"] * 4, "item_id": ["a", "b", "a", "b"], "timestamp": [86_400 * 400] * 4})
    with pytest.raises(DataError, match="needs events of more days: 0 of 4 come before the day of the first cut"):
        RecommendationData.from_tables(items, events).temporal_split()


def test_a_file_in_place_of_a_directory_is_told_without_a_look_at_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "items.csv").write_text("item_id,title\n1,Tent\n")
    with pytest.raises(DataError, match="mine/items.csv is a file: make a dataset directory .* by `tiger import`"):
        RecommendationData.load("mine/items.csv")
