"""Validation events are counted once the second stage is fitted, and taken out before anything learns from them."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.retriever.test_memory import ITEMS, make_texts, make_weights
from tiger.data.sequences import Sequences
from tiger.retriever.memory import ItemMemory, MemoryTables
from tiger.training.evaluation import EvaluationArguments, name_alone, stages_of
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
    tiger = make_tiger(split)
    before, weights = tables_of(tiger), tiger.memory.weights
    without_validation_counts(tiger, split)  # nothing to take out
    assert tiger.training == {"seed": 3}
    with_validation_counts(tiger, split)
    expected = MemoryTables.fit(split.test_histories, make_texts())
    for found, wanted in zip(tables_of(tiger), tables_of(SimpleNamespace(memory=ItemMemory(expected, weights)))):
        np.testing.assert_array_equal(found, wanted)
    assert counts_validation(tiger.training) and tiger.memory.weights is weights
    assert (tables_of(tiger)[0] != before[0]).any()
    without_validation_counts(tiger, split)
    assert tiger.training == {"seed": 3}
    for found, wanted in zip(tables_of(tiger), before):
        np.testing.assert_array_equal(found, wanted)


def test_what_has_counted_validation_events_is_not_measured_on_them_and_is_named():
    split = make_split()
    tiger = make_tiger(split)
    assert (suffix_of(tiger.training), name_alone(tiger)) == ("", "tiger")
    with_validation_counts(tiger, split)
    assert (suffix_of(tiger.training), name_alone(tiger)) == ("-with-validation", "tiger-with-validation")
    with pytest.raises(DataError, match="count_validation"):
        next(stages_of(tiger, split.train, EvaluationArguments(), True, part="valid"))
    alone = make_tiger(split, memory=False)
    with_validation_counts(alone, split)
    assert name_alone(alone) == "tiger"  # a T5 without a memory has counted nothing


def test_a_changed_catalog_is_not_recounted():
    split = make_split()
    tiger = make_tiger(split)
    tiger.memory = tiger.memory.keep(np.arange(ITEMS - 1))
    with pytest.raises(ValueError, match="fit it anew"):
        with_validation_counts(tiger, split)
