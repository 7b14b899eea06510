"""The made-up shop: the same bytes every time, a sound dataset directory, and a structure that a model can find."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import demo
import demo_products
import numpy as np
import pyarrow.parquet as pq
import pytest

from data.demo import write_demo
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import SECONDS_PER_DAY

FILES = ["README.md", "interactions.parquet", "items.parquet"]


def digests(directory: Path) -> list[str]:
    """Of all files; the README has the directory's name."""
    return [hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in FILES]


@pytest.fixture(scope="module")
def shop_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo")
    write_demo(path)
    return path


@pytest.fixture(scope="module")
def shop(shop_path):
    return RecommendationData.load(shop_path)


def ndcg_at_10(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean NDCG@10 of one target a row, ties by their mean rank; ``scores`` is [users, items]."""
    own = scores[np.arange(len(targets)), targets][:, None]
    rank = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())


def test_directory_holds_the_two_tables_and_nothing_else(shop_path, shop):
    assert sorted(p.name for p in shop_path.iterdir()) == FILES
    assert shop.items.column_names == ["item_id", "title", "brand", "categories", "price"]
    assert shop.num_items == 2_400
    assert len(shop.user_ids) == 6_000
    lengths = shop.sequences.lengths
    assert lengths.min() == 5
    assert lengths.max() == 30
    assert 8.8 < lengths.mean() < 9.2


def test_titles_are_readable_and_unique(shop):
    row = shop.items.slice(0, 1).to_pylist()[0]
    brand, categories = row["brand"], row["categories"]
    assert row["title"].startswith(brand + " ")
    assert categories.split(" > ")[-1] in row["title"]
    assert len(set(shop.items["title"].to_pylist())) == 2_400
    assert len(set(shop.items["brand"].to_pylist())) == 48
    assert len(set(shop.items["categories"].to_pylist())) == len(demo_products.PRODUCT_TYPES.strip().splitlines())
    assert all(price > 0.9 for price in shop.items["price"].to_pylist())


def test_item_ids_say_nothing_of_the_order(shop):
    ids = shop.item_ids
    assert ids == sorted(ids)
    assert all(len(name) == 10 and set(name) <= set("0123456789abcdef") for name in ids)
    # Sorted ids mix the categories as chance would: neighbours in the table share one in about 1 of 75 cases.
    paths = shop.items["categories"].to_pylist()
    assert np.mean([a == b for a, b in zip(paths, paths[1:])]) < 0.03


def test_nobody_buys_twice_and_time_goes_forward(shop):
    sequences = shop.sequences
    assert all(len(set(items.tolist())) == len(items) for items in sequences)
    steps = np.diff(sequences.timestamps)[np.diff(sequences.users) == 0]
    assert steps.min() >= 60
    same_day = np.diff(sequences.timestamps // SECONDS_PER_DAY)[np.diff(sequences.users) == 0] == 0
    assert 0.25 < same_day.mean() < 0.45
    days = sequences.timestamps // SECONDS_PER_DAY - demo.FIRST_DAY
    assert days.min() == 0
    assert days.max() == demo.NUM_DAYS - 1
    assert np.unique(shop.extras["rating"]).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_some_items_are_cold_after_the_last_cut(shop):
    split = shop.temporal_split()
    items = shop.sequences.items
    known = np.zeros(shop.num_items, dtype=bool)
    known[items[np.concatenate([split.train, split.valid])]] = True
    assert 0.02 < (~known[items[split.test]]).mean() < 0.1


def test_histories_and_texts_tell_more_than_popularity(shop):
    split = shop.leave_one_out()
    train, histories, targets = split.train, split.test_histories, split.test_targets
    last = histories.items[histories.offsets[1:] - 1]
    bought = np.zeros((len(targets), shop.num_items), dtype=bool)
    bought[histories.users, histories.items] = True
    counts = np.bincount(train.items, minlength=shop.num_items)
    follows = np.diff(train.users) == 0
    before, after = train.items[:-1][follows], train.items[1:][follows]

    item_moves = np.zeros((shop.num_items, shop.num_items), dtype=np.float32)
    np.add.at(item_moves, (before, after), 1)

    paths, path_of = np.unique(shop.items["categories"].to_pylist(), return_inverse=True)
    brand_of = np.unique(shop.items["brand"].to_pylist(), return_inverse=True)[1]
    path_moves = np.zeros((len(paths), len(paths)), dtype=np.float32)
    np.add.at(path_moves, (path_of[before], path_of[after]), 1)
    same_brand = brand_of[last][:, None] == brand_of

    def ndcg(scores: np.ndarray) -> float:
        return ndcg_at_10(np.where(bought, -1, scores), targets)

    popularity = ndcg(np.broadcast_to(counts, bought.shape))
    transition = ndcg(item_moves[last])
    text = ndcg(path_moves[path_of[last]][:, path_of] * (counts + 1) * (1 + 5 * same_brand))
    assert popularity < 0.02
    assert transition > 0.05
    assert text > 1.2 * transition  # what the texts share goes further than single items do


def test_the_same_bytes_on_every_run(tmp_path):
    write_demo(tmp_path / "a" / "demo", num_items=200, num_users=150, seed=3)
    write_demo(tmp_path / "b" / "demo", num_items=200, num_users=150, seed=3)
    write_demo(tmp_path / "c" / "demo", num_items=200, num_users=150, seed=4)
    assert digests(tmp_path / "a" / "demo") == digests(tmp_path / "b" / "demo")
    assert digests(tmp_path / "a" / "demo") != digests(tmp_path / "c" / "demo")


def test_script_in_another_process_writes_the_same_bytes(tmp_path):
    write_demo(tmp_path / "here" / "demo", num_items=200, num_users=150, seed=3)
    script = Path(demo.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent), "PYTHONHASHSEED": "7"}
    command = [
        sys.executable,
        script,
        "--out",
        tmp_path / "there" / "demo",
        "--num-items",
        "200",
        "--num-users",
        "150",
    ]
    done = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True, env=environment, check=True)
    assert "200 items, 150 users" in done.stdout
    assert digests(tmp_path / "here" / "demo") == digests(tmp_path / "there" / "demo")


def test_values_of_a_seed_stay_what_they_are(tmp_path):
    write_demo(tmp_path, num_items=200, num_users=150, seed=3)
    items = pq.read_table(tmp_path / "items.parquet")
    events = pq.read_table(tmp_path / "interactions.parquet")
    assert items.slice(0, 1).to_pylist() == [
        {
            "item_id": "01430e1335",
            "title": "Nestastowe Meadow Sturdy Resin Fountain Pen, Fine Nib, Mustard",
            "brand": "Nestastowe",
            "categories": "Desk > Writing > Fountain Pen",
            "price": 98.0,
        }
    ]
    assert events.num_rows == 1_294
    assert events.slice(0, 1).to_pylist() == [
        {"user_id": "39f0bb0398", "item_id": "bf35a4d4fd", "timestamp": 1_650_202_003, "rating": 4.0}
    ]


def test_smallest_shop_and_refusals(tmp_path):
    write_demo(tmp_path, num_items=100, num_users=40)
    small = RecommendationData.load(tmp_path)
    assert small.num_items == 100
    assert all(len(set(items.tolist())) == len(items) for items in small.sequences)
    with pytest.raises(ValueError, match="need 100 items or more"):
        write_demo(tmp_path, num_items=99)
    with pytest.raises(ValueError, match="and a user"):
        write_demo(tmp_path, num_users=0)
    assert demo.main(["--out", str(tmp_path / "none"), "--num-items", "5"]) == 1
    assert not (tmp_path / "none").exists()


def test_interrupted_run_leaves_what_was_there(tmp_path, monkeypatch):
    write_demo(tmp_path, num_items=100, num_users=40)
    before = digests(tmp_path)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.pq, "write_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path, num_items=100, num_users=40, seed=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    assert digests(tmp_path) == before


def test_every_product_type_leads_to_others_that_exist():
    types = demo.product_types()
    assert len(set(types.nouns)) == len(types.nouns) == 75
    assert types.successors.min() >= 0
    assert not (types.successors == np.arange(75)[:, None]).any()
    assert np.all(np.diff(types.departments) >= 0)  # _type_of searches in them
