"""Simulated logs are of their kinds, and can be trained on."""

import importlib
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from recipes.tables import ROOT
from tiger.data.dataset import RecommendationData
from tiger.data.repeats import excludes_history, repeat_share
from tiger.utils.errors import DataError


@pytest.fixture(scope="module")
def any_log():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes" / "experiments"))
        yield importlib.import_module("any_log")


@pytest.fixture(scope="module")
def logs(any_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    return {kind: RecommendationData.load(any_log.write_log(kind, folder, 60, 0)) for kind in any_log.KINDS}


def test_each_log_is_of_its_kind(logs):
    splits = {kind: data.leave_one_out() for kind, data in logs.items()}
    kept = {kind for kind, split in splits.items() if not excludes_history(split)}
    assert {"repeats", "sessions"} <= kept and "popular" not in kept
    assert repeat_share(*splits["repeats"].next_items) > 0.5
    assert logs["small"].num_items == 300 and logs["no_text"].items.column_names == ["item_id"]
    seconds = logs["sessions"].sequences.timestamps
    assert np.median(np.diff(seconds)) < 300
    lengths = logs["giant_tail_users"].sequences.lengths
    assert lengths.max() >= 2000 and np.median(lengths) < 8
    times = logs["ties"].sequences
    assert all(len(set(times.timestamps[one:end])) == 1 for one, end in zip(times.offsets[:-1], times.offsets[1:]))
    used = np.unique(logs["cold"].sequences.items)
    assert len(used) < 0.3 * logs["cold"].num_items
    counts = np.bincount(logs["sparse"].sequences.items)
    assert np.median(counts[counts > 0]) <= 3
    assert logs["two_columns"].items["title"].null_count > 0


def test_equal_seeds_give_equal_logs(any_log, tmp_path, logs):
    again = RecommendationData.load(any_log.write_log("repeats", tmp_path, 60, 0)).sequences
    assert np.array_equal(again.items, logs["repeats"].sequences.items)
    other = RecommendationData.load(any_log.write_log("repeats", tmp_path, 60, 1)).sequences
    assert not np.array_equal(other.items[:50], again.items[:50])


def test_the_table_shows_what_counts_validation_in_its_column(any_log):
    found = {"popularity": 0.1, "hybrid": 0.2, "hybrid-with-validation": 0.3, "tiger": 0.4}
    found["two-stage-with-validation"] = 0.5
    one = {"log": "some", "users": 9, "ndcg@10": found, "history": "kept", "seconds": 1, "broken": []}
    assert any_log.table_of([one]).splitlines()[1].split()[3:-2] == ["0.1000", "-", "0.3000", "-", "0.4000", "0.5000"]


def test_a_broken_promise_is_one_beyond_chance(any_log):
    one = {"model": "two-stage", "baseline": "hybrid", "difference": -0.01, "low": -0.03, "high": 0.01}
    assert any_log._broken(one) == ""
    assert any_log._broken(one | {"high": -0.001}) == "two-stage is below hybrid by 0.0100 N@10"


def test_a_sample_holds_all_events_of_some_users(any_log, tmp_path):
    dataset = any_log.write_log("small", tmp_path, 60, 0)
    args = any_log.AnyLogArguments(dataset=str(dataset), sample=7, out=str(tmp_path / "out"))
    folder = any_log.log_of("small", args)
    whole, kept = (pq.read_table(place / "interactions.parquet").to_pylist() for place in (dataset, folder))
    users = {event["user_id"] for event in kept}
    assert len(users) == 7 and kept == [event for event in whole if event["user_id"] in users]
    assert pq.read_table(folder / "items.parquet") == pq.read_table(dataset / "items.parquet")
    assert len({folder, dataset, any_log.log_of("small", replace(args, seed=1))}) == 3
    # The dataset may be one that this script made: it stays as it is.
    inside = replace(args, dataset=str(folder), sample=3)
    assert any_log.log_of("small", inside) != folder
    assert pq.read_table(folder / "interactions.parquet").to_pylist() == kept
    with pytest.raises(DataError, match="has [0-9,]+ users, give a number from 1"):
        any_log.log_of("small", replace(args, sample=10**6))
