import pytest

pytest.importorskip("gradio", reason="needs the extra: pip install 'tiger-recommender[app]'")

import gradio as gr  # noqa: E402

from tests.rankers.click.test_ranker import make_ranker  # noqa: E402
from tests.recommender.test_recommender import fitted, recommender  # noqa: E402, F401
from tiger.serving.page.handlers import PageHandlers, split_ids  # noqa: E402
from tiger.serving.page.link import MAX_ITEMS, PageState, read_link  # noqa: E402

SETTINGS = (5, 40, 0, True, True, "")


@pytest.fixture
def handlers(recommender):  # noqa: F811
    return PageHandlers(recommender, seed=0)


def skipped(update) -> bool:
    return isinstance(update, dict) and set(update) == {"__type__"}


def click(handlers, chosen, **data):
    return handlers.act(chosen, gr.EventData(None, data))


def test_pasted_ids_are_split():
    assert (
        split_ids(" i1, i2;i3\n'i4'\t\"i5\" ,, [i6]") == ["i1", "i2", "i3", "i4", "i5", "i6"] and split_ids("") == []
    )


@pytest.mark.parametrize("text", ["i1 i2 i3", "i1,i2,i3", "i1\ni2\r\ni3", " i1; i2 ;i3 "])
def test_several_pasted_ids_are_all_added(handlers, text):
    found, chosen, query, status = handlers.find(text, ["i9"])
    assert chosen == ["i9", "i1", "i2", "i3"] and found == query == "" and "Added 3 items." in status


def test_unknown_ids_are_named(handlers):
    _, chosen, query, status = handlers.enter("i1, nobody, <b>", ["i1"])
    assert (
        chosen == ["i1"] and query == "" and "Not in the catalog: &#x27;nobody&#x27;, &#x27;&lt;b&gt;&#x27;." in status
    )
    _, chosen, _, status = handlers.enter("x1,x2,x3,x4,x5,x6,x7", [])
    assert chosen == [] and "x5" in status and "x6" not in status and "and 2 more" in status
    _, chosen, _, status = handlers.enter("i7", [])  # one alone, by Enter
    assert chosen == ["i7"] and f"Added: {handlers.catalog.titles[7]}." in status


def test_words_are_searched_and_not_taken_for_ids(handlers):
    found, chosen, query, status = handlers.find("lamp number 1", ["i1"])
    assert found.count("<button") == 7 and skipped(chosen) and skipped(query) and skipped(status)
    assert handlers.enter("lamp number 1", [])[0] == found
    assert handlers.find("i1", [])[0].count("<button") >= 1  # as one types, one id is a search
    assert "No title" in handlers.find("zebra", [])[0] and handlers.find(None, None)[0] == ""
    query = handlers.catalog.example_query()
    assert len(handlers.catalog.search(query)) >= 1 and query.split()[0] in " ".join(handlers.catalog.titles)


def test_buttons(handlers):
    chosen, status = click(handlers, ["i1"], act="add", item="i2")
    assert chosen == ["i1", "i2"] and handlers.catalog.titles[2] in status
    assert click(handlers, ["i1", "i2"], act="add", item="i2")[0] == ["i1", "i2"]
    assert click(handlers, ["i1", "i2"], act="remove", item="i1")[0] == ["i2"]
    assert click(handlers, ["i1", "i2"], act="clear", item="")[0] == []
    first = handlers.starters[0]
    chosen, status = click(handlers, ["i1"], act="starter", item="0")
    assert chosen == [f"i{row}" for row in first.rows] and f"An example history: {first.name}." in status
    again = PageHandlers(handlers.recommender, seed=0)
    surprise = click(handlers, [], act="surprise", item="")
    assert surprise == click(again, [], act="surprise", item="") and 1 <= len(surprise[0]) <= 4


@pytest.mark.parametrize(
    "data",
    [{}, {"act": "starter", "item": "99"}, {"act": "starter", "item": "-1"}, {"act": "eval", "item": "1"}]
    + [{"act": "starter", "item": "²"}, {"act": ["add"], "item": {"a": 1}}],
)
def test_events_of_others_change_nothing(handlers, data):
    assert click(handlers, ["i1", 3, "nobody"], **data) == (["i1"], "")
    assert handlers.act(["i1"], gr.EventData(None, "text")) == (["i1"], "")
    assert click(handlers, {"a": 1}, act="add", item="nobody")[0] == []


def test_a_history_is_limited(handlers, monkeypatch):
    monkeypatch.setattr("tiger.serving.page.handlers.MAX_ITEMS", 3)
    chosen, message = handlers.add(["i4", "i5"], ["i1", "i2"])
    assert chosen == ["i1", "i2", "i4"] and "at most 3 items" in message and MAX_ITEMS == 100


def test_answers_and_what_is_said_of_them(handlers):
    html, shown, status = handlers.recommend(["i1", "i2"], *SETTINGS)
    items, _ = handlers.recommender.recommend([["i1", "i2"]], k=5, num_beams=40)
    assert shown == items[0] and html.count("<li>") == 5 and 'data-act="add"' in html
    assert "5 recommendations after a history of 2 items." in status
    html, shown, status = handlers.recommend(["i1", "nobody"], *SETTINGS)
    assert "a history of 1 item." in status and "nobody" in status
    # Numbers beyond the sliders, which only programs send.
    assert len(handlers.recommend([], 10**9, -5, 99, None, None)[1]) == 40


def test_the_address_holds_the_page(handlers, recommender):  # noqa: F811
    query = handlers.link(["i1", "nobody", "i2"], 5, 40, 0.5, False, False, "", "map")
    assert query == "?item=i1&item=i2&k=5&beams=40&temperature=0.5&exclude=0&view=map"  # no ranker, no switch
    chosen, *settings, tabs, status = handlers.open_link(query)
    assert (chosen, settings, status) == (["i1", "i2"], [5, 40, 0.5, False, False, ""], "") and tabs.selected == "map"
    assert handlers.reopen(chosen, *SETTINGS)[1] == handlers.recommend(chosen, *SETTINGS)[1]
    assert all(map(skipped, handlers.open_link(""))) and all(map(skipped, handlers.reopen([], *SETTINGS)))
    opened = handlers.open_link("?k=4")
    assert skipped(opened[0]) and opened[1] == 4  # a history chosen meanwhile stays
    *_, status = handlers.open_link("?item=i1&item=<b>&k=0")
    assert "Not in the catalog: &#x27;&lt;b&gt;&#x27;." in status and "k in this link can" in status
    dense = recommender.encoder.encode(recommender.items["title"].to_pylist())
    recommender.ranker = make_ranker(recommender.tokenizer, dense, "unigram+dense")
    ranked = PageHandlers(recommender)
    query = ranked.link(["i1"], 10, 50, 0, True, False, "", "recommend")
    assert query == "?item=i1&rank=0" and read_link(query)[0] == PageState(items=["i1"], rank=False)
    assert ranked.open_link(query)[5] is False and ranked.open_link("?item=i1")[5] is True


def test_tabs_are_computed_when_they_are_opened(handlers):
    def opened(place):
        event = gr.SelectData(None, {"index": place, "value": ""})
        return handlers.open_view(["i1"], ["i4"], *SETTINGS, event)

    view, comparison, drawn = opened(1)
    assert view == "compare" and comparison.count("<li>") == 5 and skipped(drawn)
    view, comparison, drawn = opened(2)
    assert view == "map" and skipped(comparison) and "history 1: " in drawn and "answer 1: " in drawn
    for place, name in ((3, "tree"), (0, "recommend"), (99, "recommend"), ("1", "recommend")):
        view, comparison, drawn = opened(place)
        assert view == name and skipped(comparison) and skipped(drawn)


def test_only_items_where_the_filter_is_true(handlers):
    title = handlers.recommender.titles(["i5"])[0]
    text = f"item_id in ('i2', 'i3') or title = '{title}'"
    html, shown, status = handlers.recommend(["i1"], *SETTINGS[:-1], f" {text} ")
    assert sorted(shown) == ["i2", "i3", "i5"] and "The filter allows 3 of 40 items." in status
    assert sum(name in handlers.compare(["i1"], *SETTINGS[:-1], text) for name in (title, "number 39")) == 1
    for wrong, why in (("titel = 'x'", "is &#x27;title&#x27; meant?"), ("(" * 3000, "at most 2,000")):
        html, shown, status = handlers.recommend(["i1"], *SETTINGS[:-1], wrong)
        assert html == "" and shown == [] and why in status
        assert why in handlers.compare(["i1"], *SETTINGS[:-1], wrong)
    _, shown, status = handlers.recommend(["i1"], *SETTINGS[:-1], "item_id = 'nobody'")
    assert shown == [] and "allows 0 of 40" in status
    query = handlers.link(["i1"], *SETTINGS[:-1], text, "recommend")
    assert read_link(query)[0].filter == text
    chosen, *settings, _, _ = handlers.open_link(query)
    assert settings[-1] == text and sorted(handlers.reopen(chosen, *settings)[1]) == ["i2", "i3", "i5"]
    assert "filter in this link" in read_link("?filter=" + "a" * 2001)[1][0]


def test_without_columns_there_is_no_filter(handlers):
    handlers.recommender.items = None
    bare = PageHandlers(handlers.recommender)
    assert bare.columns == [] and len(bare.recommend(["i1"], *SETTINGS[:-1], "x = 1")[1]) == 5
    *_, settings, _, status = bare.open_link("?item=i1&filter=price<5")
    assert settings == "" and "no columns to filter by" in status


def test_the_page_is_of_one_moment(recommender):  # noqa: F811
    handlers = PageHandlers(recommender, seed=0)
    expected = handlers.recommend(["i5", "i9"], *SETTINGS), handlers.compare(["i5", "i9"], *SETTINGS)
    recommender.remove_items(["i0", "i1"])  # another thread: rows mean other items from now on
    assert (handlers.recommend(["i5", "i9"], *SETTINGS), handlers.compare(["i5", "i9"], *SETTINGS)) == expected
