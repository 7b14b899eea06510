"""Features of a second stage that come from a memory: their values, and where they are asked for."""

import copy

import numpy as np
import pytest

from tests.conftest import make_model
from tests.rankers.two_stage.test_candidates import catalogue, codes, vectors
from tests.rankers.two_stage.test_ranker import SETTINGS_OF_TREES, SIZE, follow
from tests.retriever.test_memory import make_weights
from tiger.data.sequences import Sequences
from tiger.embeddings.item_neighbors import ItemTexts
from tiger.rankers.two_stage.candidates import Candidates, Proposals
from tiger.rankers.two_stage.memory_features import FEATURES, OWN, ROUTES, with_memory_features
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever import memory as retriever_memory
from tiger.retriever.memory import ItemMemory, MemoryTables
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError

K = 8


@pytest.fixture(scope="module")
def memory():
    train, _ = follow(0)
    return ItemMemory(MemoryTables.fit(train, ItemTexts(None, vectors()), width=None), make_weights())


@pytest.fixture(scope="module")
def tiger(memory):
    """A recommender whose trees have learned from searches with its memory."""
    tokenizer = SemanticIdTokenizer(codes(), [f"item-{row}" for row in range(SIZE)], 8)
    found = TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), max_history=8, memory=memory)
    train, _ = follow(0)
    candidates = Candidates.fit(train, catalogue(), codes=codes(), vectors=vectors(), num_proposed=20)
    histories, targets = follow(1)
    beams, scores = found.recommend_rows(histories, k=K, num_beams=K, rank=False)
    proposals = candidates.propose(histories, beams, scores)
    proposals = with_memory_features(proposals, candidates.names, histories, memory)
    options = SETTINGS_OF_TREES | {"without": ("log",)}
    found.ranker = TwoStageRanker.fit(candidates, proposals, targets, tokenizer.fingerprint, **options)
    return found


def test_the_routes_are_those_of_the_retriever():
    assert ROUTES == retriever_memory.ROUTES


def test_values_are_what_the_memory_says(tiger, memory):
    histories, _ = follow(2, 30)
    beams, scores = tiger.recommend_rows(histories, k=K, num_beams=K, rank=False)
    before = tiger.ranker.candidates.propose(histories, beams, scores)
    names = tiger.ranker.candidates.names
    found = with_memory_features(before, names, histories, memory)
    assert np.array_equal(found.columns[..., : len(names)], before.columns, equal_nan=True)
    values = dict(zip(FEATURES, np.moveaxis(found.columns[..., len(names) :], -1, 0)))
    users, places = np.nonzero(before.rows >= 0)
    mass = memory.mass(histories)[users, before.rows[users, places]]
    np.testing.assert_allclose(values["memory: all routes"][users, places], np.log(mass), rtol=1e-5)
    masses = memory.mass_of(histories, before.rows)[users, places]
    for number, route in enumerate(ROUTES):
        np.testing.assert_allclose(
            values[f"memory: {route}"][users, places], np.log(masses[:, number] + 0.01), rtol=1e-6
        )
    # What is left of a beam's score is the T5's part of it.
    parts = memory.parts(histories, beams, scores)[..., -1] * memory.weights.t5_weight
    same = before.rows[:, :, None] == beams[:, None, :]
    user, place, beam = np.nonzero(same & (beams >= 0)[:, None])
    np.testing.assert_allclose(values[OWN][user, place], parts[user, beam], atol=1e-5)
    assert np.isnan(values[OWN][~same.any(-1)]).all()
    assert np.isnan(found.columns[before.rows < 0][:, len(names) :]).all()


def test_no_memory_is_unknown():
    rows = np.array([[3, -1]])
    nothing = Proposals(rows, np.zeros((1, 2, 2), dtype=np.float32))
    columns = with_memory_features(nothing, ["a", "t5: log-probability"], follow(2, 1)[0], None).columns
    assert columns.shape == (1, 2, 2 + len(FEATURES)) and np.isnan(columns[..., 2:]).all()


def test_trees_read_the_memory_that_the_search_had(tiger, tmp_path):
    assert set(FEATURES) < set(tiger.ranker.columns) and tiger.ranker.reads_memory
    histories, _ = follow(3, 40)
    rows, scores = tiger.recommend_rows(histories, k=K, num_beams=K)
    ranker, beams = tiger.ranker, tiger.recommend_rows(histories, k=K, num_beams=K, rank=False)
    proposals = ranker.candidates.propose(ranker._dated(histories), *beams)
    full = with_memory_features(proposals, ranker.candidates.names, histories, tiger.memory)
    assert np.array_equal(rows, ranker.best(full, K)[0])
    unknown = with_memory_features(proposals, ranker.candidates.names, histories, None)
    assert not np.array_equal(rows, ranker.best(unknown, K)[0])

    tiger.save_pretrained(tmp_path)
    again = TigerRecommender.from_pretrained(tmp_path)
    assert all(map(np.array_equal, again.recommend_rows(histories, k=K, num_beams=K), (rows, scores)))
    with pytest.raises(DataError, match="learned from searches with a memory"):
        again.recommend_rows(histories, k=K, num_beams=K, memory=False)


def test_trees_without_its_features_need_no_memory(tiger):
    histories, targets = follow(1)
    candidates = tiger.ranker.candidates
    proposals = with_memory_features(candidates.propose(histories), candidates.names, histories, tiger.memory)
    options = SETTINGS_OF_TREES | {"without": ("t5", "memory")}
    ranker = TwoStageRanker.fit(candidates, proposals, targets, **options)
    assert not set(FEATURES) & set(ranker.columns) and ranker.reads_memory is None
    plain = TwoStageRanker.fit(candidates, candidates.propose(histories), targets, **options)
    assert np.array_equal(ranker.best(proposals, K)[0], plain.best(candidates.propose(histories), K)[0])


def test_trees_read_it_after_items_have_gone(tiger):
    histories, _ = follow(4, 10)
    kept = Sequences.from_rows([history[history > 0] - 1 for history in histories])  # rows of the smaller catalog
    known, memory = copy.copy(tiger.ranker), tiger.memory.keep(np.arange(1, SIZE))
    known.keep_items(np.arange(1, SIZE))
    masses = memory.mass_of(kept, np.tile(np.arange(SIZE - 1), (10, 1)))
    whole = tiger.memory.mass_of(Sequences.from_rows([row + 1 for row in kept]), np.tile(np.arange(1, SIZE), (10, 1)))
    assert np.array_equal(masses, whole) and masses.any()
    beams = np.tile(np.arange(SIZE - 1), (10, 1)), np.zeros((10, SIZE - 1), dtype=np.float32)
    rows, _, scores = known.order(kept, *beams, SIZE - 1, exclude_history=False, memory=memory)
    proposals = known.candidates.propose(known._dated(kept), *beams, False)
    full = with_memory_features(proposals, known.candidates.names, kept, memory)
    assert np.array_equal(rows, known.best(full, SIZE - 1)[0]) and (rows >= 0).all()
    with pytest.raises(AssertionError):
        unknown = with_memory_features(proposals, known.candidates.names, kept, None)
        np.testing.assert_allclose(scores, known.best(unknown, SIZE - 1)[2])
