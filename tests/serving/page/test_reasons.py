import numpy as np
import pytest

from tests.rankers.click.test_ranker import make_ranker
from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tests.retriever.test_memory import make_memory
from tiger.serving.page.answers import find_answers
from tiger.serving.page.catalog import PageCatalog
from tiger.serving.page.comparison import compare, comparison_html
from tiger.serving.page.link import PageState
from tiger.serving.page.reasons import find_reasons, outstanding

STATE = PageState(k=5, num_beams=40)


def test_which_item_stands_out():
    drops = np.array([[2.0, 0.1, -3.0], [0.05, 0.0, 0.0], [1.0, 1.0, 1.0], [-1.0, -2.0, -0.1], [np.inf, 0.4, np.nan]])
    assert outstanding(drops).tolist() == [0, -1, -1, -1, 1]
    assert outstanding(np.array([[0.5], [0.09]])).tolist() == [0, -1]  # one item alone, if it matters at all
    assert outstanding(np.array([[0.4, 0.2, 0.2, 0.2, 0.2, 0.2]])).tolist() == [-1]  # 29% are no third
    assert outstanding(np.array([[0.5, 0.2, 0.2, 0.2, 0.2, 0.2]])).tolist() == [0]


def test_the_drop_is_that_of_the_probability_without_the_item(recommender):  # noqa: F811
    answers = recommender.tokenizer.rows(["i9", "i20"])
    found = find_reasons(recommender, np.array([1, 2, 3]), answers, ranked=False)
    whole = recommender.recommend([["i1", "i2", "i3"]], k=40, num_beams=40, exclude_history=False)
    assert found.scored_by == "T5" and found.drops.shape == (2, 3)
    for place, left in enumerate((["i2", "i3"], ["i1", "i3"], ["i1", "i2"])):
        without = recommender.recommend([left], k=40, num_beams=40, exclude_history=False)
        for number, item in enumerate(("i9", "i20")):
            scores = [scores[0][items[0].index(item)] for items, scores in (whole, without)]
            assert found.drops[number, place] == pytest.approx(scores[0] - scores[1], abs=1e-4)


def test_only_what_the_t5_reads_is_left_out(recommender):  # noqa: F811
    found = find_reasons(recommender, np.arange(10, 18), np.array([1]), ranked=False)  # it reads 5
    assert (found.drops[0, :3] == 0).all() and (found.drops[0, 3:] != 0).all()
    nothing = find_reasons(recommender, np.array([], dtype=np.int64), np.array([1, 2]), ranked=False)
    assert nothing.places.tolist() == [-1, -1] and nothing.drops.shape == (2, 0)
    assert find_reasons(recommender, np.array([1]), np.array([], dtype=np.int64), False).places.tolist() == []


def test_the_ranker_gives_the_reasons_of_what_it_has_ordered(recommender):  # noqa: F811
    dense = recommender.encoder.encode(recommender.items["title"].to_pylist())
    recommender.ranker = make_ranker(recommender.tokenizer, dense, "unigram+dense")
    found = find_reasons(recommender, np.array([1, 2]), np.array([7, 8]), ranked=True)
    scores = recommender.ranker.score([np.array([1, 2]), np.array([2]), np.array([1])], np.array([[7, 8]] * 3))
    np.testing.assert_allclose(found.drops, (scores[0] - scores[1:]).T, atol=1e-6)
    assert found.scored_by == "ranker"
    answers = find_answers(recommender, STATE, np.array([1, 2]))
    assert [name for name, _ in answers[0].numbers][:3] == ["Ranker, score", "T5, log-probability", "T5, probability"]


def test_answers_are_those_of_the_recommender(recommender):  # noqa: F811
    answers = find_answers(recommender, STATE, np.array([1, 2]))
    items, scores = recommender.recommend([["i1", "i2"]], k=5, num_beams=40)
    assert [recommender.tokenizer.item_ids[answer.row] for answer in answers] == items[0]
    np.testing.assert_allclose([answer.score for answer in answers], np.exp(scores[0] - scores[0, 0]), rtol=1e-5)
    assert answers[0].numbers[:2] == (
        ("T5, log-probability", f"{scores[0, 0]:.2f}"),
        ("T5, probability", f"{np.exp(scores[0, 0]):.2%}"),
    )
    reasons = find_reasons(recommender, np.array([1, 2]), recommender.tokenizer.rows(items[0]), ranked=False)
    for answer, place in zip(answers, reasons.places):
        assert answer.because == (-1 if place < 0 else [1, 2][place]) and bool(answer.how) == (place >= 0)
    assert find_answers(recommender, PageState(k=5, num_beams=40), np.arange(40)) == []


@pytest.fixture
def with_memory(recommender):  # noqa: F811
    recommender.memory = make_memory()
    return recommender


def test_mixed_scores_are_no_probabilities(with_memory):
    """The T5's own stand beside them."""
    answers = find_answers(with_memory, STATE, np.array([1, 2]))
    items, scores = with_memory.recommend([["i1", "i2"]], k=5, num_beams=40)
    alone, log_probs = with_memory.recommend([["i1", "i2"]], k=40, num_beams=40, exclude_history=False, memory=False)
    assert (scores > -2).any() and len(answers) == 5
    for answer, item, score in zip(answers, items[0], scores[0]):
        own = log_probs[0, alone[0].index(item)]
        assert answer.row == with_memory.tokenizer.rows([item])[0]
        assert answer.numbers[:3] == (
            ("T5 with its memory, score", f"{score:.2f}"),
            ("T5, log-probability", f"{own:.2f}"),
            ("T5, probability", f"{np.exp(own):.2%}"),
        )


def test_the_drop_is_that_of_the_mixed_score(with_memory):
    """By items that the memory alone reads, too: the T5 reads the last five."""
    history, wanted = np.arange(1, 9), ["i20", "i30"]
    found = find_reasons(with_memory, history, with_memory.tokenizer.rows(wanted), ranked=False)
    assert found.scored_by == "T5 with its memory" and found.drops.shape == (2, 8)

    def scores(rows):
        items, values = with_memory.recommend([[f"i{row}" for row in rows]], k=40, num_beams=40, exclude_history=False)
        return np.array([values[0][items[0].index(item)] for item in wanted])

    for place in range(8):
        drops = scores(history) - scores(np.delete(history, place))
        np.testing.assert_allclose(found.drops[:, place], drops, atol=1e-4)
    assert np.abs(found.drops[:, 0]).max() > 1e-3


def test_a_ranker_over_a_memory_has_three_numbers(with_memory):
    dense = with_memory.encoder.encode(with_memory.items["title"].to_pylist())
    with_memory.ranker = make_ranker(with_memory.tokenizer, dense, "unigram+dense")
    names = [name for name, _ in find_answers(with_memory, STATE, np.array([1, 2]))[0].numbers]
    assert names[:4] == ["Ranker, score", "T5 with its memory, score", "T5, log-probability", "T5, probability"]


def test_the_comparison_tells_the_t5_from_its_memory(with_memory):
    found = compare(with_memory, STATE, np.array([1, 2]), None)
    assert list(found) == ["T5", "memory"]
    for name, memory in (("T5", False), ("memory", True)):
        items, _ = with_memory.recommend([["i1", "i2"]], k=5, num_beams=40, memory=memory)
        assert [with_memory.tokenizer.item_ids[row] for row in found[name]] == items[0]
    assert found["T5"].tolist() != found["memory"].tolist()
    html = comparison_html(PageCatalog(with_memory.tokenizer, with_memory.items), found, 2)
    assert "<h2>T5 alone</h2>" in html and "<h2>T5 and memory</h2>" in html
