"""The experiments on the papers' claims, on data so small that their values are known."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from recipes.experiments import code_meaning
from tests.conftest import write_tables
from tiger.data.dataset import RecommendationData
from tiger.quantizers.log_report import log_report
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

KINDS = ("tent", "lamp", "stove", "rope")
SCRIPTS = Path(code_meaning.__file__).parent


@pytest.fixture
def dataset(tmp_path):
    """40 items of four kinds and 60 users who keep to one kind."""
    random = np.random.default_rng(0)
    items = {
        "item_id": [f"i{row}" for row in range(40)],
        "title": [f"{KINDS[row % 4]} {row}" for row in range(40)],
        "categories": [f"Out > {KINDS[row % 4]} > {'big' if row < 20 else 'small'}" for row in range(40)],
    }
    rows = []
    for user in range(60):
        chosen = user % 4 + 4 * random.permutation(10)[:7]
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(chosen)]
    return write_tables(tmp_path / "small", items, rows)


@pytest.fixture
def tokenizer(dataset):
    """Codes that are the kind, and a number from 0 to 4."""
    rows = np.arange(40)
    return SemanticIdTokenizer(np.stack([rows % 4, rows // 4 % 5], axis=1), [f"i{row}" for row in rows], 8)


def run(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
    module.main()


def test_purity_and_cosine_by_hand():
    group, labels = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    assert code_meaning.purity(group, [labels]) == pytest.approx(4 / 5)  # the last item shares its group with none
    assert code_meaning.purity(group, [labels, np.zeros(6, int)]) == pytest.approx((4 / 5 + 1) / 2)
    assert code_meaning.purity(np.arange(6), [labels]) is None and code_meaning.purity(group[:0], [labels[:0]]) is None
    directions = code_meaning.unit(np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]]))
    assert code_meaning.cosine_within(np.array([0, 0, 1, 1]), directions) == pytest.approx(0)
    assert code_meaning.cosine_within(np.array([0, 0, 0, 1]), directions) == pytest.approx(2 * 0.5**0.5 / 3)
    assert code_meaning.cosine_within(np.arange(4), directions) is None


def test_meaning_of_codes(dataset, tokenizer, tmp_path, monkeypatch):
    vectors = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    save_file({"embeddings": vectors}, tmp_path / "vectors.safetensors")
    random = SemanticIdTokenizer(np.random.default_rng(0).integers(8, size=(40, 2)), tokenizer.item_ids, 8)
    tokenizer.save_pretrained(tmp_path / "kinds")
    random.save_pretrained(tmp_path / "random")
    words = ["--dataset", dataset, "--embeddings", tmp_path / "vectors.safetensors", "--results_dir", tmp_path]
    run(code_meaning, monkeypatch, *words, "--tokenizers", f"kinds={tmp_path}/kinds", f"random={tmp_path}/random")
    content = json.loads((tmp_path / "small.json").read_text())
    kinds, drawn = content["kinds"]["kinds"], content["kinds"]["random"]
    assert kinds["purity"] == kinds["cosine"] == [1, 1] and kinds["prefixes"] == [4, 20]
    assert kinds["items_that_share"] == [40, 40]
    assert 0.25 <= kinds["purity_by_chance"][0] < 0.5 < kinds["purity_by_chance"][1] < 0.8
    assert drawn["purity"][0] < 0.6 and abs(drawn["cosine"][0] - content["cosine of any two"]) < 0.1
    assert content["cosine of any two"] == pytest.approx(9 / 39, abs=1e-5)
    train = RecommendationData.load(dataset).leave_one_out().train
    assert kinds["cooccurrence_share"][0] == 1
    assert kinds["cooccurrence_lift"] == pytest.approx(
        log_report(tokenizer.codes, train)["cooccurrence_lift"], abs=1e-5
    )
    (first, *_), codes = content["first codes, kinds"], {row["code"] for row in content["first codes, kinds"]}
    assert codes == {0, 1, 2, 3} and first["items"] == 10
    assert f"{KINDS[first['code']]} (10)" in first["categories"] and len(first["second codes"]) == 3
    assert (tmp_path / "small.png").stat().st_size > 10_000
    with pytest.raises(DataError, match="give NAME=FOLDER"):
        run(code_meaning, monkeypatch, *words, "--tokenizers", "kinds")
