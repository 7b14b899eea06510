"""Yardsticks: scores worked out by hand on four users, and the published figures on real data."""

import numpy as np
import pyarrow as pa
import pytest

from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.embeddings.item_text import item_texts
from tiger.evaluation.baselines import (
    Content,
    Hybrid,
    Popularity,
    Transition,
    baseline_evaluations,
    evaluate_baselines,
)
from tiger.evaluation.metrics import next_item_metrics


def sequences(*users: list[int]) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64)
    items = np.array([item for user in users for item in user], dtype=np.int32)
    return Sequences(offsets, items, np.arange(len(items), dtype=np.int64) * 86_400)


TRAIN = sequences([0, 1, 2, 3], [0, 1, 0], [4, 0], [])
TEXTS = ["red soap", "red shampoo", "blue soap", "green towel", "blue comb", "red red comb"]
NOBODY = sequences([])


def test_popularity_ranks_by_count_and_floors_it_at_five():
    train = sequences([2] * 7, [1] * 6, [0] * 4, [3] * 2)
    items, scores = Popularity().fit(train, 5).recommend(sequences([], [2]), k=3)
    assert items[:, :1].tolist() == [[2], [1]]
    assert items[0, 1] == 1
    assert scores.tolist()[0] == [7, 6, 5] and scores.tolist()[1] == [6, 5, 5]
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)


def test_a_count_below_five_makes_no_difference():
    train = sequences([0] * 4, [1] * 3, [2], [])
    first = [Popularity(seed).fit(train, 4).recommend(NOBODY, k=1)[0][0, 0] for seed in range(40)]
    assert set(first) == {0, 1, 2, 3}


def test_transition_by_hand():
    model = Transition().fit(TRAIN, 6)
    # From 0: 1 + 1 at gap 1 to item 1; 1/2 to item 2; 1/3 to item 3; 1/2 to itself (0, 1, 0), left out as history.
    items, scores = model.recommend(sequences([0]), k=3)
    assert items.tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(scores, [[2, 1 / 2, 1 / 3]], rtol=1e-6)
    # From 1: 1 to 2, 1/2 to 3, 1 to 0. The newest item counts fully, the one before .8.
    items, scores = model.recommend(sequences([0, 1]), k=2)
    assert items.tolist() == [[2, 3]]
    np.testing.assert_allclose(scores, [[1 + 0.8 / 2, 1 / 2 + 0.8 / 3]], rtol=1e-6)
    items, scores = model.recommend(sequences([0]), k=2, exclude_history=False)
    assert items[0, 0] == 1 and set(model.recommend(sequences([0]), k=3, exclude_history=False)[0][0]) == {1, 0, 2}


def test_transition_reads_the_last_five_items_and_repeats_add_up():
    model = Transition().fit(TRAIN, 6)
    assert model.recommend(sequences([4, 5, 5, 5, 5, 5]), k=1)[1][0, 0] == 0
    once = model.recommend(sequences([4]), k=1)[1][0, 0]
    assert model.recommend(sequences([4, 4]), k=1)[1][0, 0] == pytest.approx(1.8 * once)


def test_transition_with_log_counts():
    scores = Transition(log_counts=True).fit(TRAIN, 6).recommend(sequences([0]), k=2)[1]
    np.testing.assert_allclose(scores, [[np.log(3), np.log(1.5)]], rtol=1e-6)


def test_transitions_do_not_cross_users():
    model = Transition().fit(sequences([0, 1], [2, 3]), 4)
    items, scores = model.recommend(sequences([1], [0]), k=3)
    assert scores[0].tolist() == [0, 0, 0]
    assert items[1, 0] == 1 and scores[1].tolist() == [1, 0, 0]


def test_content_by_hand():
    items, scores = (
        Content()
        .fit(TRAIN, ["red soap", "red soap", "blue towel", "blue comb"])
        .recommend(sequences([0], [2, 0]), k=3)
    )
    assert items[0, 0] == 1 and scores[0].tolist() == pytest.approx([1, 0, 0])
    # `blue` occurs in two of four texts, `towel` and `comb` in one: idf 1 + ln(5/3) and 1 + ln(5/2).
    blue, word = 1 + np.log(5 / 3), 1 + np.log(5 / 2)
    assert items[1].tolist() == [1, 3, -1]
    assert scores[1, :2].tolist() == pytest.approx([1, 0.6 * blue**2 / (blue**2 + word**2)], rel=1e-5)


def test_content_does_not_depend_on_which_words_are_frequent():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{word}" for word in (rng.random(8) ** 4 * 300).astype(int)) for _ in range(200)]
    histories = sequences(*[rng.integers(0, 200, 4).tolist() for _ in range(20)])
    model = Content().fit(TRAIN, texts)
    assert len(model.frequent) > 5 and len(model.rare) > 5
    tfidf = model.vectors.toarray()
    for user, history in enumerate(histories):
        expected = tfidf @ (tfidf[history[-1]] + 0.6 * tfidf[history[-2]] + 0.36 * tfidf[history[-3]])
        expected[history] = -1
        items, scores = model.recommend(histories.select(np.array([user])), k=10)
        np.testing.assert_allclose(scores[0], np.sort(expected)[::-1][:10], rtol=1e-4)
        np.testing.assert_allclose(expected[items[0]], scores[0], rtol=1e-4)


def test_hybrid_adds_its_parts():
    hybrid = Hybrid().fit(TRAIN, TEXTS)
    histories = sequences([0, 1], [4])
    part = {
        model: dict(zip(*(array[0] for array in model.recommend(histories, k=6))))
        for model in (hybrid.transition, hybrid.content)
    }
    items, scores = hybrid.recommend(histories, k=4)
    for item, score in zip(items[0], scores[0]):
        assert score == pytest.approx(0.5 * part[hybrid.transition][item] + part[hybrid.content][item], rel=1e-5)
    with pytest.raises(ValueError, match="same seed"):
        Hybrid(transition=Transition(seed=1))


@pytest.mark.parametrize(
    "model", [Transition().fit(TRAIN, 6), Content().fit(TRAIN, TEXTS), Hybrid().fit(TRAIN, TEXTS)]
)
def test_empty_histories_get_the_popular_items(model):
    train = sequences([3] * 9, [5] * 8, [1] * 7)
    model = model.fit(train, TEXTS if not isinstance(model, Transition) else 6)
    items, scores = model.recommend(NOBODY, k=3)
    assert items.tolist() == [[3, 5, 1]] and scores.tolist() == [[0, 0, 0]]


def test_short_catalogues_are_padded_and_history_removed():
    items, scores = Popularity().fit(TRAIN, 3 + 2).recommend(sequences([0, 1, 2], []), k=7)
    assert set(items[0, :2]) == {3, 4} and items[0, 2:].tolist() == [-1] * 5
    assert np.isneginf(scores[0, 2:]).all()
    assert sorted(items[1]) == [-1, -1, 0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="k must be 1 or more"):
        Popularity().fit(TRAIN, 5).recommend(NOBODY, k=0)


def test_chunks_of_users_do_not_change_the_answer(monkeypatch):
    rng = np.random.default_rng(0)
    log = sequences(*[rng.integers(0, 50, 6).tolist() for _ in range(40)])
    whole = Transition().fit(log, 50).recommend(log, k=10)
    monkeypatch.setattr("tiger.evaluation.baselines._CHUNK_SCORES", 150)
    for one, other in zip(whole, Transition().fit(log, 50).recommend(log, k=10)):
        np.testing.assert_array_equal(one, other)


def test_ties_do_not_follow_the_order_of_the_item_table():
    """All followers tie: whichever comes first must not be the first row, nor depend on it."""
    log = sequences(*[[0, item] for item in range(1, 9)])
    first = {int(Transition(seed=seed).fit(log, 9).recommend(sequences([0]), k=1)[0][0, 0]) for seed in range(60)}
    assert first == set(range(1, 9))


def test_training_counts_alone_are_read(shared_data):
    """Pairs that end in a validation or test item aren't counted."""
    data = RecommendationData.load(shared_data / "amazon" / "beauty")
    split = data.leave_one_out()
    followers = Transition().fit(split.train, data.num_items).followers
    pairs = sum((np.maximum(split.train.lengths - gap, 0) / gap).sum() for gap in (1, 2, 3))
    assert followers.sum() == pytest.approx(pairs, rel=1e-5)


def test_baselines_reproduce_the_figures_on_beauty(shared_data):
    data = RecommendationData.load(shared_data / "amazon" / "beauty")
    split = data.leave_one_out()
    results = evaluate_baselines(split, item_texts(data.items))
    assert list(results) == ["popularity", "transition", "content", "hybrid", "hybrid-with-validation"]
    assert results["hybrid"]["recall@10"] == pytest.approx(0.1045, abs=0.002)
    assert results["hybrid"]["ndcg@10"] == pytest.approx(0.0615, abs=0.002)
    assert results["transition"]["ndcg@10"] == pytest.approx(0.0477, abs=0.002)
    assert results["content"]["ndcg@10"] == pytest.approx(0.0457, abs=0.002)
    assert results["popularity"]["ndcg@10"] < 0.01

    # How ties are broken makes no difference that matters.
    users = np.arange(0, len(split.users), 10)
    histories, targets = split.test_histories.select(users), split.test_targets[users]
    ndcg = [
        next_item_metrics(Transition(seed=seed).fit(split.train, data.num_items).recommend(histories)[0], targets)
        for seed in (0, 1)
    ]
    assert ndcg[0]["ndcg@10"] == pytest.approx(ndcg[1]["ndcg@10"], abs=0.002)


def test_baselines_on_validation_and_on_bad_input():
    interactions = {"user_id": [], "item_id": [], "timestamp": []}
    for user, history in enumerate([[0, 1, 2, 3], [0, 1, 2], [4, 0, 1, 5]]):
        for item in history:
            interactions["user_id"].append(f"u{user}")
            interactions["item_id"].append(f"i{item}")
            interactions["timestamp"].append(len(interactions["timestamp"]))
    data = RecommendationData.from_tables(pa.table({"item_id": [f"i{i}" for i in range(6)]}), pa.table(interactions))
    split = data.leave_one_out()
    valid = evaluate_baselines(split, TEXTS, part="valid", ks=(1, 6))
    assert valid["hybrid"]["recall@6"] == 1.0
    # Training parts are [0, 1], [0], [4, 0]: only 0 -> 1 and 4 -> 0 are known, and users 1 and 2 both continue with 1.
    assert valid["transition"]["recall@1"] >= 2 / 3 and "hybrid-with-validation" not in valid
    with pytest.raises(ValueError, match="part"):
        evaluate_baselines(split, TEXTS, part="train")


def test_a_hybrid_that_has_seen_validation_counts_its_events():
    """Validation events of others say what comes after item 1; training events don't."""
    histories = [[0, 2, 1, 3], [2, 0, 1, 3], [0, 2, 1, 3]]  # train, train, valid, test: 1 -> 3 is seen in none
    others = [[4, 1, 3, 5]] * 7  # 1 -> 3 is their validation event, 4 the most popular item
    train, valid = sequences(*(one[:2] for one in histories + others)), np.array([1] * 3 + [3] * 7, dtype=np.int32)
    test = np.array([3] * 3 + [5] * 7, dtype=np.int32)
    seen = sequences(*(one[:3] for one in histories + others))
    split = LeaveOneOut(np.arange(10), train, valid, seen, test, 0)
    texts = ["soap", "towel", "comb", "brush", "oil", "lamp"]  # of which no two are alike
    found = evaluate_baselines(split, texts, ks=(1, 6))
    assert found["hybrid"]["recall@1"] < 3 / 10 <= found["hybrid-with-validation"]["recall@1"]
    again = Hybrid().fit(split.test_histories, texts).recommend(split.test_histories)[0]
    assert found["hybrid-with-validation"] == next_item_metrics(again, split.test_targets, (1, 6))
    one = evaluate_baselines(split, texts, ks=(1, 6), only=["hybrid-with-validation"])
    assert one == {"hybrid-with-validation": found["hybrid-with-validation"]}


def test_without_words_the_transition_is_the_strongest():
    events = [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 0]]
    train, seen = sequences(*(one[:3] for one in events)), sequences(*(one[:4] for one in events))
    split = LeaveOneOut(np.arange(3), train, np.array([3, 4, 5]), seen, np.array([4, 5, 0]), 0)
    found = baseline_evaluations(split, [""] * 6)
    assert list(found) == ["popularity", "transition", "transition-with-validation"]
