import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation import evaluator
from tiger.evaluation.baselines import Hybrid, Popularity, evaluate_baselines
from tiger.evaluation.evaluator import NextItemEvaluation, evaluate, evaluate_stages, rank_bytes
from tiger.evaluation.metrics import next_item_metrics
from tiger.evaluation.results import (
    Measured,
    baseline_results,
    mean_over_seeds,
    model_results,
    results_table,
    write_results,
)

TEXTS = [f"{word} soap {n % 3}" for n, word in enumerate(["red", "blue", "green"] * 8)]


@pytest.fixture(scope="module")
def split() -> LeaveOneOut:
    random = np.random.default_rng(0)
    rows = [random.integers(0, 24, random.integers(4, 9)).astype(np.int32) for _ in range(50)]
    data = RecommendationData.__new__(RecommendationData)
    object.__setattr__(data, "sequences", Sequences.from_rows(rows))
    return RecommendationData.leave_one_out(data)


def constant(histories, k, exclude_history):
    """Items 0, 1, ... for everyone."""
    return np.tile(np.arange(k), (len(histories), 1)), np.zeros((len(histories), k))


def stages(histories, exclude_history):
    yield "tiger", np.tile(np.arange(12), (len(histories), 1))
    yield "two-stage", np.tile(np.arange(12, 24), (len(histories), 1))


def test_by_a_function_or_a_baseline(split):
    found = evaluate(constant, *split.part("test"), ks=(3, 10))
    answers = constant(split.test_histories, 10, True)[0]
    assert found.metrics == next_item_metrics(answers, split.test_targets, (3, 10))
    assert found.ranks.tolist() == np.minimum(split.test_targets, 10).tolist()
    assert found.empty_places == 0 and found.seconds >= 0
    popularity = Popularity().fit(split.train, 24)
    of_baseline = evaluate(popularity.recommend, *split.part("valid"), exclude_history=False)
    assert of_baseline.metrics == evaluate_baselines(split, TEXTS, "valid", exclude_history=False)["popularity"]


def test_of_answers_with_empty_places():
    found = NextItemEvaluation.of(np.array([[4, -1, -1], [3, 5, 1]]), np.array([4, 1]), ks=(2,))
    assert found.metrics == {"recall@2": 0.5, "ndcg@2": 0.5} and found.empty_places == 0.25
    assert rank_bytes(found, 3).tolist() == [0, 2] and rank_bytes(replace(found, ranks=np.array([3])), 3) == [255]
    nobody = NextItemEvaluation.of(np.empty((0, 2), int), np.empty(0, int), ks=(2,))
    assert np.isnan(nobody.metrics["ndcg@2"])


def test_stages_are_called_once_and_measured_apart(split):
    found = evaluate_stages(stages, split)
    assert list(found) == ["tiger", "two-stage"] and found["two-stage"].seconds >= found["tiger"].seconds
    assert found["tiger"].metrics == evaluate(constant, *split.part("test")).metrics


def test_rows_over_seeds_and_files(split, tmp_path):
    measured = Measured("shop", seeds=(1,), encoder="lsa", facts=(("num_beams", 12),))
    rows, first = model_results(measured, stages, split, TEXTS)
    ways = ["as published, history removed", "as published, history kept"]
    assert [row["setting"] for row in rows] == [ways[0], ways[0], ways[1], ways[1]]
    again, _ = model_results(replace(measured, seeds=(2,)), stages, split, TEXTS)
    merged = mean_over_seeds(rows + again + baseline_results(Measured("shop"), split, TEXTS))
    row = merged[0]
    assert row["seeds"] == [1, 2] and row["std"]["ndcg@10"] == 0 and row["num_beams"] == 12 and row["encoder"] == "lsa"
    assert "by user" not in row and {"interval of ndcg@10", "p against the hybrid"} <= set(row["over users"])
    assert "p against the T5" not in row["over users"] and "p against the T5" in merged[1]["over users"]
    assert row["metrics"]["recall@10"] == round(first[row["setting"]].metrics["recall@10"], 5)
    assert {row["model"] for row in merged} >= {"tiger", "two-stage", "popularity", "hybrid"}
    table = results_table(merged)
    assert table.count("shop, ") == 2 and f"{row['metrics']['ndcg@10']:.4f}" in table

    write_results(merged, tmp_path)
    valid, _ = model_results(replace(measured, part="valid"), stages, split)
    write_results(mean_over_seeds(valid), tmp_path)
    kept = json.loads((tmp_path / "tiger.json").read_text())
    assert [row["setting"] for row in kept] == [
        "as published, history removed, valid",
        "as published, history kept, valid",
        *ways,
    ]


def test_means_over_seeds_leave_the_rows_as_they_are(split):
    def short(histories, exclude_history):
        yield "tiger", np.where(np.arange(12) < 9, np.arange(12), -1)[None].repeat(len(histories), 0)

    rows = [model_results(Measured("shop", seeds=(seed,)), of, split)[0][0] for seed, of in enumerate((stages, short))]
    before = [dict(row) for row in rows]
    (merged,) = mean_over_seeds(rows)
    assert [row["empty_places"] for row in rows] == [0, pytest.approx(0.1)]
    assert merged["empty_places"] == pytest.approx(0.05)
    assert [row.keys() for row in rows] == [row.keys() for row in before] and "by user" in rows[0]
    assert mean_over_seeds(rows) == [merged]


def test_seconds_are_those_of_each_baseline(split, monkeypatch):
    clock = (100.0 * number + late for number in itertools.count() for late in (0, number))
    with monkeypatch.context() as patched:
        patched.setattr(evaluator.time, "perf_counter", lambda: next(clock))
        rows = baseline_results(Measured("shop"), split, TEXTS)
    assert [row["seconds"] for row in rows] == list(range(10))
    assert {row["model"]: row["metrics"]["ndcg@10"] for row in rows[:5]} == {
        name: round(found["ndcg@10"], 5) for name, found in evaluate_baselines(split, TEXTS).items()
    }


def test_a_stage_that_counts_validation_is_compared_with_a_hybrid_that_does(split):
    def counted(histories, exclude_history):
        for name, rows in stages(histories, exclude_history):
            yield name if name == "tiger" else f"{name}-with-validation-no-timestamps", rows

    rows, first = model_results(Measured("shop", seeds=(1,)), counted, split, TEXTS)
    own = dict(zip(("tiger", "two-stage"), mean_over_seeds(rows[:2])))
    for model, log in (("tiger", split.train), ("two-stage", split.test_histories)):
        hybrid = evaluate(Hybrid().fit(log, TEXTS).recommend, *split.part("test")).metrics["ndcg@10"]
        name = "the hybrid" if model == "tiger" else "hybrid-with-validation"
        gap = own[model]["metrics"]["ndcg@10"] - hybrid
        assert own[model]["over users"][f"more than {name}, ndcg@10"] == pytest.approx(gap, abs=2e-5)
        assert sum(key.startswith("p against") and "hybrid" in key for key in own[model]["over users"]) == 1


def test_errors_of_means():
    found = NextItemEvaluation.of(np.array([[1, 2], [3, 4], [5, 6], [7, 8]]), np.array([1, 3, 9, 7]), (1, 2))
    assert found.metrics["recall@1"] == 0.75 and found.errors["recall@1"] == pytest.approx(0.25)
    assert np.isnan(NextItemEvaluation.of(np.array([[1]]), np.array([1]), (1,)).errors["recall@1"])
