import numpy as np
import pytest

from tests.conftest import make_model
from tests.rankers.two_stage.test_candidates import catalogue
from tests.rankers.two_stage.test_ranker import fitted, tokenizer  # noqa: F401
from tiger.rankers.two_stage.features import DAYS
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.page.answers import find_answers
from tiger.serving.page.catalog import PageCatalog
from tiger.serving.page.comparison import compare, comparison_html, popularity_of
from tiger.serving.page.link import PageState
from tiger.serving.page.reasons import find_reasons

STATE = PageState(k=4, num_beams=10)


@pytest.fixture
def recommender(tokenizer, fitted):  # noqa: F811
    return TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), ranker=fitted)


def test_the_same_history_by_each_method(recommender):
    history = np.array([3, 13])
    found = compare(recommender, STATE, history, popularity_of(recommender.ranker, len(recommender.tokenizer)))
    ids = [["item-3", "item-13"]]
    assert list(found) == ["T5", "ranker", "popularity"]
    for name in ("T5", "ranker"):
        items, _ = recommender.recommend(ids, k=4, num_beams=10, rank=name == "ranker")
        assert [f"item-{row}" for row in found[name]] == items[0]
    counts = np.bincount(recommender.ranker.candidates.events // DAYS, minlength=40)
    counts[history] = 0
    assert sorted(counts[found["popularity"]]) == sorted(counts)[-4:] and not set(found["popularity"]) & {3, 13}
    html = comparison_html(PageCatalog(recommender.tokenizer, recommender.items), found, 2)
    assert html.count("<h2>") == 3 and html.count("<li>") == 12 and "history of 2 items" in html


def test_places_in_the_other_lists_are_named():
    from tests.conftest import make_recommender

    tiger = make_recommender(20)
    catalog = PageCatalog(tiger.tokenizer)
    html = comparison_html(catalog, {"T5": np.array([4, 5]), "ranker": np.array([5, 6])}, 0)
    first, second, third, fourth = html.split("<li>")[1:]
    assert "T5 and ranker: 1" in second and "T5 alone: 2" in third and "also" not in first + fourth


def test_what_is_not_known_is_left_out(recommender):
    recommender.ranker = None
    found = compare(recommender, STATE, np.array([], dtype=np.int64), None)
    assert list(found) == ["T5"] and popularity_of(None, 40) is None
    html = comparison_html(PageCatalog(recommender.tokenizer, recommender.items), found, 0)
    assert "nothing to compare" in html and html.count("<li>") == 4


def test_the_trees_name_the_item_that_the_log_says_is_followed(recommender):
    """In this log, the item 10 further on follows the last but one; any item comes between."""
    history = np.array([26, 16, 36, 25, 6, 38])
    found = find_reasons(recommender, history, np.array([16]), ranked=True)
    left = [history, *(np.delete(history, place) for place in range(6))]
    scores = recommender.ranker.score(left, np.array([[16]] * 7))
    np.testing.assert_allclose(found.drops[0], scores[0, 0] - scores[1:, 0], atol=1e-6)
    assert found.places.tolist() == [4] and found.drops[0, 4] > 1
    answers = find_answers(recommender, STATE, history)
    assert answers[0].score == 1 and [name for name, _ in answers[0].numbers][0] == "Ranker, score"
