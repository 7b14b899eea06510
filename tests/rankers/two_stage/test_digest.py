"""Digests of a two-stage ranker: another one whenever answers may be others, whether there are trees or none."""

import copy

import numpy as np
import pyarrow as pa
import pytest

from tests.rankers.two_stage.test_candidates import catalogue, codes, vectors
from tests.rankers.two_stage.test_ranker import SIZE, fitted, follow, tokenizer  # noqa: F401
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.rankers.two_stage.saved import HYBRID_COLUMN


def make_candidates(seed=0, items=None, **options):
    known = {"codes": codes(), "vectors": vectors(), "num_proposed": 20} | options
    return Candidates.fit(follow(seed, 50)[0], catalogue() if items is None else items, **known)


@pytest.fixture(params=["trees", "hybrid"])
def ranker(fitted, request):  # noqa: F811
    if request.param == "hybrid":
        return TwoStageRanker(make_candidates(), [], [HYBRID_COLUMN], "")
    return TwoStageRanker(make_candidates(), fitted.trees, fitted.columns, "")


def with_candidates(ranker, candidates):
    return TwoStageRanker(candidates, ranker.trees, ranker.columns, "")


def test_equal_rankers_have_equal_digests(ranker):
    assert with_candidates(ranker, make_candidates()).digest() == ranker.digest()


def test_another_log_other_items_or_settings_are_another_ranker(ranker):
    titles = catalogue()["title"].to_pylist()
    renamed = catalogue().set_column(catalogue().column_names.index("title"), "title", pa.array(titles[::-1]))
    others = [
        with_candidates(ranker, make_candidates(seed=1)),
        with_candidates(ranker, make_candidates(items=renamed)),
        with_candidates(ranker, make_candidates(codes=codes()[::-1])),
        with_candidates(ranker, make_candidates(vectors=vectors()[::-1])),
        with_candidates(ranker, make_candidates(num_proposed=19)),
        TwoStageRanker(ranker.candidates, ranker.trees, ranker.columns, "", assume_last_day=True),
        TwoStageRanker(ranker.candidates, ranker.trees, ranker.columns[::-1] or ["log: popularity"], ""),
    ]
    digests = {one.digest() for one in [ranker, *others]}
    assert len(digests) == len(others) + (len(ranker.columns) > 1)


def test_a_catalog_that_changes_is_another(ranker):
    fewer = [copy.copy(ranker) for _ in range(2)]
    for one, gone in zip(fewer, (3, 4)):
        one.keep_items(np.delete(np.arange(SIZE), gone))
    assert len({one.digest() for one in [ranker, *fewer]}) == 3
