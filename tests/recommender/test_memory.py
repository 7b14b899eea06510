"""A recommender with a memory: answers, catalog updates, directories."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from tests.conftest import make_model, make_recommender
from tests.recommender.test_recommender import fitted  # noqa: F401
from tests.retriever.test_memory import make_log, make_memory, make_texts, make_weights, one_history
from tiger.rankers.base import Ranker, best_first
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.memory import ItemMemory, MemoryTables
from tiger.semantic_ids.neighbors import code_neighbors, items_around
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

ITEMS = 40
EVERY = {"k": ITEMS, "num_beams": ITEMS}


@pytest.fixture
def tiger():
    return make_recommender(ITEMS, memory=make_memory())


def expected_order(tiger, history):
    """Rows by their scores, best first, one by one."""
    ids = list(tiger.tokenizer.item_ids)
    items, log_probs = tiger.recommend([[ids[row] for row in history]], memory=False, **EVERY)
    known = np.zeros(len(ids))
    known[tiger.tokenizer.rows(items[0])] = np.exp(log_probs[0, : len(items[0])])
    memory = tiger.memory
    mass = memory.mass(one_history(*history))[0]
    scores = np.log(mass) + memory.weights.t5_weight * np.log(known + memory.t5_floors)
    order = np.argsort(-scores, kind="stable")
    return [ids[row] for row in order if row not in history], scores[[row for row in order if row not in history]]


def test_answers_are_ordered_by_both(tiger):
    for history in ([3, 5], [7], [1, 2, 3, 4, 5, 6, 7]):
        items, scores = tiger.recommend([[tiger.tokenizer.item_ids[row] for row in history]], **EVERY)
        expected, values = expected_order(tiger, history)
        assert items[0] == expected
        np.testing.assert_allclose(scores[0, : len(values)], values, atol=1e-4)
    plain = make_recommender(ITEMS)
    history = [[tiger.tokenizer.item_ids[3]]]
    assert tiger.recommend(history, memory=False, **EVERY)[0] == plain.recommend(history, **EVERY)[0]
    assert tiger.recommend(history, **EVERY)[0] != plain.recommend(history, **EVERY)[0]


def test_a_saved_recommender_has_its_memory(tiger, tmp_path):
    tiger.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    history = [[tiger.tokenizer.item_ids[3], tiger.tokenizer.item_ids[9]], []]
    for before, after in zip(tiger.recommend(history, k=10), again.recommend(history, k=10)):
        assert np.array_equal(before, after)
    assert "pairs" in repr(again)
    tiger.memory = None
    tiger.save_pretrained(tmp_path / "model")
    assert TigerRecommender.from_pretrained(tmp_path / "model").memory is None
    assert not (tmp_path / "model" / "memory.safetensors").exists()


def test_a_memory_of_other_items_is_refused(tiger):
    tables = MemoryTables.fit(make_log(), make_texts())
    with pytest.raises(ValueError, match="the memory is over 39 items, the tokenizer over 40"):
        tiger.memory = ItemMemory(tables, make_weights()).keep(np.arange(39))
    assert len(tiger.memory) == ITEMS


@pytest.fixture
def with_codebooks(fitted, tmp_path):  # noqa: F811
    fitted[0].save_pretrained(tmp_path / "tokenizer")
    tokenizer = SemanticIdTokenizer.from_pretrained(tmp_path / "tokenizer")
    return TigerRecommender(make_model(tokenizer), tokenizer, *fitted[1:], memory=make_memory())


def test_new_items_borrow_from_those_of_their_words(with_codebooks):
    tiger = with_codebooks
    tokenizer = tiger.tokenizer
    before = tiger.recommend([[tokenizer.item_ids[3]]], **EVERY)[0][0]
    titles = tiger.items["title"].to_pylist()
    near = tokenizer.quantizer.decode(tokenizer.codes[5:6])  # its codes are those of row 5, its words those of row 9
    tiger.add_items(["new"], table=[{"title": titles[9]}], embeddings=near)
    assert len(tiger.memory) == ITEMS + 1
    shares = tiger.memory.borrowed.toarray()[0]
    assert shares.sum() == pytest.approx(1) and titles[shares.argmax()] == titles[9]
    after = tiger.recommend([[tokenizer.item_ids[3]]], k=ITEMS + 1, num_beams=ITEMS + 1)[0][0]
    assert "new" in after and sorted(before) == sorted(item for item in after if item != "new")
    tiger.remove_items([tokenizer.item_ids[0], "new"])
    assert len(tiger.memory) == ITEMS - 1
    gone = tiger.recommend([[tokenizer.item_ids[3]]], k=5)[0][0]
    assert tokenizer.item_ids[0] not in gone and "new" not in gone


def test_an_item_that_came_and_went_leaves_nothing(with_codebooks, tmp_path):
    tiger = with_codebooks
    tokenizer, history = tiger.tokenizer, [[tiger.tokenizer.item_ids[3]]]
    before = tiger.recommend(history, **EVERY)
    tiger.add_items(["new"], table=[{"title": "Lantern"}], embeddings=tokenizer.quantizer.decode(tokenizer.codes[5:6]))
    tiger.remove_items(["new"])
    assert tiger.memory.borrowed.shape == (0, ITEMS)
    tiger.memory.recounted(make_log())  # as on the day it was fitted
    tiger.save_pretrained(tmp_path / "model")
    for there in (tiger, TigerRecommender.from_pretrained(tmp_path / "model")):
        items, scores = there.recommend(history, **EVERY)
        assert items == before[0]
        np.testing.assert_allclose(scores, before[1], atol=1e-5)


@pytest.mark.parametrize("table", [True, False])
def test_new_items_of_unknown_words_borrow_from_those_of_their_codes(with_codebooks, table):
    tiger = with_codebooks
    tokenizer = tiger.tokenizer
    if not table:
        tiger.items = None
    near = tokenizer.quantizer.decode(tokenizer.codes[5:6])
    tiger.add_items(["new"], table=[{"title": "unheardof"}] if table else None, embeddings=near)
    alike = (tokenizer.codes == tokenizer.codes[5]).all(axis=1)
    np.testing.assert_allclose(tiger.memory.borrowed.toarray()[0], alike / alike.sum(), atol=1e-6)


def test_borrowing_does_not_depend_on_the_rest_of_the_batch_or_the_order_of_rows(with_codebooks):
    tiger = with_codebooks
    titles, decode = tiger.items["title"].to_pylist(), tiger.tokenizer.quantizer.decode
    vectors = decode(tiger.tokenizer.codes[[5, 20]])
    rows = [{"title": titles[9]}, {"title": titles[30]}]
    other = copy.copy(tiger)
    tiger.add_items(["a", "b"], table=rows, embeddings=vectors)
    other.add_items(["b", "a"], table=rows[::-1], embeddings=vectors[::-1])
    np.testing.assert_allclose(tiger.memory.borrowed.toarray(), other.memory.borrowed.toarray()[::-1], atol=1e-6)


def test_items_around_are_of_the_nearest_codes(with_codebooks):
    tokenizer = with_codebooks.tokenizer
    code = int(tokenizer.codes[7, 0])
    own = np.flatnonzero(tokenizer.codes[:, 0] == code)
    np.testing.assert_array_equal(items_around(tokenizer, code, 1), own[:: len(own)])
    np.testing.assert_array_equal(items_around(tokenizer, code, len(own)), own)
    assert sorted(items_around(tokenizer, code, ITEMS)) == list(range(ITEMS))
    more = tokenizer.codes[items_around(tokenizer, code, len(own) + 1), 0]
    centers = tokenizer.quantizer.codebooks[0].detach().numpy()
    distance = np.square(centers - centers[code]).sum(axis=1)
    others = np.setdiff1d(tokenizer.codes[:, 0], more)
    assert not len(others) or distance[more].max() <= distance[others].min()


def test_neighbors_by_codes_share_the_longest_prefix(with_codebooks):
    tiger = with_codebooks
    before = tiger.tokenizer
    tiger.add_items(
        ["a", "b"], table=[{"title": "a"}, {"title": "b"}], embeddings=before.quantizer.decode(before.codes[[2, 30]])
    )
    found = code_neighbors(before, tiger.tokenizer).toarray()
    for new, row in zip(found, tiger.tokenizer.codes[-2:]):
        shared = (before.codes == row).cumprod(axis=1).sum(axis=1)
        assert new.sum() == pytest.approx(1) and (shared[new > 0] == shared.max()).all()


def test_filters_and_quotas_go_with_a_memory(tiger):
    ids = list(tiger.tokenizer.item_ids)
    found, _ = tiger.recommend([[ids[3]]], k=5, filter=ids[10:20], num_beams=ITEMS)
    expected, _ = expected_order(tiger, [3])
    assert found[0] == [item for item in expected if item in ids[10:20]][:5]
    state = tiger.state
    tiger.state = replace(state, unseen=np.arange(ITEMS) >= 30)
    shared, _ = tiger.recommend([[ids[3]]], k=10, unseen_share=0.3, num_beams=ITEMS)
    assert sum(ids.index(item) >= 30 for item in shared[0]) == 3


def test_a_damaged_memory_is_named(tiger, tmp_path):
    tiger.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "memory.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="memory.safetensors is not as saved"):
        TigerRecommender.from_pretrained(tmp_path / "model")


def test_an_empty_table_of_neighbors_is_a_memory_too():
    assert make_memory().extended(sparse.csr_matrix((1, ITEMS), dtype=np.float32)).borrowed.nnz == 0


class MassRanker(Ranker):
    """A third party's ranker: the mass by which a history reaches an item, and nothing else."""

    kind = "mass"
    reads_memory = True

    def __len__(self):
        return ITEMS

    def order(self, histories, beams, scores, k, exclude_history=True, allowed=None, memory=None):
        return best_first(memory.mass_of(histories, beams).sum(axis=-1), beams, scores, k)


def test_a_ranker_of_ones_own_is_given_the_memory(tiger):
    tiger.ranker = MassRanker()
    ids = tiger.tokenizer.item_ids
    items, scores = tiger.recommend([[ids[3], ids[9]]], **EVERY)
    mass = tiger.memory.mass(one_history(3, 9))[0] - tiger.memory.prior
    rows = tiger.tokenizer.rows(items[0])
    assert len(rows) == ITEMS - 2 and (np.diff(mass[rows]) <= 1e-6).all()
    np.testing.assert_allclose(scores[0, : len(rows)], mass[rows], atol=1e-5)
    with pytest.raises(DataError, match="learned from searches with a memory"):
        tiger.recommend([[ids[3]]], memory=False, **EVERY)
