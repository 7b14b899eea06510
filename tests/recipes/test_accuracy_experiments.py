"""The experiments that measure and explain accuracy, small; and the page that prints what they found."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recipes.experiments import ablation, beams, ensemble, two_stage
from recipes.tables import ROOT
from tests.conftest import make_model
from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def tokenizer(dataset):
    data = RecommendationData.load(dataset)
    texts = item_texts(data.items)
    vectors = LSAEncoder.fit(texts, dim=8).encode(texts)
    return SemanticIdTokenizer.fit(
        vectors, data.item_ids, num_codebooks=2, codebook_size=8, quantizer="residual-kmeans", progress=False
    )


def test_average_of_the_last_steps():
    model = torch.nn.Linear(1, 1, bias=False)
    average, state = ablation.Average(0.5), SimpleNamespace(global_step=0, max_steps=4)
    average.on_train_begin()
    for state.global_step in range(1, 5):
        torch.nn.init.constant_(model.weight, state.global_step)
        average.on_step_end(None, state, None, model=model)
    average.on_train_end(None, state, None, model=model)
    assert model.weight.item() == 3.5


def test_own_codes():
    codes = np.array([[0, 2], [0, 0], [0, 2], [1, 2], [0, 2]])
    own = ablation.with_own_codes(SemanticIdTokenizer(codes, list("abcde"), codebook_size=4)).semantic_ids
    assert own.tolist() == [[0, 2, 0], [0, 0, 0], [0, 1, 0], [1, 2, 0], [0, 3, 0]]
    crowded = SemanticIdTokenizer(np.zeros((3, 2), dtype=int), list("abc"), codebook_size=2)
    with pytest.raises(DataError, match="3 items share all codes but the last, of 2"):
        ablation.with_own_codes(crowded)


def test_user_tokens(dataset, tokenizer):
    split = RecommendationData.load(dataset).leave_one_out()
    joined, led = ablation.with_user_tokens(tokenizer, split, 5)
    known = len(tokenizer)
    assert len(joined) == known + 5 and set(joined.codes[known:, 0]) == {tokenizer.codebook_size}
    for part in ("valid", "test"):
        before, after = split.part(part)[0], led.part(part)[0]
        for user in range(len(before)):
            assert after[user][0] >= known and after[user][0] == led.train[user][0]
            assert np.array_equal(after[user][1:], before[user])


def test_ablation(dataset, tokenizer, tmp_path, monkeypatch):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert ablation.rows()["tokens are prefixes"] == ablation.PAPER | {
        "history_attention": "causal",
        "embeddings": 5e-3,
        "muon": 3e-3,
        "start": {"codes": 1},
        "tokens": "prefixes",
    }
    changed = {
        "tokens": "prefixes",
        "start": {"words": 1, "log": 2, "texts": 1},
        "neighbours": True,
        "tokenizer": "log",
        "averaged": 0.2,
        "user tokens": 20,
    }
    monkeypatch.setattr(ablation, "STEPS", {"codes": {}, "prefixes": changed})
    monkeypatch.setattr(ablation, "PAPER", ablation.PAPER | {"layers": 1, "d_ff": 32, "history_attention": "causal"})
    monkeypatch.setattr(ablation, "CHANGES", {"codes again": {"tokens": "codes", "start": {}}})
    argv = ["ablation.py", "--dataset", dataset, "--seconds", 0.5]
    argv += ["--tokenizers", *[tmp_path / "tokenizer"] * 4]
    argv += ["--results_dir", tmp_path / "ablation", "--users", 50, "--targets", 64]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    ablation.main()
    found = json.loads((tmp_path / "ablation" / "small.json").read_text())
    assert [row["step"] for row in found["rows"]] == ["codes", "prefixes", "codes again"]
    assert found["rows"][2]["steps"] == found["rows"][1]["steps"]
    for row in found["rows"]:
        assert row["steps"] >= 20 and row["seconds"] > 0 and 0 <= row["test"]["ndcg@10"] <= 1 < row["parameters"]
    before = (tmp_path / "ablation" / "small.json").read_text()
    ablation.main()  # all there
    assert (tmp_path / "ablation" / "small.json").read_text() == before
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seconds", "9"])
    with pytest.raises(DataError, match="holds rows with seconds 0.5, not 9"):
        ablation.main()


def test_beams(dataset, tokenizer, tmp_path, monkeypatch):
    data = RecommendationData.load(dataset)
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, items=data.items)
    tiger.save_pretrained(tmp_path / "model")
    argv = ["beams.py", "--recommender", tmp_path / "model", "--dataset", dataset, "--beams", 1, 20, 120]
    monkeypatch.setattr(sys, "argv", list(map(str, [*argv, "--users", 40, "--results_dir", tmp_path / "beams"])))
    beams.main()
    rows = json.loads((tmp_path / "beams" / "small.json").read_text())["rows"]
    recalls = [row["recall@beams"] for row in rows]
    assert (
        [row["beams"] for row in rows] == [1, 20, 120] and np.all(np.diff(recalls) >= 0) and recalls[-1] > 0.5
    )  # some had the target before
    assert rows[0]["recall@10"] == rows[0]["recall@beams"]


def test_the_page_is_printed_from_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import results_page

    folder = ROOT / "recipes" / "results"
    assert (folder / "README.md").read_text() == results_page.page(folder)


def test_ensemble(dataset, tokenizer, tmp_path, monkeypatch):
    one = np.array([[3, 1], [5, -1]]), np.log(np.array([[0.5, 0.3], [0.2, 0.0]]) + 1e-30)
    other = np.array([[1, 0], [-1, -1]]), np.array([[np.log(0.4), np.log(0.1)], [-np.inf, -np.inf]])
    assert ensemble.merge([one, other], 3).tolist() == [[1, 3, 0], [5, -1, -1]]

    for seed in range(2):
        tiger = TigerRecommender(make_model(tokenizer, seed=seed), tokenizer, training={"seed": seed})
        tiger.save_pretrained(tmp_path / f"model{seed}")
    argv = ["ensemble.py", "--models", tmp_path / "model0", tmp_path / "model1", "--dataset", dataset]
    argv += ["--results_dir", tmp_path / "ensemble", "--num_beams", 10]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    ensemble.main()
    rows = json.loads((tmp_path / "ensemble" / "small.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["alone", "alone", "merged, 2 models"]
    assert all(0 <= row["test"]["ndcg@10"] <= row["test"]["recall@10"] <= 1 for row in rows)
    monkeypatch.syspath_prepend(ROOT / "recipes")
    import results_page

    table = results_page.ensemble_table(json.loads((tmp_path / "ensemble" / "small.json").read_text()))
    assert [line.split("|")[1].strip() for line in table.splitlines()[4:]] == [
        *("seed 0", "seed 1", "mean", "standard deviation", "merged, 2 models")
    ]


def test_what_each_source_gives(dataset, tokenizer, tmp_path, monkeypatch):
    TigerRecommender(make_model(tokenizer), tokenizer).save_pretrained(tmp_path / "model")
    argv = ["two_stage.py", "--recommender", tmp_path / "model", "--dataset", dataset, "--seeds", 0, "--num_beams", 10]
    argv += ["--num_proposed", 20, "--cache", tmp_path / "cache", "--results_dir", tmp_path / "results"]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    two_stage.main()
    file = tmp_path / "results" / "small.json"
    rows = {(row["model"], row["setting"]): row for row in json.loads(file.read_text())["rows"]}
    assert set(rows) == {
        *((name, "as published") for name in ("hybrid", two_stage.REFITTED, *two_stage.VARIANTS)),
        *((f"two-stage without T5{rest}", "ties shuffled, seed 0") for rest in ("", " and codes")),
        *((name, "ties shuffled, seed 0") for name in ("hybrid", two_stage.REFITTED)),
    }
    assert all(0 <= row["test"]["ndcg@10"] <= 1 for row in rows.values())
    shuffled = rows["two-stage without T5", "ties shuffled, seed 0"]
    assert rows["two-stage", "as published"]["of"]["t5"] and shuffled["of"]["t5"] is None
    whole, less = (rows[name, "as published"] for name in ("two-stage", "two-stage without T5"))
    added = less["two-stage less this, ndcg@10"]
    assert added["mean"] == pytest.approx(whole["test"]["ndcg@10"] - less["test"]["ndcg@10"], abs=2e-5)
    assert added["interval"][0] <= added["mean"] <= added["interval"][1] and 0 < added["p"] <= 1
    assert "two-stage less this, ndcg@10" not in whole and "two-stage less this, ndcg@10" not in shuffled
    before = file.read_text()
    two_stage.main()  # all there
    assert file.read_text() == before
    TigerRecommender(make_model(tokenizer, seed=1), tokenizer).save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="rows of another recommender"):
        two_stage.main()
