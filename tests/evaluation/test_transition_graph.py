import numpy as np
import pytest

from tests.evaluation.test_baselines import sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.metrics import next_item_metrics
from tiger.evaluation.transition_graph import TGH_1, TGH_2, TransitionGraph, evaluate_transition_graphs

# Unit vectors by angle: cosines to item 0 fall with the item's number.
VECTORS = np.stack([np.cos(np.arange(12) / 12), np.sin(np.arange(12) / 12)], axis=1) * 3


def test_rings_in_their_places():
    # 0 leads to 5, 6 and 7; these to 8, 3 and 9; these to 1 and 2.
    train = sequences([0, 5, 8, 1], [0, 6, 3, 2], [0, 7, 9], [0, 7])
    graph = TransitionGraph(sources=((2, 1, 1),), edge_weight=0.0).fit(train, VECTORS)
    items, scores = graph.recommend(sequences([4, 0]), k=10)
    # The best two of ring 1, one of ring 2, one of ring 3; what is left over in the order of the rings; popular ones.
    assert items[0, :8].tolist() == [5, 6, 3, 1, 7, 8, 9, 2]
    assert not {0, 4} & set(items[0].tolist()) and len(set(items[0].tolist())) == 10
    assert scores[0].tolist() == [-float(place) for place in range(10)]
    # An edge that was passed twice moves up its item: .5 against .5 * log(2) / log(3), and cosines .83 against .91.
    weighted = TransitionGraph(sources=((2, 1, 1),), edge_weight=0.5).fit(train, VECTORS)
    assert weighted.recommend(sequences([4, 0]), k=3)[0].tolist() == [[7, 5, 3]]


def test_a_ring_that_lacks_items_is_filled_up_by_those_before():
    train = sequences([0, 5], [0, 6], [0, 7], [5, 8])
    graph = TransitionGraph(sources=((1, 3, 1),), edge_weight=0.0).fit(train, VECTORS)
    assert graph.recommend(sequences([0]), k=4)[0].tolist() == [[5, 6, 7, 8]]
    # Without its history's items a ring holds fewer.
    assert graph.recommend(sequences([5, 0]), k=3)[0].tolist() == [[6, 7, 8]]
    assert graph.recommend(sequences([5, 0]), k=3, exclude_history=False)[0].tolist() == [[5, 6, 7]]


def test_a_second_source():
    train = sequences([0, 5], [0, 6], [0, 7], [1, 7], [1, 8], [1, 9], [5, 10])
    graph = TransitionGraph(sources=((2, 1), (1, 1)), edge_weight=0.0).fit(train, VECTORS)
    # Around 0: 5 and 6, then 10; around 1: 7, and no second ring, so that 8 takes its place.
    assert graph.recommend(sequences([4, 1, 0]), k=6)[0][0, :5].tolist() == [5, 6, 10, 7, 8]
    assert graph.recommend(sequences([0]), k=4)[0][0].tolist()[:4] == [5, 6, 10, 7]  # no item before the last
    assert sum(map(sum, TGH_1)) == sum(map(sum, TGH_2)) == 10


def test_users_in_parts_get_the_same(monkeypatch):
    train = sequences([0, 5, 8, 1], [0, 6, 3, 2], [1, 7, 9], [5, 10])
    graph = TransitionGraph(TGH_2).fit(train, VECTORS)
    histories = sequences([0], [5, 0], [1], [0, 1], [3])
    whole = graph.recommend(histories, k=5)[0]
    monkeypatch.setattr("tiger.evaluation.transition_graph._SCORES_AT_ONCE", 2 * len(VECTORS))
    assert np.array_equal(graph.recommend(histories, k=5)[0], whole)


def test_histories_without_edges_get_popular_items():
    train = sequences([0, 5], [3] * 9, [2] * 7)
    graph = TransitionGraph().fit(train, VECTORS)
    assert graph.recommend(sequences([], [11]), k=2)[0].tolist() == [[3, 2], [3, 2]]
    kept, _ = graph.recommend(sequences([3]), k=2, exclude_history=False)
    assert kept[0, 0] == 3  # it follows itself


def test_the_order_of_rows_and_the_length_of_vectors_tell_nothing():
    random = np.random.default_rng(0)
    train = [random.integers(0, 12, 5).tolist() for _ in range(12)]
    moved = random.permutation(12)
    one = TransitionGraph().fit(sequences(*train), VECTORS).recommend(sequences([3], [7, 1]), k=5)[0]
    other = TransitionGraph().fit(sequences(*(moved[user].tolist() for user in train)), 2 * VECTORS[np.argsort(moved)])
    found = other.recommend(sequences([moved[3]], [moved[7], moved[1]]), k=5)[0]
    assert np.array_equal(moved[one], found)


def test_a_small_catalog_ends_the_list():
    items, scores = TransitionGraph().fit(sequences([0, 1]), VECTORS[:3]).recommend(sequences([0]), k=4)
    assert items.tolist() == [[1, 2, -1, -1]] and np.isneginf(scores[0, 2:]).all()
    assert scores[0, 1] == pytest.approx(-1)


def test_rows_with_and_without_validation():
    """The edge to each target, 1 to 2, was passed in validation alone."""
    train, seen = sequences(*[[0, 3]] * 4, *[[3, 1]] * 2), sequences(*[[0, 3, 1]] * 4, *[[3, 1, 2]] * 2)
    valid, test = np.array([1] * 4 + [2] * 2, dtype=np.int32), np.array([2] * 4 + [5] * 2, dtype=np.int32)
    split = LeaveOneOut(np.arange(6), train, valid, seen, test, 0)
    found = evaluate_transition_graphs(split, VECTORS)
    assert list(found) == ["tgh-1", "tgh-2", "tgh-1-with-validation"]
    again = TransitionGraph().fit(seen, VECTORS).recommend(seen)[0]
    assert again[:4, 0].tolist() == [2] * 4
    assert found["tgh-1-with-validation"] == next_item_metrics(again, test)
    assert found["tgh-1"]["ndcg@5"] < found["tgh-1-with-validation"]["ndcg@5"]
    assert list(evaluate_transition_graphs(split, VECTORS, "valid")) == ["tgh-1", "tgh-2"]
    assert evaluate_transition_graphs(split, VECTORS, only=["tgh-2"]) == {"tgh-2": found["tgh-2"]}
