"""The second stage's ablation over refits: each fit once, and p-values that mean what they say."""

import importlib
import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from recipes.tables import ROOT
from tests.conftest import make_model, make_tokenizer
from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import next_item_metrics
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError


@pytest.fixture
def refits(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "experiments"))
    return importlib.import_module("refits")


@pytest.fixture
def run(refits, tmp_path, monkeypatch):
    """Two recommenders with equal codes and other weights, and the command over them."""
    dataset = write_dataset(tmp_path / "small", users=150)
    data = RecommendationData.load(dataset)
    codes = make_tokenizer(data.num_items, num_codebooks=2).codes
    for seed in range(2):
        tokenizer = SemanticIdTokenizer(codes, data.item_ids, 8)
        TigerRecommender(make_model(tokenizer, seed=seed), tokenizer).save_pretrained(tmp_path / f"model{seed}")

    def run(*options, recommenders=2):
        argv = ["refits.py", "--dataset", dataset, "--seeds", 0, 1, "--num_beams", 10, "--num_proposed", 20]
        argv += ["--recommenders", *[tmp_path / f"model{seed}" for seed in range(recommenders)]]
        argv += ["--cache", tmp_path / "cache", "--results_dir", tmp_path / "results", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        refits.main()
        return json.loads((tmp_path / "results" / "small.json").read_text())

    return run


def test_refits_measure_each_variant_and_go_on_where_they_stopped(refits, run, tmp_path, monkeypatch, capsys):
    calls = {"propose": 0, "fit": 0}
    propose, fit = Candidates.propose, TwoStageRanker.fit.__func__

    def counted_propose(*args, **options):
        calls["propose"] += 1
        return propose(*args, **options)

    def counted_fit(*args, **options):
        calls["fit"] += 1
        return fit(*args, **options, max_trees=8)

    monkeypatch.setattr(Candidates, "propose", counted_propose)
    monkeypatch.setattr(TwoStageRanker, "fit", classmethod(counted_fit))
    run(recommenders=1)
    assert calls == {"propose": 2, "fit": 8}  # features of validation and test, once for all variants and seeds
    found = run()
    assert calls == {"propose": 4, "fit": 16}  # what the first T5's fits found is read
    assert "[8/8] without T5 and codes, T5 1, trees' seed 101: ndcg@10 0." in capsys.readouterr().out

    assert set(found["variants"]) == set(refits.VARIANTS) and found["seeds"] == [0, 1]
    sources = {name: (row["fits"], row["sources"]) for name, row in found["variants"].items()}
    assert sources == {"full": (4, 2), "without T5": (4, 1), "without codes": (4, 2), "without T5 and codes": (4, 1)}
    kept = {file: load_file(file) for file in (tmp_path / "cache" / "small").glob("*.safetensors")}
    assert len(kept) == 16 and {len(one["ranks"]) for one in kept.values()} == {150}
    full = [one["ranks"] for file, one in kept.items() if file.name.startswith("full-")]
    ndcg = np.mean([np.where(ranks < 10, 1 / np.log2(ranks + 2.0), 0).mean() for ranks in full])
    assert found["variants"]["full"]["ndcg@10"]["mean"] == pytest.approx(ndcg, abs=1e-5) and ndcg > 0.05
    for name, row in found["full less this"].items():
        for metric, compared in row.items():
            means = (found["variants"][variant][metric]["mean"] for variant in ("full", name))
            assert compared["difference"] == pytest.approx(np.subtract(*means), abs=2e-5)
            assert compared["interval"][0] <= compared["difference"] <= compared["interval"][1]
            assert 0 < compared["p"] <= 1

    next(iter(kept)).unlink()
    assert run() == found and calls["fit"] == 17


def test_places_are_those_of_the_ranker(refits, run, tmp_path, monkeypatch):
    monkeypatch.setattr(refits, "CHUNK", 64)
    found = run("--variants", "without T5 and codes")
    data = RecommendationData.load(tmp_path / "small")
    split = data.leave_one_out()
    candidates = Candidates.fit(split.train, data.items, num_proposed=20)
    proposals = {part: candidates.propose(split.part(part)[0]) for part in ("valid", "test")}
    metrics = []
    for seed in (0, 1, 100, 101):  # no two T5s share a seed
        ranker = TwoStageRanker.fit(candidates, proposals["valid"], split.valid_targets, without=("t5",), seed=seed)
        metrics.append(next_item_metrics(ranker.best(proposals["test"], 10)[0], split.test_targets))
    row = found["variants"]["without T5 and codes"]
    for metric in ("ndcg@10", "recall@10"):
        own = [one[metric] for one in metrics]
        assert row[metric]["mean"] == pytest.approx(np.mean(own), abs=1e-5)
        assert row[metric]["std over fits"] == pytest.approx(np.std(own, ddof=1), abs=1e-5)
    assert found["full less this"] == {}


def test_wrong_arguments(refits, run):
    with pytest.raises(DataError, match="no 'without luck'"):
        run("--variants", "without luck")
    with pytest.raises(DataError, match="different numbers from 0 to 99"):
        run("--seeds", 0, 100)
    with pytest.raises(DataError, match="one fit says nothing of refits"):
        run("--seeds", 0, recommenders=1)


def test_spreads_of_t5s_and_of_trees(refits):
    values = np.array([[1.0, 3], [2, 4], [5, 7], [6, 8]])  # means 2, 3, 6, 7
    found = refits.spreads(values, ["a", "a", "b", "b"])
    expected = {"mean": 4.5, "std over fits": 2.38048, "std over sources": 2.82843, "std over trees": 0.70711}
    assert found == expected
    assert refits.independent_fits(values, ["a", "a", "b", "b"]).tolist() == [[1.5, 3.5], [5.5, 7.5]]
    assert np.array_equal(refits.independent_fits(values, ["a"] * 4), values)


def simulated(random, t5: float, users: int = 300) -> dict[str, np.ndarray]:
    """NDCG-like values of three T5s by three fits of the trees each, in two variants that are equally good: one reads
    the T5, whose seeds differ by a standard deviation of ``t5``, one does not."""
    own = random.normal(0, 1, users)
    trees = {name: random.normal(0, 0.02, (9, 1)) + random.normal(0, 0.3, (9, users)) for name in ("full", "less")}
    by_user = {name: random.normal(0, 0.3, users) for name in trees}
    values = {name: own + by_user[name] + trees[name] for name in trees}
    values["full"] = values["full"] + np.repeat(random.normal(0, t5, (3, 1)), 3, axis=0)
    return values


@pytest.mark.parametrize("t5", [0.0, 0.05])
def test_without_a_difference_p_is_uniform_or_above(refits, t5):
    """As if all nine fits were independent, far more than 5% would be below .05 where T5s differ."""
    random, found, naive, sources = np.random.default_rng(0), [], [], list("aaabbbccc")
    for _ in range(200):
        values = simulated(random, t5)
        full = refits.independent_fits(values["full"], sources)
        less = refits.independent_fits(values["less"], ["one"] * 9)
        assert full.shape == (3, 300) and less.shape == (9, 300)
        found.append(refits.compare_recipes(full, less, draws=400).p)
        naive.append(refits.compare_recipes(values["full"], less, draws=400).p)
    found, error = np.array(found), 2 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean(found < 0.05) <= 0.05 + error
    assert np.mean(found < 0.5) == pytest.approx(0.45, abs=0.12)
    if t5:
        assert np.mean(np.array(naive) < 0.05) > 0.05 + error


def test_counts_of_validation_are_those_of_the_test_alone(refits, run, tmp_path, monkeypatch):
    """The trees are fitted as without them; what they are asked about is counted with them, in files of their own."""
    fit = TwoStageRanker.fit.__func__
    seen = []

    def counted_fit(cls, candidates, proposals, *args, **options):
        seen.append((candidates.events.copy(), proposals.columns.copy()))
        return fit(cls, candidates, proposals, *args, **options, max_trees=8)

    monkeypatch.setattr(TwoStageRanker, "fit", classmethod(counted_fit))
    without = run("--variants", "full", recommenders=1)
    held = run("--variants", "full", "--count_validation", "true", recommenders=1)
    assert (without["count_validation"], held["count_validation"]) == (False, True)
    for events, columns in seen[2:]:
        assert np.array_equal(events, seen[0][0]) and np.array_equal(columns, seen[0][1], equal_nan=True)
    ranks = [load_file(file)["ranks"] for file in sorted((tmp_path / "cache" / "small").glob("full-0-*"))]
    assert len(ranks) == 2 and not np.array_equal(*ranks)
