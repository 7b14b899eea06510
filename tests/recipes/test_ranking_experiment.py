import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.experiments import ranking, ranking_report
from tests.conftest import auc_error
from tiger.rankers.click.features import ItemFeatures
from tiger.utils.errors import DataError

DAY = 86_400
WORDS = "tent lamp stove rope boots map pan cup".split()


def write_dataset(folder: Path, seed: int = 0, change_after: int | None = None, users: int = 300) -> Path:
    """Users who keep to one of eight kinds of items; from ``change_after`` on, other items than before."""
    random = np.random.default_rng(seed)
    num_items = 120
    kinds = np.arange(num_items) % 8
    texts = [f"{WORDS[kind]} {WORDS[kind]} number {row}" for row, kind in enumerate(kinds)]
    rows = []
    for user in range(users):
        taste = random.integers(8)
        for day in np.sort(random.integers(0, 100, 8)):
            known = np.flatnonzero((kinds == taste) & (np.arange(num_items) < 40 + day))
            item = int(random.choice(known))
            if change_after is not None and day >= change_after:
                item = (item + 40) % num_items
            rows.append((f"u{user}", f"i{item}", int(day) * DAY, float(random.integers(1, 6))))
    folder.mkdir(parents=True)
    items = pa.table({"item_id": [f"i{row}" for row in range(num_items)], "title": texts})
    pq.write_table(items, folder / "items.parquet")
    columns = dict(zip(("user_id", "item_id", "timestamp", "rating"), map(list, zip(*rows))))
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    return folder


def arguments(dataset: Path, **changes) -> ranking.RankingArguments:
    options = {"num_codebooks": 2, "codebook_size": 8, "epochs": 3, "batch": 64, "d_model": 16} | changes
    return ranking.RankingArguments(dataset=str(dataset), **options)


@pytest.mark.parametrize("rating", [None, 4.0])
def test_nothing_after_the_cut_reaches_training(tmp_path, rating):
    one = ranking.prepare(arguments(write_dataset(tmp_path / "one"), rating_at_least=rating))
    # Events from the cut on are of other items; days, and so the cut, stay where they are.
    cut = 82
    two = ranking.prepare(arguments(write_dataset(tmp_path / "two", change_after=cut), rating_at_least=rating))
    assert not np.array_equal(one.test.candidates, two.test.candidates)
    assert np.array_equal(one.popularity, two.popularity)
    assert np.array_equal(one.codes, two.codes) and np.array_equal(one.embeddings, two.embeddings)
    assert np.array_equal(one.train.candidates, two.train.candidates)
    assert np.array_equal(one.train.labels, two.train.labels)
    index = np.arange(len(one.train))
    assert np.array_equal(one.train.history(index, 20), two.train.history(index, 20))
    features = [ItemFeatures.fit("spm", 100, part.codes, 8, impressions=part.popularity) for part in (one, two)]
    assert features[0].fingerprint == features[1].fingerprint


def test_cold_lists_hold_cold_items_alone(tmp_path):
    benchmark = ranking.prepare(arguments(write_dataset(tmp_path / "data")))
    for part in (benchmark.cold, benchmark.valid_cold):
        shown = part.candidates[part.labels >= 0]
        assert len(shown) and (benchmark.popularity[shown] == 0).all()
    assert (benchmark.train.labels == 1).sum() == len(benchmark.train)


def test_representations_are_compared(tmp_path, monkeypatch):
    dataset, results = write_dataset(tmp_path / "data"), tmp_path / "results"
    argv = ["ranking.py", "--dataset", str(dataset), "--results_dir", str(results), "--num_codebooks", "2"]
    argv += ["--codebook_size", "8", "--budgets", "12", "60", "--seeds", "0", "1", "--epochs", "3", "--batch", "64"]
    argv += ["--kinds", "random_hash", "unigram", "spm", "unigram+dense", "--d_model", "16"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.chdir(tmp_path)
    ranking.main()
    content = json.loads((results / "data.json").read_text())
    assert len(content["runs"]) == 16
    found = {(row["kind"], row["budget"], row["seed"]): row["metrics"] for row in content["runs"]}
    assert "needs a row for each" in found["spm", 12, 0]["could_not_run"]
    # Users keep to their kind of item and codes follow kinds, so codes know new items and hashes don't.
    assert found["unigram", 60, 0]["auc_cold"] > 0.7 > 0.6 > found["random_hash", 60, 0]["auc_cold"]
    before = (results / "data.json").read_bytes()
    ranking.main()  # nothing left to do
    assert (results / "data.json").read_bytes() == before
    monkeypatch.setattr(sys, "argv", ["ranking_report.py", str(results)])
    ranking_report.main()
    text = (results / "README.md").read_text()
    assert "could not run" in text and "unigram+dense" in text and (results / "ranking.png").exists()


def test_nothing_cold_and_no_ratings(tmp_path):
    args = arguments(write_dataset(tmp_path / "data"))
    benchmark = ranking.prepare(args)
    nobody = np.empty(0, dtype=np.int64)
    none = ranking.labeled_impressions(benchmark.test.histories, nobody, nobody, benchmark.test.histories)
    metrics = ranking.run(args, replace(benchmark, cold=none, valid_cold=none), "unigram", 60, seed=0)
    assert len(none) == 0 and "auc" in metrics and "auc_cold" not in metrics
    log = tmp_path / "data" / "interactions.parquet"
    pq.write_table(pq.read_table(log).drop_columns("rating"), log)
    with pytest.raises(DataError, match="no column rating"):
        ranking.prepare(arguments(tmp_path / "data", rating_at_least=4.0))


def test_runs_of_several_settings_are_not_mixed(tmp_path):
    runs = [{"kind": "spm", "budget": 9, "seed": 0, "epochs": 2, "shuffle_labels": False, "metrics": {"auc": 0.7}}]
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"dataset": "data", "runs": [*runs, runs[0] | {"shuffle_labels": True}]}))
    assert ranking_report.read(tmp_path)["data"]["runs"] == runs
    file.write_text(json.dumps({"dataset": "data", "runs": [*runs, runs[0] | {"epochs": 5}]}))
    with pytest.raises(DataError, match="several settings"):
        ranking_report.read(tmp_path)


def test_shuffled_labels_teach_nothing(tmp_path):
    args = arguments(write_dataset(tmp_path / "data", users=6000), shuffle_labels=True, batch=512)
    benchmark = ranking.prepare(args)
    metrics = ranking.run(args, benchmark, "unigram+dense", 60, seed=0)
    assert abs(metrics["auc"] - 0.5) < 4 * auc_error(benchmark.test.labels) < 0.03
    assert abs(metrics["valid_auc"] - 0.5) < 4 * auc_error(benchmark.valid.labels) < 0.03


@pytest.fixture
def stability(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(ranking.__file__).parent))
    return importlib.import_module("stability")


def test_items_that_share_a_prefix(stability):
    random = np.random.default_rng(0)
    codes, vectors = random.integers(0, 3, (60, 3)), random.normal(size=(60, 5))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = stability.shared_prefixes(codes, vectors)
    for length in (1, 2, 3):
        same = (codes[:, None, :length] == codes[None, :, :length]).all(-1)
        pairs = same & ~np.eye(60, dtype=bool)
        assert found["mean_cosine"][length - 1] == pytest.approx((units @ units.T)[pairs].mean(), abs=1e-4)
        assert found["items_a_prefix"][length - 1] == pytest.approx(60 / len(np.unique(same, axis=0)), abs=0.01)
        assert found["largest"][length - 1] == same.sum(axis=1).max()
        assert found["shared_by_items"][length - 1] == pytest.approx(pairs.any(axis=1).mean(), abs=1e-4)


def test_product_codes_are_of_slices_of_the_rotated_vectors(stability):
    random = np.random.default_rng(0)
    vectors = random.integers(0, 2, (200, 2)) @ np.array([[5.0, 0, 0, 1], [0, 3.0, 1, 0]])
    codes = stability.product_codes(vectors, np.arange(100), levels=2, size=2)
    # Two independent bits: each is a code of its own, and a new item gets that of its like.
    assert codes.shape == (200, 2) and len(np.unique(codes, axis=0)) == 4
    _, kind = np.unique(vectors, axis=0, return_inverse=True)
    assert len(np.unique(np.column_stack([kind.ravel(), codes]), axis=0)) == 4


def test_stability_goes_on_where_it_was(stability, tmp_path, monkeypatch, capsys):
    options = f"--dataset {write_dataset(tmp_path / 'data')} --results_dir {tmp_path / 'out'} --seeds 0 --epochs 1"
    options += " --batch 64 --d_model 8 --num_codebooks 2 --codebook_size 8 --levels 3 --sizes 4 --budgets 100"
    some = [("rqvae", "all", 2, 8), ("product", "older half", 2, 8), ("residual-kmeans", "newer half", 3, 4)]
    monkeypatch.setattr(stability, "variants", lambda args: some)
    for runs in (3, 0):
        monkeypatch.setattr(sys, "argv", ["stability.py", *options.split()])
        stability.main()
        assert capsys.readouterr().out.count("seed 0") == runs
    content = json.loads((tmp_path / "out" / "data.json").read_text())
    assert len(content["runs"]) == len(content["prefixes"]) == 3
    assert all(0 <= row["metrics"]["auc"] <= 1 for row in content["runs"])
