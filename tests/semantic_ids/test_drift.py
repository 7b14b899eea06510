import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.experiments import drift
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.semantic_ids.drift import _lower_bound, drift_report, ids_changed
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError


@pytest.fixture(scope="module")
def world():
    """Items around 12 of 24 centres, of which a quantizer knows the first 12."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(24, 16))

    def items(kinds, count):
        chosen = centres[random.choice(kinds, count)]
        return (chosen + 0.3 * random.normal(size=chosen.shape)).astype(np.float32)

    old = items(np.arange(12), 1500)
    return ResidualKMeans.fit(old, 2, 16, progress=False), old, items


def test_more_of_the_same_needs_no_refit(world):
    quantizer, old, items = world
    report = drift_report(quantizer, old, items(np.arange(12), 300))
    assert not report["refit"] and report["reasons"] == []
    assert report["badly_fitted"] < 0.12 and report["badly_fitted_at_least"] < report["badly_fitted"]
    assert report["new"]["relative_error"] == pytest.approx(report["old"]["relative_error"], rel=0.25)


def test_other_items_do(world):
    quantizer, old, items = world
    report = drift_report(quantizer, old, items(np.arange(12, 24), 300))
    assert report["refit"] and "fitted worse" in report["reasons"][0]
    assert report["badly_fitted"] > 0.9 and report["new"]["relative_error"] > 3 * report["old"]["relative_error"]
    # Ten of them are enough to tell, two are not.
    assert drift_report(quantizer, old, items(np.arange(12, 24), 10))["refit"]
    assert not drift_report(quantizer, old, items(np.arange(12, 24), 2))["reasons"][1:]


def test_items_that_no_code_tells_apart_do(world):
    quantizer, old, _ = world
    report = drift_report(quantizer, old[::12], np.repeat(old[:1], 50, axis=0))
    assert report["refit"] and any("share all their codes" in reason for reason in report["reasons"])
    assert report["new"]["collision_share"] == 1 and report["old"]["collision_share"] < 0.7


def test_figures_by_hand():
    quantizer = ResidualKMeans.fit(np.array([[0.0], [2.0]]), 1, 2, progress=False)
    report = drift_report(quantizer, np.array([[0.0], [2.0]]), np.array([[0.5], [0.0], [4.0]]))
    # The old items are as 1 from their mean, squared; the new ones as .25, 0 and 4 from their codes.
    assert report["old"]["relative_error"] == 0 and report["old"]["collision_share"] == 1
    assert report["new"]["relative_error"] == pytest.approx(4.25 / 3, abs=1e-5)
    assert report["badly_fitted"] == pytest.approx(2 / 3) and report["new"]["collision_share"] == 1
    assert report["new"]["codes_used"] == [2] and report["new"]["num_items"] == 3
    # Wilson's interval for 8 of 10: R's binom.confint(8, 10, .90, "wilson").
    assert _lower_bound(0.8, 10) == pytest.approx(0.541, abs=2e-3)


def test_embeddings_of_another_encoder(world):
    quantizer, old, _ = world
    with pytest.raises(DataError, match="3 dimensions"):
        drift_report(quantizer, old, np.ones((4, 3)))
    with pytest.raises(DataError, match="new embeddings"):
        drift_report(quantizer, old, np.full((4, 16), np.nan))


def test_ids_after_a_refit():
    old = SemanticIdTokenizer(np.array([[0, 0], [0, 1], [1, 1], [1, 1]]), list("abcd"), 4)
    renamed = SemanticIdTokenizer(np.array([[3, 0], [3, 1], [2, 1], [2, 1], [0, 0]]), list("abcde"), 4)
    report = ids_changed(old, renamed)
    assert report["num_items"] == 4 and report["changed"] == [1, 0, 0] and report["changed_ids"] == 1
    assert report["same_groups"] == [1, 1]
    apart = SemanticIdTokenizer(np.array([[0, 0], [1, 1], [0, 1]]), list("abc"), 4)
    report = ids_changed(old, apart)
    assert report["num_items"] == 3 and report["changed"] == pytest.approx([2 / 3, 0, 1 / 3])
    assert report["same_groups"][0] < 0.1
    assert ids_changed(old, old)["changed_ids"] == 0
    with pytest.raises(DataError, match="no item in common"):
        ids_changed(old, SemanticIdTokenizer(np.array([[0, 0]]), ["z"], 4))
    with pytest.raises(DataError, match="can't be compared"):
        ids_changed(old, SemanticIdTokenizer(np.array([[0]]), ["a"], 4))


def test_categories_held_out(tmp_path, monkeypatch):
    words = {"Camp > Sleep": "tent mat bag rope", "Camp > Cook": "stove pan cup knife"}
    random, titles, categories = np.random.default_rng(0), [], []
    for name, vocabulary in words.items():
        titles += [" ".join(random.choice(vocabulary.split(), 3)) + f" n{number}" for number in range(60)]
        categories += [name] * 60
    ids = [f"i{row}" for row in range(120)]
    (tmp_path / "camp").mkdir()
    pq.write_table(
        pa.table({"item_id": ids, "title": titles, "categories": categories}), tmp_path / "camp" / "items.parquet"
    )
    log = {"user_id": ["u"] * 3, "item_id": ids[:3], "timestamp": [1, 2, 3]}
    pq.write_table(pa.table(log), tmp_path / "camp" / "interactions.parquet")
    options = {"dataset": tmp_path / "camp", "results_dir": tmp_path / "out", "codebook_size": 8, "least": 50}
    words_of = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["drift.py", *words_of, "--seeds", "0"])
    drift.main()
    rows = json.loads((tmp_path / "out" / "camp.json").read_text())["rows"]
    assert [row["held out"] for row in rows] == ["5% at random, seed 0", "Camp > Cook", "Camp > Sleep"]
    assert all(row["badly fitted"] > rows[0]["badly fitted"] for row in rows[1:]) and rows[1]["items"] == 60
