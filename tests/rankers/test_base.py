"""A ranker of a user's own orders beams, follows the catalog, and is saved and loaded with the recommender."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import make_model
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.rankers import auto
from tiger.rankers.base import Ranker, best_first
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError
from tiger.utils.registry import Registry


class LongestId(Ranker):
    """Prefers items by a number of their own, here the length of the id and then the number in it."""

    kind = "longest-id"

    def __init__(self, values: np.ndarray):
        self.values = values

    def __len__(self):
        return len(self.values)

    def score(self, histories, candidates):
        return np.where(candidates < 0, -np.inf, self.values[candidates]).astype(np.float32)

    def add_items(self, tokenizer, items, vectors):
        self.values = np.append(self.values, values_of(tokenizer.item_ids[len(self) :]))

    def update_items(self, rows, tokenizer, items, vectors):
        pass

    def keep_items(self, rows):
        self.values = self.values[rows]

    def save_pretrained(self, folder):
        (Path(folder) / "values.json").write_text(json.dumps(self.values.tolist()))

    @classmethod
    def from_pretrained(cls, folder, tokenizer, items=None, device="cpu"):
        return cls(np.array(json.loads((Path(folder) / "values.json").read_text())))


def values_of(item_ids):
    return np.array([1000.0 * len(item) + int("".join(filter(str.isdigit, item)) or 0) for item in item_ids])


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(auto, "RANKERS", Registry("ranker", {"click": "tiger.rankers.click.ranker:ClickRanker"}))
    auto.register_ranker(LongestId)


@pytest.fixture
def recommender(fitted, tmp_path):  # noqa: F811
    tokenizer, encoder, items = fitted
    tokenizer.save_pretrained(tmp_path / "copy")
    own = SemanticIdTokenizer.from_pretrained(tmp_path / "copy")
    return TigerRecommender(make_model(own), own, encoder, items, ranker=LongestId(values_of(own.item_ids)))


def test_it_orders_the_beams_and_follows_the_catalog(recommender, registered, tmp_path):
    proposed, _ = recommender.recommend([["i1"], []], k=12, num_beams=12, rank=False)
    found, scores = recommender.recommend([["i1"], []], k=4, num_beams=12)
    for answer, beams in zip(found, proposed):
        assert answer == sorted(beams, key=lambda item: -values_of([item])[0])[:4]
    before = recommender.ranker
    recommender.add_items(["newest-1"], ["tent rope"])
    assert recommender.rank([["i1"]], [["i3", "newest-1"]])[0] == [["newest-1", "i3"]]
    recommender.remove_items(["i2"])
    assert len(before) == 40 and len(recommender.ranker) == 40 and recommender.ranker is not before

    recommender.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    assert type(again.ranker) is LongestId and again.ranker.digest() == recommender.ranker.digest()
    assert again.recommend([["i1"]], k=4, num_beams=12)[0] == recommender.recommend([["i1"]], k=4, num_beams=12)[0]
    assert before.digest() != again.ranker.digest()


def test_an_unknown_kind_is_named(recommender, tmp_path):
    recommender.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="unknown kind 'longest-id'. Import the module that registers it"):
        TigerRecommender.from_pretrained(tmp_path / "model")
    assert TigerRecommender.from_pretrained(tmp_path / "model", rank=False).ranker is None


def test_a_name_belongs_to_one_class(registered):
    auto.register_ranker(LongestId)
    for name in ("longest-id", "click"):
        with pytest.raises(ValueError, match=f"{name}' is another class already"):
            auto.RANKERS.register(name, dict)
    assert list(auto.RANKERS) == ["click", "longest-id"]
    with pytest.raises(DataError, match="one of click, longest-id, got 'x'"):
        auto.RANKERS["x"]


def test_best_first_fills_up_and_keeps_the_order_of_equals():
    ranking = np.array([[1.0, 2.0, 1.0], [-np.inf, 0.0, -np.inf]])
    rows, log_probs, scores = best_first(ranking, np.array([[5, 6, 7], [8, 9, -1]]), -np.abs(ranking), 4)
    assert rows.tolist() == [[6, 5, 7, -1], [9, -1, -1, -1]]
    assert log_probs[0].tolist() == [-2, -1, -1, -np.inf] and scores[1].tolist() == [0] + 3 * [-np.inf]
