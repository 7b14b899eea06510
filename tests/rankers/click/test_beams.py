"""A click ranker over beams: the search's order at the start, what is read of a beam, and what training may see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from transformers import set_seed

from tests.conftest import make_model, make_tokenizer
from tiger.data.sequences import Sequences
from tiger.embeddings.item_neighbors import ItemTexts
from tiger.rankers.click.beam_inputs import beam_inputs, num_inputs
from tiger.rankers.click.beam_training import BeamLists, fit_beam_head, held_out
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.ranker import ClickRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.memory import AGES, ROUTES, ItemMemory, MemoryTables, MemoryWeights
from tiger.utils.errors import DataError

PARTS = len(ROUTES) + 2


@pytest.fixture
def tokenizer():
    return make_tokenizer(40)


def make_memory(count, seed=0):
    random = np.random.default_rng(seed)
    log = Sequences.from_rows([random.integers(0, count, random.integers(2, 8)) for _ in range(60)])
    texts = ItemTexts(None, random.normal(size=(count, 8)).astype(np.float32))
    kernels = random.uniform(0, 1, (len(ROUTES), AGES)).astype(np.float32)
    return ItemMemory(MemoryTables.fit(log, texts, width=None), MemoryWeights(kernels, floor=0.05, popularity=0.5))


def make_ranker(tokenizer, parts=PARTS, seed=0):
    set_seed(seed)
    features = ItemFeatures.fit("unigram", 64, tokenizer.codes, tokenizer.codebook_size)
    config = ranker_config(
        features,
        semantic_ids=tokenizer.fingerprint,
        d_model=8,
        beam_inputs=num_inputs(parts),
        beam_hidden=16,
        reads_memory=parts > 0,
    )
    totals = np.random.default_rng(seed).integers(0, 30, len(tokenizer))
    return ClickRanker(SemanticIdRanker(config), features, tokenizer, totals=totals)


def make_histories(count, users=12, seed=0):
    random = np.random.default_rng(seed)
    return Sequences.from_rows([random.integers(0, count, random.integers(0, 6)) for _ in range(users)])


def searched(tokenizer, ranker, memory=None):
    return TigerRecommender(make_model(tokenizer), tokenizer, max_history=5, ranker=ranker, memory=memory)


@pytest.mark.parametrize("with_memory", [False, True])
def test_before_training_the_order_is_the_searchs(tokenizer, with_memory):
    memory = make_memory(len(tokenizer)) if with_memory else None
    tiger = searched(tokenizer, make_ranker(tokenizer, PARTS if with_memory else 0), memory)
    histories = make_histories(len(tokenizer))
    plain, scores = tiger.recommend_rows(histories, k=8, num_beams=20, rank=False)
    ranked, values = tiger.recommend_rows(histories, k=8, num_beams=20)
    assert np.array_equal(plain, ranked) and (plain >= 0).any()
    np.testing.assert_array_equal(scores, values)


def test_parts_of_a_score_add_up(tokenizer):
    memory, histories = make_memory(len(tokenizer)), make_histories(len(tokenizer))
    tiger = searched(tokenizer, None, memory)
    rows, scores = tiger.recommend_rows(histories, k=10, num_beams=20)
    rows[0, 7:], scores[0, 7:] = -1, -np.inf
    *routes, prior, t5 = np.moveaxis(memory.parts(histories, rows, scores), -1, 0)
    there = rows >= 0
    np.testing.assert_allclose(
        (sum(routes) + prior)[there],
        np.take_along_axis(memory.mass(histories), np.maximum(rows, 0), 1)[there],
        rtol=1e-5,
    )
    mixed = np.log((sum(routes) + prior)[there]) + memory.weights.t5_weight * t5[there]
    np.testing.assert_allclose(mixed, scores[there], atol=1e-5)
    alone = tiger.recommend_rows(histories, k=len(tokenizer), num_beams=len(tokenizer), memory=False)
    for user in range(len(rows)):
        found = dict(zip(alone[0][user].tolist(), alone[1][user].tolist()))
        for row, value in zip(rows[user], t5[user]):
            if row >= 0:
                assert value == pytest.approx(np.log(np.exp(found[row]) + memory.t5_floors[row]), abs=1e-3)
    assert not memory.parts(histories, rows, scores)[~there].any()
    silent = replace(memory, weights=replace(memory.weights, t5_weight=0.0))
    assert not silent.parts(histories, rows, scores)[..., -1].any()


def test_parts_of_items_that_came_after_the_fit(tokenizer):
    memory, histories = make_memory(len(tokenizer)), make_histories(len(tokenizer))
    shares = np.zeros((1, len(memory)), dtype=np.float32)
    shares[0, :4] = 0.25
    grown = memory.extended(sparse.csr_matrix(shares))
    rows = np.tile([len(memory), 3, 0], (len(histories), 1))
    masses = grown.mass_of(histories, rows).sum(axis=-1) + grown.prior[rows]
    np.testing.assert_allclose(masses, grown.mass(histories)[:, [len(memory), 3, 0]], rtol=1e-5)


def test_inputs_know_neither_rows_nor_counts_below_five():
    random = np.random.default_rng(0)
    beams, totals = np.stack([random.permutation(30)[:10] for _ in range(6)]), random.integers(0, 20, 30)
    beams[2, 5:] = -1
    scores = np.where(beams < 0, -np.inf, -np.sort(random.random(beams.shape)))
    memory = random.random((*beams.shape, PARTS)).astype(np.float32)
    found = beam_inputs(beams, scores, totals, memory)
    assert found.shape == (6, 10, num_inputs(PARTS)) and np.isfinite(found).all() and not found[2, 5:].any()
    assert beam_inputs(beams, scores, totals).shape == (6, 10, num_inputs(0))
    moved = random.permutation(30)
    other = np.where(beams < 0, -1, moved[beams])
    elsewhere = np.empty_like(totals)
    elsewhere[moved] = totals
    np.testing.assert_array_equal(found, beam_inputs(other, scores, elsewhere, memory))
    np.testing.assert_array_equal(found, beam_inputs(beams, scores, np.maximum(totals, 5), memory))
    order = random.permutation(10)  # nor the order in which beams come, but for equal scores
    turned = beam_inputs(beams[:, order], scores[:, order], totals, memory[:, order])
    np.testing.assert_array_equal(found[:, order], turned)


def make_lists(tokenizer, ranker, users=400, seed=0):
    """Beams where the item that came is the one by the route that the search leaves out."""
    random = np.random.default_rng(seed)
    beams = np.stack([random.permutation(len(tokenizer))[:12] for _ in range(users)])
    scores = -np.sort(random.random(beams.shape)).astype(np.float32)
    memory = random.random((*beams.shape, PARTS)).astype(np.float32)
    targets = beams[np.arange(users), memory[..., 2].argmax(axis=1)]
    histories = make_histories(len(tokenizer), users)
    return BeamLists(beams, scores, ranker.inputs(histories, beams, scores, memory), targets)


def weights_of(ranker):
    return {name: value.clone() for name, value in ranker.ranker.state_dict().items()}


def test_training_finds_what_the_search_leaves_out(tokenizer):
    ranker = make_ranker(tokenizer)
    before, lists = weights_of(ranker), make_lists(tokenizer, ranker)
    assert ranker.learned_from == "train"
    record = fit_beam_head(ranker, lists, epochs=25, learning_rate=1e-2)
    assert ranker.learned_from == "valid" and record["lists"] == record["with the target"] == 400
    assert (
        record["epochs"] > 0
        and record["held out ndcg@10"][record["epochs"]] > 0.9 > 0.6 > record["held out ndcg@10"][0]
    )
    for name, value in ranker.ranker.state_dict().items():  # all but the head stays
        assert name.startswith("beam_head") or torch.equal(value, before[name]), name
    again = make_ranker(tokenizer)
    assert fit_beam_head(again, lists, epochs=25, learning_rate=1e-2) == record
    assert all(torch.equal(value, weights_of(ranker)[name]) for name, value in weights_of(again).items())


def test_training_leaves_the_callers_random_state(tokenizer):
    ranker = make_ranker(tokenizer)
    lists = make_lists(tokenizer, ranker, 100)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        again = make_ranker(tokenizer)
        torch.set_rng_state(state)
        record = fit_beam_head(again, lists, epochs=2)
        assert torch.equal(torch.get_rng_state(), state)
        found.append((record, weights_of(again)))
    assert found[0][0] == found[1][0]  # what it draws depends on its own seed alone
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_where_nothing_is_to_be_learned_the_searchs_order_stays(tokenizer):
    ranker = make_ranker(tokenizer)
    lists = make_lists(tokenizer, ranker)
    first = replace(lists, targets=lists.beams[:, 0])  # the search is right already
    before = weights_of(ranker)
    assert fit_beam_head(ranker, first, epochs=3, learning_rate=1e-3)["epochs"] == 0
    assert all(torch.equal(value, before[name]) for name, value in weights_of(ranker).items())
    missed = replace(lists, targets=np.full(len(lists), -5))
    with pytest.raises(DataError, match="no validation item is among its beams"):
        fit_beam_head(ranker, missed)


def test_lists_without_their_target_teach_nothing_but_count():
    kept, held = held_out(1000, 0)
    assert len(kept) + len(held) == 1000 and 150 < len(held) < 250 and not np.intersect1d(kept, held).size


def test_saved_and_read_again_it_scores_the_same(tokenizer, tmp_path):
    memory, ranker = make_memory(len(tokenizer)), make_ranker(tokenizer)
    fit_beam_head(ranker, make_lists(tokenizer, ranker), epochs=3, learning_rate=1e-2)
    tiger, histories = searched(tokenizer, ranker, memory), make_histories(len(tokenizer))
    tiger.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    for one, other in zip(*(some.recommend_rows(histories, k=10, num_beams=20) for some in (tiger, again))):
        np.testing.assert_array_equal(one, other)
    assert again.ranker.digest() == ranker.digest()
    plain = tiger.recommend_rows(histories, k=10, num_beams=20, rank=False)[0]
    assert not np.array_equal(plain, tiger.recommend_rows(histories, k=10, num_beams=20)[0])
    (tmp_path / "model" / "ranker" / "totals.safetensors").unlink()
    with pytest.raises(DataError):
        ClickRanker.from_pretrained(tmp_path / "model" / "ranker", tokenizer)


def test_items_come_and_go(tokenizer):
    ranker = make_ranker(tokenizer)
    kept = np.arange(0, len(tokenizer), 2)
    before = ranker._totals.copy()
    ranker.keep_items(kept)
    np.testing.assert_array_equal(ranker._totals, before[kept])


def test_a_search_of_another_kind_is_refused(tokenizer):
    memory, histories = make_memory(len(tokenizer)), make_histories(len(tokenizer))
    tiger = searched(tokenizer, make_ranker(tokenizer), memory)
    with pytest.raises(DataError, match="learned from searches with a memory"):
        tiger.recommend_rows(histories, k=5, num_beams=10, memory=False)
    assert (tiger.recommend_rows(histories, k=5, num_beams=10, memory=False, rank=False)[0] >= 0).any()
    tiger = searched(tokenizer, make_ranker(tokenizer, 0), memory)
    with pytest.raises(DataError, match="learned from searches without a memory"):
        tiger.recommend_rows(histories, k=5, num_beams=10)
    with pytest.raises(DataError, match="give totals"):
        ClickRanker(tiger.ranker.ranker, tiger.ranker.features, tokenizer)
