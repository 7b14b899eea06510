import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recipes.experiments import ranking, ranking_report
from tests.conftest import auc_error, write_tables
from tiger.rankers.click.features import ItemFeatures
from tiger.utils.errors import DataError

DAY = 86_400
WORDS = "tent lamp stove rope boots map pan cup".split()


def write_dataset(
    folder: Path, seed: int = 0, change_after: int | None = None, users: int = 300, newest: int = 120
) -> Path:
    """Users who keep to one of eight kinds of items; from ``change_after`` on, other items than before; ``newest``
    items alone are bought."""
    random = np.random.default_rng(seed)
    num_items = 120
    kinds = np.arange(num_items) % 8
    texts = [f"{WORDS[kind]} {WORDS[kind]} number {row}" for row, kind in enumerate(kinds)]
    rows = []
    for user in range(users):
        taste = random.integers(8)
        for day in np.sort(random.integers(0, 100, 8)):
            there = (np.arange(num_items) < 40 + day) & (np.arange(num_items) >= 40 + day - newest)
            known = np.flatnonzero((kinds == taste) & there)
            item = int(random.choice(known))
            if change_after is not None and day >= change_after:
                item = (item + 40) % num_items
            rows.append((f"u{user}", f"i{item}", int(day) * DAY, float(random.integers(1, 6))))
    return write_tables(folder, {"item_id": [f"i{row}" for row in range(num_items)], "title": texts}, rows)


def arguments(dataset: Path, **changes) -> ranking.RankingArguments:
    options = {"num_codebooks": 2, "codebook_size": 8, "epochs": 3, "batch": 64, "d_model": 16} | changes
    return ranking.RankingArguments(dataset=str(dataset), **options)


@pytest.fixture
def scripts(monkeypatch):
    """Imports a script that imports ``ranking`` beside it."""
    monkeypatch.syspath_prepend(str(Path(ranking.__file__).parent))
    return importlib.import_module


@pytest.fixture
def stability(scripts):
    return scripts("stability")


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


def test_negatives_are_of_the_slice_of_their_positive(tmp_path):
    benchmark = ranking.prepare(arguments(write_dataset(tmp_path / "data"), days=10))
    for part in (benchmark.train, benchmark.valid, benchmark.test):
        cold = benchmark.popularity[part.candidates] == 0
        assert (part.candidates >= 0).all() and (cold == cold[:, :1]).all()
        assert (part.labels == np.array([1, 0, 0, 0, 0])).all()
    cold = benchmark.popularity[benchmark.test.candidates] == 0
    assert 0.01 < cold.mean() < 0.5
    found = ranking.sizes(benchmark)
    assert found["of these cold"] == 4 * found["of them cold"] == 4 * cold[:, 0].sum()
    lists = sum(found[f"{part} lists"] for part in ("train", "valid", "test"))
    assert lists + found.get("lists left out for want of negatives", 0) == 300 * 8


def test_scores_that_are_blind_to_users_are_at_a_half(tmp_path, scripts, monkeypatch):
    # Users choose among the items of the last 30 days, so that an item's age tells much of it.
    dataset = write_dataset(tmp_path / "data", users=4000, newest=30)
    benchmark = ranking.prepare(arguments(dataset))
    assert list(benchmark.user_blind) == ["day first seen", "count up to the event", "row number", "random"]
    for name, metrics in benchmark.user_blind.items():
        assert metrics["auc_warm"] == pytest.approx(0.5, abs=0.03), name
        assert metrics["auc"] == pytest.approx(0.5, abs=0.03), name
    # The first version of the benchmark, whose cold items were positives alone.
    monkeypatch.setattr(sys, "argv", f"negatives.py --dataset {dataset} --results_dir {tmp_path}".split())
    scripts("negatives").main()
    rows = json.loads((tmp_path / "data.json").read_text())["rows"]
    before, now = rows[0], rows[-1]
    assert before["user_blind"]["day first seen"]["auc"] > 0.7
    assert before["cold_positives"] > 3 * before["cold_negatives"]
    assert now["cold_positives"] == now["cold_negatives"]
    assert now["user_blind"] == benchmark.user_blind
    assert len(rows) == 7 and all(row["lists"] + row["left_out"] == now["lists"] + now["left_out"] for row in rows)


def test_what_blind_scores_know(tmp_path):
    args = arguments(write_dataset(tmp_path / "data"), rating_at_least=4.0)
    data = ranking.RecommendationData.load(args.dataset)
    events, lists = data.sequences, ranking.prepare(args).test
    liked = data.extras["rating"] >= 4
    scores = ranking.blind_scores(events, ranking.only(events, liked), lists, data.num_items)
    row = 7
    item, now = lists.candidates[row, 0], lists.times[row]
    before = (events.items == item) & (events.timestamps < now)
    assert scores["count up to the event"][row, 0] == before.sum() > 0
    assert scores["share liked up to the event"][row, 0] == (before[liked].sum() + 1) / (before.sum() + 2)
    assert scores["day first seen"][row, 0] == events.timestamps[events.items == item].min()
    assert scores["row number"][row, 0] == item


def test_representations_are_compared(tmp_path, monkeypatch):
    dataset, results = write_dataset(tmp_path / "data"), tmp_path / "results"
    argv = ["ranking.py", "--dataset", str(dataset), "--results_dir", str(results), "--num_codebooks", "2"]
    argv += ["--codebook_size", "8", "--budgets", "12", "60", "--seeds", "0", "1", "--epochs", "3", "--batch", "64"]
    argv += ["--kinds", "random_hash", "unigram", "spm", "unigram+dense", "--d_model", "16", "--days", "10"]
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
    # Slices come before all candidates, and scores that are blind to users before the rankers.
    (head,) = re.findall(r"^\| representation .*$", text, flags=re.M)
    assert [head.index(f"| {name} |") for name in ("warm", "cold", "tail", "overall")] == sorted(
        head.index(f"| {name} |") for name in ("warm", "cold", "tail", "overall")
    )
    table = text[text.index(head) :]
    blind = [table.index(f"| *{name}* |") for name in content["user_blind"]]
    assert len(blind) == 4 and blind == sorted(blind) and blind[-1] < table.index("| random_hash |")


def test_gates_and_decoded_vectors_are_measured(tmp_path):
    args = arguments(write_dataset(tmp_path / "data"), days=10)
    benchmark = ranking.prepare(args)
    np.testing.assert_array_equal(benchmark.quantizer.encode(benchmark.embeddings), benchmark.codes)
    gated, plain = (ranking.run(args, benchmark, f"{gate}random_hash+unigram", 60, seed=0) for gate in ("gate:", ""))
    assert gated["auc"] > 0.6 and gated != plain
    decoded = ranking.run(args, benchmark, "dense_from_codes", 60, seed=0)
    # Codes follow the kinds that users keep to, so what they decode to knows new items.
    assert decoded["auc_cold"] > 0.7
    with pytest.raises(DataError, match="by the tokenizer's quantizer, and it has none"):
        ranking.run(args, replace(benchmark, quantizer=None), "dense_from_codes", 60, seed=0)
    with pytest.raises(DataError, match="before a colon stands centroids or gate"):
        ranking.run(args, benchmark, "tree:unigram", 60, seed=0)


def test_nothing_cold_and_no_ratings(tmp_path):
    args = arguments(write_dataset(tmp_path / "data"))
    benchmark = ranking.prepare(args)
    # No cold positive, then nobody at all.
    warm = benchmark.popularity[benchmark.test.candidates[:, 0]] > 0
    parts = {"valid": benchmark.valid.select(np.arange(0)), "test": benchmark.test.select(np.flatnonzero(warm))}
    assert "auc_cold" not in ranking.measure(parts["test"], np.zeros(parts["test"].labels.shape), benchmark.popularity)
    assert ranking.measure(parts["valid"], np.zeros((0, 5)), benchmark.popularity) == {}
    metrics = ranking.run(args, replace(benchmark, test=parts["test"]), "unigram", 60, seed=0)
    assert "auc" in metrics and "auc_cold" not in metrics
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
