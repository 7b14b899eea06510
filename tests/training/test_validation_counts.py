"""Validation events are counted once the second stage is fitted, and taken out before anything learns from them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import tiger
from tests.retriever.test_memory import ITEMS, make_texts, make_weights
from tests.training.test_pipeline import SMALL, write_dataset
from tiger.data.cooccurrence import floored_totals
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.evaluation.evaluator import NextItemEvaluation
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.memory import ItemMemory, MemoryTables
from tiger.training.evaluation import EvaluationArguments, comparisons_of, name_alone, stages_of
from tiger.training.validation_counts import (
    counts_validation,
    suffix_of,
    with_validation_counts,
    without_validation_counts,
)
from tiger.utils.errors import DataError


def make_split():
    random = np.random.default_rng(5)
    rows = [random.integers(0, ITEMS, 6) for _ in range(80)]
    return SimpleNamespace(
        train=Sequences.from_rows([row[:-1] for row in rows]), test_histories=Sequences.from_rows(rows)
    )


def make_tiger(split, memory=True):
    tables = MemoryTables.fit(split.train, make_texts())
    memory = ItemMemory(tables, make_weights()) if memory else None
    return SimpleNamespace(memory=memory, training={"seed": 3}, ranker=None)


def tables_of(tiger):
    tables = tiger.memory.tables
    return [*(getattr(tables, name).toarray() for name in ("followers", "shared", "neighbors")), tables.totals]


def test_counts_are_those_of_a_memory_fitted_to_both_parts_and_go_back():
    split = make_split()
    model = make_tiger(split)
    before, weights = tables_of(model), model.memory.weights
    without_validation_counts(model, split)  # nothing to take out
    assert model.training == {"seed": 3}
    with_validation_counts(model, split)
    expected = MemoryTables.fit(split.test_histories, make_texts())
    for found, wanted in zip(tables_of(model), tables_of(SimpleNamespace(memory=ItemMemory(expected, weights)))):
        np.testing.assert_array_equal(found, wanted)
    assert counts_validation(model.training) and model.memory.weights is weights
    assert (tables_of(model)[0] != before[0]).any()
    without_validation_counts(model, split)
    assert model.training == {"seed": 3}
    for found, wanted in zip(tables_of(model), before):
        np.testing.assert_array_equal(found, wanted)


def test_what_has_counted_validation_events_is_not_measured_on_them_and_is_named():
    split = make_split()
    model = make_tiger(split)
    assert (suffix_of(model.training), name_alone(model)) == ("", "tiger")
    with_validation_counts(model, split)
    assert (suffix_of(model.training), name_alone(model)) == ("-with-validation", "tiger-with-validation")
    with pytest.raises(DataError, match="count_validation"):
        next(stages_of(model, split.train, EvaluationArguments(), True, part="valid"))
    alone = make_tiger(split, memory=False)
    with_validation_counts(alone, split)
    assert name_alone(alone) == "tiger"  # a T5 without a memory has counted nothing


def test_promises_are_compared_with_the_hybrid_of_the_same_counts():
    targets = np.zeros(40, dtype=np.int64)
    right = np.tile(np.arange(10), (40, 1))
    wrong = right + 1
    answers = {"popularity": wrong, "hybrid": right, "hybrid-with-validation": wrong, "tiger-with-validation": right}
    found = {name: NextItemEvaluation.of(rows, targets) for name, rows in answers.items()}
    compared = comparisons_of(found, "tiger-with-validation", "-with-validation")
    assert [(one["model"], one["baseline"], one["difference"]) for one in compared] == [
        ("tiger-with-validation", "popularity", 1.0),
        ("tiger-with-validation", "hybrid-with-validation", 1.0),
    ]


def test_a_whole_training_counts_validation_events_and_says_so(tmp_path):
    out, dataset = tmp_path / "run", write_dataset(tmp_path / "data")
    tiger.train(str(dataset), out, **(SMALL | {"two_stage": SMALL["two_stage"] | {"count_validation": True}}))
    found = json.loads((out / "test.json").read_text())
    counted = ["hybrid-with-validation", *(f"{name}-with-validation" for name in ("memory", "tiger", "two-stage"))]
    assert list(found["models"])[-4:] == counted
    assert [one["baseline"] for one in found["comparisons"]] == ["popularity", "hybrid-with-validation"]
    assert "two-stage-with-validation" in (out / "report.html").read_text()
    recommender = TigerRecommender.from_pretrained(out / "model")
    data = RecommendationData.load(str(dataset)).in_order(recommender.tokenizer.item_ids)
    histories = data.leave_one_out().test_histories
    assert recommender.memory.tables.totals.sum() == floored_totals(histories, data.num_items).sum()
    assert len(recommender.ranker.candidates.events) == len(histories.items)


def test_a_changed_catalog_is_not_recounted():
    split = make_split()
    model = make_tiger(split)
    model.memory = model.memory.keep(np.arange(ITEMS - 1))
    with pytest.raises(ValueError, match="fit it anew"):
        with_validation_counts(model, split)
