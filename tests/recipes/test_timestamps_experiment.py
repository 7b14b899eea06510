"""The second stage with and without times, over the same users."""

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
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError


def test_the_experiment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "experiments"))
    timestamps = importlib.import_module("timestamps")
    dataset = write_dataset(tmp_path / "small", users=120)
    data = RecommendationData.load(dataset)
    tokenizer = SemanticIdTokenizer(make_tokenizer(data.num_items, num_codebooks=2).codes, data.item_ids, 8)
    TigerRecommender(make_model(tokenizer), tokenizer).save_pretrained(tmp_path / "model")
    fit, fits = TwoStageRanker.fit.__func__, []

    def counted_fit(cls, *args, options):
        fits.append(fit(cls, *args, options=options, max_trees=6))
        return fits[-1]

    monkeypatch.setattr(TwoStageRanker, "fit", classmethod(counted_fit))

    def run(*seeds):
        argv = ["timestamps.py", "--dataset", dataset, "--recommender", tmp_path / "model", "--num_proposed", 20]
        argv += ["--cache", tmp_path / "cache", "--results_dir", tmp_path / "results", "--seeds", *seeds]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        timestamps.main()
        return json.loads((tmp_path / "results" / "small.json").read_text())

    one = run(0)
    assert [(ranker.record["time_dropout"], ranker.assume_last_day) for ranker in fits] == [(0.3, False), (0.0, True)]
    assert not any(name.startswith("t5") for name in fits[0].columns)
    assert one["users"] == 120 and "std" not in one["trees"]["none"]["unknown"]

    # By the rankers themselves.
    histories, targets = data.leave_one_out().part("test")
    none = np.empty((120, 0))
    for trees, given, part in (
        ("dropout", "with timestamps", histories),
        ("dropout", "unknown", histories.without_timestamps()),
        ("none", "with timestamps", histories),
        ("none", "last day", histories.without_timestamps()),
    ):
        ranker = fits[trees == "none"]
        rows = ranker.order(part, none.astype(int), none, k=10)[0]
        hits = rows == targets[:, None]
        ndcg = (hits / np.log2(np.arange(10) + 2)).sum(axis=1).mean()
        found = one["trees"][trees][given]
        assert found == {"ndcg@10": round(ndcg, 5), "recall@10": pytest.approx(hits.any(axis=1).mean(), abs=1e-5)}

    two = run(0, 1)
    assert len(fits) == 4  # those of seed 0 were kept
    assert {len(load_file(file)["unknown"]) for file in (tmp_path / "cache").iterdir()} == {120}
    assert "std" in two["trees"]["dropout"]["unknown"] and two["seeds"] == [0, 1]
    for found in two["differences"].values():
        assert all(row["interval"][0] <= row["mean"] <= row["interval"][1] for row in found.values())
    means = (two["trees"]["dropout"][given]["ndcg@10"] for given in ("unknown", "with timestamps"))
    less = two["differences"]["dropout, unknown, less dropout, with timestamps"]["ndcg@10"]["mean"]
    assert less == pytest.approx(np.subtract(*means), abs=2e-5)
    for seeds in ((0, 0), ()):
        with pytest.raises(DataError):
            run(*seeds)
