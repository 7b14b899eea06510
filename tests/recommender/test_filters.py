"""Filters: only what may be shown, as many as are wanted, and in the order of all items' scores."""

import copy
import threading
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.conftest import make_model
from tests.rankers.click.test_ranker import make_ranker
from tests.rankers.two_stage.test_candidates import catalogue, codes, vectors
from tests.rankers.two_stage.test_ranker import SETTINGS_OF_TREES, SIZE, follow
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.recommender import filters as filters_module
from tiger.recommender.filter_cache import FilterCache
from tiger.recommender.histories import known_histories
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

HISTORIES = [["i1", "i2", "i3"], [], ["i30"], ["i4", "i4", "i5", "i6"], ["i9"]]
PRICES = [None if row == 5 else float(row) for row in range(40)]


def shop(fitted, tmp_path, tokens="codes", ranked=False):  # noqa: F811
    tokenizer, encoder, items = fitted
    tokenizer.save_pretrained(tmp_path / "copy")
    own = SemanticIdTokenizer.from_pretrained(tmp_path / "copy").with_tokens(tokens)
    table = items.append_column("price", pa.array(PRICES)).append_column("brand", pa.array(["Acme", "Bolt"] * 20))
    ranker = make_ranker(own, encoder.encode(items["title"].to_pylist()), "unigram+dense") if ranked else None
    return TigerRecommender(make_model(own), own, encoder, table, max_history=5, ranker=ranker)


@pytest.fixture(params=["codes", "prefixes", "hashed_prefixes"])
def recommender(fitted, tmp_path, request):  # noqa: F811
    return shop(fitted, tmp_path, request.param)


@pytest.fixture
def ranked(fitted, tmp_path):  # noqa: F811
    return shop(fitted, tmp_path, ranked=True)


@pytest.fixture(scope="module")
def two_stage():
    """A T5 and trees over 40 items, of which the log and the texts propose 15."""
    tokenizer = SemanticIdTokenizer(codes(), [f"item-{row}" for row in range(SIZE)], 8)
    candidates = Candidates.fit(follow(0)[0], catalogue(), codes=codes(), vectors=vectors(), num_proposed=15)
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), max_history=5)
    histories, targets = follow(1, 300)
    beams = tiger.recommend_rows(histories, k=10, num_beams=10, exclude_history=False)
    proposals = candidates.propose(histories, *beams, exclude_history=False)
    tiger.ranker = TwoStageRanker.fit(candidates, proposals, targets, tokenizer.fingerprint, **SETTINGS_OF_TREES)
    return tiger


def random_sets(tokenizer, seed=0):
    """Allowed ids: none, one, a few, half of them, all but one, all."""
    random = np.random.default_rng(seed)
    return [random.permutation(tokenizer.item_ids)[:count].tolist() for count in (1, 2, 4, 20, len(tokenizer) - 1, 40)]


def all_scores(tiger, histories, **options):
    """For each history every item that is not left out, best first, and the scores."""
    return tiger.recommend(histories, k=len(tiger.tokenizer), num_beams=len(tiger.tokenizer), **options)


def check_against_all(tiger, histories, allowed, found, scores, k, **options):
    """The answers are the first k of all items' order that are allowed."""
    everything, values = all_scores(tiger, histories, **options)
    for row in range(len(histories)):
        kept = [place for place, item in enumerate(everything[row]) if item in allowed][:k]
        assert found[row] == [everything[row][place] for place in kept]
        np.testing.assert_allclose(scores[row, : len(kept)], values[row, kept], atol=2e-5)
        assert np.isneginf(scores[row, len(kept) :]).all()


@pytest.mark.parametrize("exclude", [True, False])
def test_the_answers_are_the_best_of_all_that_are_allowed(recommender, exclude):
    for allowed in random_sets(recommender.tokenizer):
        found, scores = recommender.recommend(HISTORIES, k=6, num_beams=40, filter=allowed, exclude_history=exclude)
        check_against_all(recommender, HISTORIES, allowed, found, scores, 6, exclude_history=exclude)


def test_as_many_answers_as_there_are_with_no_more_beams_than_answers(recommender):
    for seed in range(5):
        for allowed in random_sets(recommender.tokenizer, seed):
            for k in (1, 3, 12):
                found, _ = recommender.recommend(HISTORIES, k=k, num_beams=k, filter=allowed)
                for history, answer in zip(HISTORIES, found):
                    left = set(allowed) - set(history)
                    assert len(answer) == len(set(answer)) == min(k, len(left)) and set(answer) <= left
                sampled, _ = recommender.recommend(
                    HISTORIES, k=k, num_beams=k, filter=allowed, temperature=2.0, seed=seed
                )
                assert [len(answer) for answer in sampled] == [len(answer) for answer in found]
                assert set(sum(sampled, [])) <= set(allowed)


def test_the_click_ranker_orders_what_is_allowed(ranked):
    for allowed in random_sets(ranked.tokenizer):
        found, scores = ranked.recommend(HISTORIES, k=6, num_beams=40, filter=allowed)
        check_against_all(ranked, HISTORIES, allowed, found, scores, 6)
        few, _ = ranked.recommend(HISTORIES, k=4, num_beams=4, filter=allowed)
        left = [set(allowed) - set(history) for history in HISTORIES]
        assert [len(answer) for answer in few] == [min(4, len(some)) for some in left]
        assert all(set(answer) <= some for answer, some in zip(few, left))


def test_the_two_stage_ranker_proposes_of_what_is_allowed(two_stage):
    """Not what is left of its candidates: fifteen for all, of which a filter of ten would leave three or four."""
    histories = [[f"item-{row}" for row in rows] for rows in ([1, 11, 21], [], [5], [30, 2])]
    ranker, sequences = two_stage.ranker, known_histories(two_stage.tokenizer, histories)
    every_item = copy.copy(ranker.candidates)
    every_item.num_proposed = SIZE
    proposed = [set(answer) for answer in two_stage.recommend(histories, k=15, num_beams=15)[0]]
    for seed in range(4):
        allowed = np.random.default_rng(seed).permutation(two_stage.tokenizer.item_ids)[:10].tolist()
        assert min(len(some & set(allowed)) for some in proposed) < 8
        found, scores = two_stage.recommend(histories, k=7, num_beams=7, filter=allowed)
        # All ten are candidates: the answers are the best of them among all items that the trees have scored.
        beams = two_stage.recommend_rows(sequences, k=7, num_beams=7, rank=False, filter=allowed)
        scored = every_item.propose(ranker._dated(sequences), *beams, exclude_history=False)
        for row, answer in enumerate(found):
            by_row = dict(zip(scored.rows[row].tolist(), ranker._predict(scored)[row].tolist()))
            left = two_stage.tokenizer.rows([item for item in allowed if item not in histories[row]]).tolist()
            best = sorted(left, key=by_row.__getitem__, reverse=True)[:7]
            np.testing.assert_allclose(scores[row], [by_row[one] for one in best], atol=1e-5)
            own = [by_row[one] for one in two_stage.tokenizer.rows(answer).tolist()]
            np.testing.assert_allclose(scores[row], own, atol=1e-5)
            assert set(answer) <= {two_stage.tokenizer.item_ids[one] for one in left} and len(set(answer)) == 7


def test_trees_without_the_t5_have_enough_answers(two_stage):
    log, targets = follow(1, 300)
    candidates = two_stage.ranker.candidates
    ranker = TwoStageRanker.fit(
        candidates,
        candidates.propose(log, exclude_history=False),
        targets,
        two_stage.tokenizer.fingerprint,
        without=("t5",),
        **SETTINGS_OF_TREES,
    )
    tiger = TigerRecommender(two_stage.model, two_stage.tokenizer, items=two_stage.items, max_history=5, ranker=ranker)
    allowed = tiger.tokenizer.item_ids[10:]
    for k in (5, 15, 25):  # of 15 proposed ones
        (answer,), _ = tiger.recommend([["item-1", "item-12"]], k=k, num_beams=25, filter=allowed)
        assert len(answer) == k and set(answer) <= set(allowed) - {"item-12"}


def test_expressions_words_ids_and_names_mean_the_same(recommender):
    expression = (pc.field("price") < 20) & (pc.field("brand") == "Acme")
    ids = [f"i{row}" for row in range(0, 20, 2)]
    recommender.add_filter("cheap Acme", expression)
    expected, scores = recommender.recommend(HISTORIES, k=5, filter=ids)
    given = [
        expression,
        "price < 20 and brand = 'Acme'",
        "cheap Acme",
        tuple(ids),
        set(ids),
        np.array(ids),
        pa.array(ids),
    ]
    for one in [*given, recommender.filters["cheap Acme"], recommender.compile_filter(expression)]:
        found, again = recommender.recommend(HISTORIES, k=5, filter=one)
        assert found == expected and np.array_equal(scores, again)
    assert recommender.compile_filter("price < 20").count == 19  # a missing price is not below 20
    assert recommender.compile_filter("not price < 20").count == 20  # nor is it not
    assert recommender.compile_filter("price is null").mask.tolist() == [row == 5 for row in range(40)]


def test_a_filter_for_each_history(recommender, ranked):
    recommender.add_filter("Bolt", "brand = 'Bolt'")
    given = [pc.field("price") >= 30, None, ["i1", "i2"], recommender.filters["Bolt"], ["i9"]]
    for tiger in (recommender, ranked):
        some = given if tiger is recommender else [*given[:3], "brand = 'Bolt'", given[4]]
        found, scores = tiger.recommend(HISTORIES, k=5, num_beams=12, filter=some)
        for row, one in enumerate(some):
            alone, values = tiger.recommend(HISTORIES[row : row + 1], k=5, num_beams=12, filter=one)
            assert found[row] == alone[0]
            np.testing.assert_allclose(scores[row], values[0], atol=1e-5)
        assert found[4] == [] and sorted(found[2]) == ["i1", "i2"] and len(found[1]) == 5
        assert all(int(item[1:]) % 2 for item in found[3])


def test_many_filters_of_users_are_compiled_a_few_at_a_time(recommender, monkeypatch):
    monkeypatch.setattr(filters_module, "MAX_TOGETHER", 3)
    monkeypatch.setattr("tiger.recommender.answers.MAX_TOGETHER", 3)
    histories = [["i1"]] * 20
    given = [[f"i{2 + row % 7}", "i20"] for row in range(20)]
    found, _ = recommender.recommend(histories, k=5, filter=given)
    assert [sorted(answer) for answer in found] == [sorted(one) for one in given]


def test_what_does_not_fit_is_refused_in_one_line(recommender):
    recommender.add_filter("in stock", ["i1"])
    for wrong, message in (
        (pc.field("pric") < 2, "no column 'pric' .is 'price' meant"),
        ("pric < 2", "no column 'pric' .is 'price' meant.*Nor is a filter named 'pric < 2': there are 'in stock'"),
        (pc.field("price") < "x", "no kernel"),
        (pc.field("price") + 1, "no truth values"),
        ("in stok", "Nor is a filter named 'in stok': there are 'in stock'"),
        (5, "'5' is none. Give an expression"),
        ([1, 2], "2 filters for 5 histories"),
        ([1, 2, 3, 4, 5], "row 0: '1' is none. Give an expression"),
        (np.array([1, 2]), "'1' is no item id"),
        ([None], "1 filters for 5 histories"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            recommender.recommend(HISTORIES, filter=wrong)
        assert "\n" not in str(caught.value)
    for name in ("", " ", 5):
        with pytest.raises(DataError, match="a filter's name is a text"):
            recommender.add_filter(name, ["i1"])
    with pytest.raises(DataError, match="no filter is named 'x': there are 'in stock'"):
        recommender.remove_filter("x")
    recommender.remove_filter("in stock")
    assert dict(recommender.filters) == {}
    with pytest.raises(DataError, match="no column 'colour'"):
        recommender.add_filter("red", "colour = 'red'")
    assert dict(recommender.filters) == {}


def test_nothing_allowed_is_an_empty_answer_with_a_warning(recommender, ranked, two_stage):
    for tiger, history in ((recommender, "i1"), (ranked, "i1"), (two_stage, "item-1")):
        for none in ([], "item_id = 'nobody'"):
            with pytest.warns(UserWarning, match="allows no item of the catalog: the answers are empty") as caught:
                items, scores = tiger.recommend([[history], []], k=3, filter=none)
            assert items == [[], []] and np.isneginf(scores).all() and scores.shape == (2, 3)
            assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="filters of 2 of 3 histories, of row 1 for one, allow no item"):
        items, _ = recommender.recommend([["i1"]] * 3, k=3, filter=[None, [], "price < 0"])
    assert [len(answer) for answer in items] == [3, 0, 0]
    with pytest.warns(UserWarning, match="items of the filter that the catalog lacks: 'x', 'y'$"):
        items, _ = recommender.recommend([["i1"]], k=3, filter=["x", "i1", "i2", "y", "x"])
    assert items == [["i2"]]
    with warnings.catch_warnings():  # what is compiled was warned of
        warnings.simplefilter("error")
        assert recommender.recommend([["i1"]], k=3, filter=["i1"])[0] == [[]]


def test_unseen_items_and_their_quota(recommender):
    recommender.add_items(["n1", "n2", "n3"], table=[{"title": f"tent lamp new {n}", "price": 5.0} for n in range(3)])
    assert sorted(recommender.recommend([["i1"]], k=3, filter=["n1", "n2", "n3"])[0][0]) == ["n1", "n2", "n3"]
    for allowed, share, expected in (
        (["n1", "n2", "n3", "i2", "i3", "i4"], 0.5, 2),
        (["n1", "i2", "i3", "i4"], 0.5, 1),
        (["n1", "n2", "n3"], 0.0, 3),
        (["i2", "i3", "i4"], 1.0, 0),
    ):
        (answer,), _ = recommender.recommend([["i1"]], k=4, num_beams=4, filter=allowed, unseen_share=share)
        assert set(answer) <= set(allowed) and len(answer) == min(4, len(allowed))
        assert sum(item.startswith("n") for item in answer) == expected
    (first, second), _ = recommender.recommend(
        [["i1"]] * 2, k=4, num_beams=4, filter=[["n1", "i2", "i3"], None], unseen_share=0.25
    )
    assert sorted(first) == ["i2", "i3", "n1"] and len(second) == 4


def test_only_allowed_candidates_are_ranked(ranked):
    given = [["i3", "i4", "i7"], ["i8", "i2"]]
    items, scores = ranked.rank([["i1"], []], given, filter="brand = 'Acme'")
    assert items[0] == ["i4"] and sorted(items[1]) == ["i2", "i8"] and len(scores[0]) == 1
    everything, values = ranked.rank([["i1"], []], given)
    assert items[1] == everything[1] and np.allclose(scores[1], values[1])
    items, _ = ranked.rank([["i1"], []], given, filter=[["i7"], None])
    assert items[0] == ["i7"] and items[1] == everything[1]


def test_a_filter_is_compiled_once_for_a_catalog(recommender, monkeypatch):
    evaluated = []
    evaluate = filters_module.evaluate
    monkeypatch.setattr(
        filters_module, "evaluate", lambda table, one: evaluated.append(len(table)) or evaluate(table, one)
    )
    recommender.add_filter("cheap", "price < 20")
    assert evaluated == [40]
    expected, _ = recommender.recommend([["i1"]], k=5, filter="cheap")
    for _ in range(3):
        recommender.recommend([["i1"]], k=5, filter="cheap")
        recommender.recommend([["i1"]], k=5, filter=pc.field("price") < 20)
    assert evaluated == [40, 40]  # the name's, and the expression's
    compiled = recommender.compile_filter("cheap")
    recommender.max_history = 4  # the same catalog
    assert recommender.compile_filter("cheap") is compiled
    recommender.add_items(["new"], table=[{"title": "tent new", "price": 1.0}])
    assert "new" in recommender.recommend([["i1"]], k=21, num_beams=21, filter="cheap")[0][0] and evaluated[-1] == 41
    recommender.update_items(["i2"], table=[{"title": recommender.titles(["i2"])[0], "price": 99.0}])
    assert "i2" not in recommender.recommend([["i1"]], k=21, num_beams=21, filter="cheap")[0][0]
    recommender.remove_items(["i3"])
    assert recommender.compile_filter("cheap").count == 18 and len(evaluated) == 5
    with pytest.raises(DataError, match="compiled before the catalog changed"):
        recommender.recommend([["i1"]], filter=compiled)
    assert expected[0] and "new" not in expected[0]


def test_lists_of_ids_are_told_apart():
    lists = [(), ("",), ("a",), ("a", "b"), ("b", "a"), ("a\0", "b"), ("a", "\0b"), ("a\0b",), ('["a"]',), ("\ud800",)]
    assert len({filters_module._key(one) for one in lists}) == len(lists)
    assert filters_module._key(tuple(["a", "b"])) == filters_module._key(("a", "b"))


def test_names_last_as_long_as_the_recommender(recommender, tmp_path):
    recommender.add_filter("some", ["i1", "i2", "new"])
    assert recommender.filters["some"].source == ("i1", "i2", "new")
    recommender.add_items(["new"], texts=["tent"])
    assert recommender.compile_filter("some").count == 3  # ids may come later
    recommender.save_pretrained(tmp_path / "saved")
    assert not TigerRecommender.from_pretrained(tmp_path / "saved").filters
    recommender.add_filter("same", "some")
    recommender.add_filter("some", "price < 3")
    assert recommender.filters["same"].source == ("i1", "i2", "new") and recommender.compile_filter("some").count == 3
    with pytest.raises(TypeError):
        recommender.filters["x"] = None


def test_without_an_item_table_ids_are_the_only_column(recommender):
    recommender.items = None
    assert recommender.recommend([["i1"]], filter="item_id in ('i2', 'i3')")[0][0] in (["i2", "i3"], ["i3", "i2"])
    with pytest.raises(DataError, match="no column 'price'. There are item_id"):
        recommender.recommend([["i1"]], filter="price < 2")


def test_the_cache_is_bounded_and_keeps_what_was_used_last():
    cache, made = FilterCache(max_entries=3, max_bytes=100), []

    def get(key, size=10):
        return cache.get(key, lambda: (made.append(key) or key, size))

    assert [get(key) for key in "abcadab"] == list("abcadab") and made == list("abcdb")  # c and b gave way to d
    assert len(cache) == 3 and cache.nbytes == 30
    get("large", 95)
    assert len(cache) == 1 and cache.nbytes == 95
    get("larger", 500)  # the last one stays
    assert len(cache) == 1 and get("larger") == "larger" and made[-1] == "larger"
    threads = [threading.Thread(target=lambda: [get(key % 7) for key in range(300)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 3 and cache.nbytes == 30
