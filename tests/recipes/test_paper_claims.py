"""The experiments on the papers' claims, on data so small that their values are known."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from recipes.experiments import code_meaning, diversity, invalid_ids
from tests.conftest import make_model, write_tables
from tiger.data.dataset import RecommendationData
from tiger.quantizers.log_report import log_report
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.beam_search import beam_search
from tiger.retriever.data_collator import EvaluationCollator
from tiger.retriever.dataset import EvaluationExamples
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

KINDS = ("tent", "lamp", "stove", "rope")


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


@pytest.fixture
def recommender(dataset, tokenizer):
    return TigerRecommender(make_model(tokenizer), tokenizer, items=RecommendationData.load(dataset).items)


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


def test_search_without_the_trie(dataset, recommender):
    """With beams enough it finds every sequence; its items have the scores that the trie gives them."""
    split = RecommendationData.load(dataset).leave_one_out()
    users, tokenizer = EvaluationExamples(*split.part("test")), recommender.tokenizer
    batch = EvaluationCollator(tokenizer)([users[user] for user in range(5)])["input_ids"]
    size = recommender.model.config.vocab_size
    tokens, scores = invalid_ids.free_search(recommender.model, tokenizer.depth, batch, size**3)
    assert tokens.shape == (5, size**3, 3) and scores.diff(dim=1).max() <= 0
    assert len({tuple(sequence) for sequence in tokens[0].tolist()}) == size**3
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(5), atol=1e-4, rtol=0)
    rows = torch.from_numpy(tokenizer.decode(tokens.numpy()))
    under = beam_search(recommender.model, recommender.trie, batch, num_beams=40)
    found = [row[row >= 0] for row in rows]
    assert all(row.tolist() == other.tolist() for row, other in zip(found, under.rows))
    torch.testing.assert_close(scores[rows >= 0].view(5, 40), under.scores, atol=2e-5, rtol=0)


def test_invalid_answers_are_counted(dataset, recommender):
    users = EvaluationExamples(*RecommendationData.load(dataset).leave_one_out().part("test"))
    size = recommender.model.config.vocab_size
    found = invalid_ids.searched(recommender, users, np.arange(3), size**3)
    # Of all sequences, 40 are items, and 20 pairs of codes are known, each with any last token.
    assert (found.rows >= 0).sum(axis=1).tolist() == [40] * 3 and found.known.sum(axis=1).tolist() == [20 * size] * 3
    assert invalid_ids.moved_up(found.rows, found.rows >= 0)[:, :10].tolist() == found.trie.tolist()
    assert not any(set(row) & set(users[user]["seen"].tolist()) for user, row in enumerate(found.removed.tolist()))


def test_rows_that_move_up():
    rows = np.array([[3, -1, 5, 4], [-1, -1, 2, 1]])
    assert invalid_ids.moved_up(rows, rows >= 0).tolist() == [[3, 5, 4, -1], [2, 1, -1, -1]]
    assert invalid_ids.moved_up(rows, rows > 3).tolist() == [[5, 4, -1, -1], [-1, -1, -1, -1]]
    assert invalid_ids.recall(rows, np.array([5, 9])) == 0.5


def test_invalid_ids(dataset, recommender, tmp_path, monkeypatch):
    recommender.save_pretrained(tmp_path / "model")
    recommender.model.save_pretrained(tmp_path / "checkpoint-3")
    words = ["--dataset", dataset, "--results_dir", tmp_path, "--users", 40, "--beams", 10, 3000]
    given = ["--recommenders", f"small={tmp_path}/model"]
    run(invalid_ids, monkeypatch, *words, *given, "--checkpoints", tmp_path / "checkpoint-3")
    content = json.loads((tmp_path / "small.json").read_text())
    assert [(row["model"], row["beams"]) for row in content["rows"]] == [
        (name, beams) for name in ("small", "checkpoint-3") for beams in (10, 3000)
    ]
    few, many, *_ = content["rows"]
    assert set(few["invalid"]) == {"10"} and set(many["invalid"]) == {"10", "20", "50"}
    # A model that learned nothing writes what is no item; with beams enough, items are among what it writes.
    assert 0.9 < few["invalid"]["10"] <= 1 and few["cpu milliseconds a user"]["trie"] > 0
    recalls = many["recall@10, history kept"]
    assert recalls["as they come"] < 0.1 < recalls["items only"] and 0.1 < recalls["trie"]
    for row, again in zip(content["rows"][:2], content["rows"][2:]):
        assert again["invalid"] == row["invalid"]  # of the same weights
    assert (tmp_path / "small.png").stat().st_size > 10_000
    with pytest.raises(DataError, match="holds no weights"):
        run(invalid_ids, monkeypatch, *words, *given, "--checkpoints", tmp_path / "checkpoint-4")


def test_entropy_of_categories_by_hand():
    categories = np.array(["a", "a", "b", "", "c"])
    answers = np.array([[0, 1, 2, 3], [0, 2, 4, -1], [3, -1, -1, -1]])
    two = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))  # of a, a and b; the third user has no category at all
    assert diversity.category_entropy(answers, categories) == pytest.approx((two + np.log(3)) / 2)
    assert diversity.category_entropy(answers[:, :1], categories) == 0
    assert diversity.category_entropy(answers[2:], categories) == 0


def test_diversity(dataset, recommender, tmp_path, monkeypatch):
    recommender.save_pretrained(tmp_path / "model")
    words = ["--dataset", dataset, "--recommender", tmp_path / "model", "--results_dir", tmp_path, "--users", 60]
    run(diversity, monkeypatch, *words, "--num_beams", 33, "--temperatures", 0.1, 2.0)
    content = json.loads((tmp_path / "small.json").read_text())
    assert content["entropy of the catalog"] == pytest.approx(np.log(4), abs=1e-5) and content["categories"] == 4
    rows = {(row["sampled"], row["temperature"]): row for row in content["rows"]}
    assert set(rows) == {("search", None)} | {(name, at) for name in diversity.LEVELS for at in (0.1, 2.0)}
    assert set(rows["search", None]) >= {"entropy@10", "entropy@20", "recall@20", "ndcg@10", "items in the top 10"}
    for name in diversity.LEVELS:
        assert rows[name, 2.0]["entropy@10"] > rows[name, 0.1]["entropy@10"] + 0.05
        assert rows[name, 2.0]["items in the top 10"] >= rows[name, 0.1]["items in the top 10"]
    assert (tmp_path / "small.png").stat().st_size > 10_000
    run(
        diversity, monkeypatch, *words, "--num_beams", 33, "--temperatures", 0.1, 2.0
    )  # the same seed, the same answers
    assert json.loads((tmp_path / "small.json").read_text())["rows"] == content["rows"]
    with pytest.raises(DataError, match="no item has a category at level 9"):
        run(diversity, monkeypatch, *words, "--level", 9)
