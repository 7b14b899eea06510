import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import make_tokenizer
from tiger.semantic_ids.code_tree import CodeTree, categories_at, shared_prefixes
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer


@pytest.fixture
def tree():
    codes = np.array([[1, 2], [1, 2], [1, 3], [0, 3], [0, 1], [0, 1]])
    items = pa.table(
        {
            "item_id": list("abcdef"),
            "title": ["Red tent", "Blue tents", "Rope", None, "Tent lamp 2000", "Lamp"],
            "brand": ["Nor", "Nor", "Ola", None, "Ola", "Ola"],
            "categories": ["Out > Camp", "Out > Camp", "Out > Climb", "Out", "Out > Light", None],
        }
    )
    return CodeTree(SemanticIdTokenizer(codes, list("abcdef"), codebook_size=4), items)


def test_search(tree):
    assert tree.search("tent").tolist() == [0, 4, 1]  # as a word before as part of one, then the shorter title
    assert tree.search("TENT  lamp").tolist() == [4]
    assert tree.search("tent", limit=1).tolist() == [0]
    assert tree.search("d").tolist() == [3, 0]  # by its id, as it has no title; then within "red"
    assert tree.search(" ").tolist() == tree.search("nothing").tolist() == []


def test_branches(tree):
    assert tree.under([]).tolist() == [0, 1, 2, 3, 4, 5] and tree.under([1, 2]).tolist() == [0, 1]
    assert tree.children([]) == [(0, 3), (1, 3)] and tree.children([1]) == [(2, 2), (3, 1)]
    assert tree.children([1, 2]) == [] and tree.children([3]) == []


def test_what_a_branch_shares(tree):
    shared = tree.shared([1])
    # Two of three from Nor, where two of six are: twice as often. Everything is "Out", so that it tells nothing.
    assert [(one.value, one.count, one.lift) for one in shared["brand"]] == [("Nor", 2, 2.0)]
    assert [(one.value, one.count) for one in shared["categories"]] == [("Camp", 2), ("Out", 3)]
    assert shared["categories"][1].lift == pytest.approx(6 / 5)
    assert [one.value for one in tree.shared([0, 1])["title"]] == ["lamp"]
    assert [one.value for one in tree.shared([1, 3])["title"]] == ["rope"]  # one item alone
    assert tree.shared([]) == {"categories": [], "brand": [], "title": []}
    assert all(found == [] for found in tree.shared([3]).values())


def test_without_a_table():
    tree = CodeTree(make_tokenizer(20))
    assert tree.titles[3] == "item-3" and tree.search("item-3").tolist() == [3] and tree.categories == []


def test_shared_prefixes():
    ids = np.array([[1, 2, 0], [1, 3, 0], [4, 2, 0]])
    lengths, who = shared_prefixes(ids, np.array([[1, 5, 0], [1, 3, 1]]))
    assert lengths.tolist() == [1, 2, 0] and who.tolist() == [0, 1, -1]
    lengths, who = shared_prefixes(ids, np.zeros((0, 3), dtype=int))
    assert lengths.tolist() == [0, 0, 0] and who.tolist() == [-1, -1, -1]


def test_an_example_query_finds_items_and_is_of_a_title(tree):
    """Half of six titles are more than a tenth: all words are; of "Red tent" no other title has one."""
    assert tree.example_query() == "red tent" and tree.search("red tent").tolist() == [0]
    titles = [f"Nor {word} lamp {number}" for number, word in enumerate(["desk", "floor", "desk"] + ["wall"] * 37)]
    codes = np.stack([np.arange(40) % 8, np.arange(40) // 8], axis=1)
    items = pa.table({"item_id": [f"i{row}" for row in range(40)], "title": titles, "brand": ["Nor"] * 40})
    large = CodeTree(SemanticIdTokenizer(codes, items["item_id"].to_pylist(), 8), items)
    # "nor" is the brand, "lamp" is in every title.
    assert large.example_query() == "desk" and large.search("desk").tolist() == [0, 2]
    assert CodeTree(make_tokenizer(20)).example_query() == "item-0"


def test_categories_by_level():
    items = pa.table({"item_id": list("abc"), "categories": ["Out > Camp > Tents", "Out", None]})
    assert categories_at(items, 1).tolist() == ["Out", "Out", ""]
    assert categories_at(items, 2).tolist() == ["Camp", "", ""]
    assert categories_at(items.select(["item_id"]), 1).tolist() == ["", "", ""]
