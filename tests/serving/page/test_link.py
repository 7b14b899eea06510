from dataclasses import replace

import pytest

from tiger.serving.page.link import MAX_ID, MAX_ITEMS, PageState, clean_ids, read_link, write_link

STATE = PageState(["a b", "c,d", "é&item=x", "1"], 7, 20, 0.5, False, False, "map")


def test_a_link_opens_the_state_that_it_was_written_for():
    assert read_link(write_link(STATE)) == (STATE, [])
    assert write_link(PageState()) == "" and read_link("") == (PageState(), [])
    for name, value in {"k": 3, "num_beams": 9, "temperature": 0.1, "exclude_history": False, "view": "tree"}.items():
        state = replace(PageState(items=["x"]), **{name: value})
        assert read_link(write_link(state)) == (state, [])
    assert write_link(replace(PageState(), items=["x"], temperature=0.5)) == "?item=x&temperature=0.5"


@pytest.mark.parametrize(
    "part",
    ["k=0", "k=51", "k=-1", "k=1e1", "k=", "k=99999999999999999999", "beams=201", "temperature=nan", "temperature=4"]
    + ["temperature=x", "exclude=2", "rank=yes", "view=<script>"],
)
def test_what_a_link_gets_wrong_is_named_and_left_out(part):
    state, (problem,) = read_link(f"?item=a&{part}")
    assert state == PageState(items=["a"]) and problem.startswith(f"{part.split('=')[0]} in this link can't be ")


def test_limits_of_a_link():
    many = "&".join(f"item={number}" for number in range(MAX_ITEMS + 1))
    state, (problem,) = read_link(many)
    assert state.items == [str(number) for number in range(MAX_ITEMS)] and "more than 100 items" in problem
    state, (problem,) = read_link(f"?item=b&item={'x' * (MAX_ID + 1)}")
    assert state.items == ["b"] and "too long" in problem
    assert read_link("?item=a&item=a") == (PageState(items=["a"]), [])
    for query, why in (("?" + "item=a&" * 5000, "too long"), ("?" + "&".join(["k=1"] * 500), "too many parts")):
        state, (problem,) = read_link(query)
        assert state == PageState() and why in problem
    assert read_link(None)[1] and read_link(["k=1"])[1]
    assert read_link("?other=1&__theme=dark") == (PageState(), [])
    assert read_link("?item=%ff")[0].items == ["\ufffd"]


def test_ids_of_untrusted_events():
    assert clean_ids(["a", 1, None, "", ["b"], "a", "c", "x" * 257]) == ["a", "c"]
    assert clean_ids("abc") == clean_ids(None) == clean_ids({"a": 1}) == []
    assert len(clean_ids([str(number) for number in range(500)])) == MAX_ITEMS
