"""Leaks of the second stage, small: each is open where it is said to be, and nowhere else."""

import importlib
import json
import sys

import numpy as np
import pytest

from recipes.tables import ROOT
from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.utils.errors import DataError


@pytest.fixture
def leaks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "experiments"))
    return importlib.import_module("leaks")


def test_leaks_are_measured_beside_no_leak(leaks, tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "small")
    argv = ["leaks.py", "--dataset", dataset, "--num_proposed", 20, "--probe_users", 200]
    argv = list(map(str, [*argv, "--results_dir", tmp_path / "results"]))
    monkeypatch.setattr(sys, "argv", [*argv, "--leaks", "totals of the whole log"])
    leaks.main()
    monkeypatch.setattr(sys, "argv", argv)
    leaks.main()  # the others
    file = tmp_path / "results" / "small.json"
    found = json.loads(file.read_text())
    lengths, days = found["probes"].values()
    assert lengths["length of the vectors"] == 0.5 and lengths["length of the factors"] > 0.9
    assert days["days and totals of the whole log"] > days["days and totals"] + 0.05
    rows = {row["model"]: row for row in found["rows"]}
    assert list(rows) == ["no leak", *leaks.LEAKS]
    for name in leaks.LEAKS:
        more = rows[name]["over no leak, ndcg@10"]
        expected = rows[name]["test"]["ndcg@10"] - rows["no leak"]["test"]["ndcg@10"]
        assert more["mean"] == pytest.approx(expected, abs=2e-5)
    before = file.read_text()
    leaks.main()  # all there
    assert file.read_text() == before

    data = RecommendationData.load(dataset)
    split = data.leave_one_out()
    candidates = Candidates.fit(split.train, data.items, num_proposed=20)
    ranker = TwoStageRanker.fit(
        candidates, candidates.propose(split.train), split.valid_targets, without=("t5", "codes")
    )
    assert rows["no leak"]["held out"]["ndcg@10"] == ranker.record["held out ndcg@10"]  # no leak stays open


def test_each_leak_changes_the_columns_that_it_names(leaks, tmp_path):
    data = RecommendationData.load(write_dataset(tmp_path / "small"))
    train = data.leave_one_out().train
    rows = np.tile(np.arange(data.num_items), (len(train), 1))

    def columns():
        candidates = Candidates.fit(train, data.items)
        return candidates.names, candidates.describe(train, rows).columns

    names, honest = columns()
    for leak, expected in (("totals of the whole log", "total"), ("lengths of co-occurrence vectors", "company")):
        with leaks.opened(leak):
            again, found = columns()
        assert again == names
        changed = {
            name
            for place, name in enumerate(names)
            if not np.allclose(found[..., place], honest[..., place], atol=1e-5, equal_nan=True)
        }
        assert changed == {name for name in names if expected in name}
    with leaks.opened("days ahead too"):
        assert len(columns()[0]) == len(names) + 2
    with leaks.opened("counts as they are"):
        total = columns()[1][..., names.index("item: total")]
    assert total.min() < np.log(5) <= honest[..., names.index("item: total")].min() + 1e-6


def test_an_unknown_leak(leaks, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["leaks.py", "--dataset", str(tmp_path), "--leaks", "luck"])
    with pytest.raises(DataError, match="no 'luck'; there are totals of the whole log"):
        leaks.main()
