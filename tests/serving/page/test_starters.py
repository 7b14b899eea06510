import numpy as np
import pyarrow as pa

from tests.conftest import make_tokenizer
from tiger.semantic_ids.code_tree import CodeTree
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.serving.page.starters import LENGTH, starter_histories, starter_of, surprise


def tree():
    codes = np.array([[code, number] for code, count in enumerate((6, 5, 3, 1)) for number in range(count)])
    ids = [f"i{row}" for row in range(len(codes))]
    names = np.array(["Camp", "Kitchen", "Desk", "Garden"])[codes[:, 0]].tolist()
    return CodeTree(SemanticIdTokenizer(codes, ids, 8), pa.table({"item_id": ids, "categories": names}))


def test_examples_are_items_of_one_code_named_by_what_they_share():
    found = starter_histories(tree())
    assert [starter.name for starter in found] == ["Camp", "Kitchen", "Desk", "Camp, then Kitchen"]
    for code, starter in enumerate(found[:3]):
        assert set(tree().codes[list(starter.rows), 0]) == {code} and len(set(starter.rows)) == len(starter.rows)
    assert [len(starter.rows) for starter in found] == [LENGTH, LENGTH, 3, LENGTH]
    assert found[3].rows == found[0].rows[:2] + found[1].rows[:2]
    assert starter_histories(tree()) == found  # the same each time


def test_surprises():
    one = surprise(tree(), np.random.default_rng(5))
    assert one == surprise(tree(), np.random.default_rng(5)) and len(set(tree().codes[list(one.rows), 0])) == 1
    names = {surprise(tree(), random).name for random in [np.random.default_rng(0)] for _ in range(50)}
    assert {"Camp", "Kitchen", "Desk"} <= names
    assert starter_of(tree(), 3, np.random.default_rng(0)).rows == (14,)


def test_without_texts_examples_are_named_by_their_code():
    plain = CodeTree(make_tokenizer(30))
    code = plain.children([])[0][0]
    assert starter_histories(plain)[0].name == f"code {code}"
    single = CodeTree(SemanticIdTokenizer(np.array([[0, 0], [0, 1]]), ["a", "b"], 2))
    (only,) = starter_histories(single)
    assert sorted(only.rows) == [0, 1]
