"""Trees are kept where they are better than what needs none, on users that they have not learned from."""

import numpy as np
import pytest

from tests.rankers.two_stage.test_candidates import catalogue, codes, vectors
from tests.rankers.two_stage.test_ranker import SETTINGS_OF_TREES, SIZE, follow
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.baselines import Hybrid, Transition
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.choice import OrderChoice
from tiger.rankers.two_stage.ranker import TREES, TwoStageRanker
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer


def answers(places, count=200):
    """Lists of ten in which the target, item 0, stands at a place, from 0; the place of each user in turn."""
    found = np.tile(np.arange(1, 11), (count, 1))
    found[np.arange(count), np.resize(places, count)] = 0
    return found


def test_trees_stay_where_they_are_better_than_chance():
    targets = np.zeros(200, dtype=np.int64)
    first, second = answers([0, 0, 0, 1]), answers([1, 1, 1, 0])
    assert OrderChoice.of({"trees": first, "hybrid": second}, targets).order == "trees"
    assert OrderChoice.of({"trees": second, "hybrid": first}, targets).order == "hybrid"
    assert OrderChoice.of({"trees": first, "hybrid": first}, targets).order == "hybrid"  # no better
    # Few users say nothing: one more hit is chance.
    few = OrderChoice.of({"trees": answers([0, 1, 1, 1], 4), "hybrid": answers([1], 4)}, targets[:4])
    assert few.order == "hybrid" and few.ndcg["trees"] > few.ndcg["hybrid"]
    # The T5's order stays where it is better than the hybrid's.
    three = {"trees": second, "hybrid": second, "t5": first}
    assert OrderChoice.of(three, targets).order == "t5"
    assert OrderChoice.of(three | {"hybrid": first}, targets).order == "hybrid"
    assert OrderChoice.of(three | {"trees": first}, targets).order == "t5"  # no better than the T5's


@pytest.fixture(scope="module")
def candidates():
    return Candidates.fit(follow(0)[0], catalogue(), codes=codes(), vectors=vectors(), num_proposed=SIZE)


def test_without_a_gain_the_hybrid_orders_alone(candidates, tmp_path):
    histories, _ = follow(1, 200)
    targets = np.random.default_rng(0).integers(0, SIZE, 200)  # nothing to learn
    tokenizer = SemanticIdTokenizer(codes(), [f"item-{row}" for row in range(SIZE)], 8)
    proposals = candidates.propose(histories)
    settings = SETTINGS_OF_TREES | {"max_trees": 5, "keep": "auto"}
    ranker = TwoStageRanker.fit(candidates, proposals, targets, tokenizer.fingerprint, **settings)
    assert ranker.record["order"] == "hybrid" and ranker.trees == [] and ranker.record["trees"]
    none = np.empty((200, 0))
    found = ranker.order(histories, none.astype(int), none, 10)[0]
    hybrid = Hybrid(transition=Transition()).fit(follow(0)[0], item_texts(catalogue(), required=False))
    expected = hybrid.recommend(histories, 10)[0]
    assert (found == expected).mean() > 0.99  # but for scores that differ in the last bit
    ranker.save_pretrained(tmp_path)
    assert "tree" not in (tmp_path / TREES).read_text()
    again = TwoStageRanker.from_pretrained(tmp_path, tokenizer, catalogue())
    assert np.array_equal(again.order(histories, none.astype(int), none, 10)[0], found)
    kept = TwoStageRanker.fit(candidates, proposals, targets, **settings | {"keep": "trees"})
    assert kept.trees and "order" not in kept.record


def test_what_the_log_tells_is_kept(candidates):
    histories, targets = follow(1, 300)
    # Beams that are always wrong are an order, too.
    beams = np.tile(np.arange(5), (300, 1))
    proposals = candidates.propose(histories, beams, np.tile(-np.arange(5.0), (300, 1)))
    ranker = TwoStageRanker.fit(candidates, proposals, targets, keep="auto", **SETTINGS_OF_TREES)
    assert ranker.record["order"] == "trees" and ranker.trees
    ndcg = [ranker.record[f"held out ndcg@10, {name}"] for name in ("trees", "hybrid", "t5")]
    assert ndcg[0] > ndcg[1] > ndcg[2]


def test_a_catalog_without_words_has_candidates():
    histories, _ = follow(1, 20)
    items = catalogue().select(["item_id"])
    candidates = Candidates.fit(follow(0)[0], items, num_proposed=10)
    rows = candidates.propose(histories).rows
    assert (rows[:, :6] >= 0).all()
