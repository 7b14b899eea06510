"""A hundred thousand items: memory and the work that is done, neither of which may follow the size of the catalog."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import make_model
from tiger.data.cooccurrence import PairTable
from tiger.data.sequences import Sequences
from tiger.embeddings import item_vectors
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.evaluation.baselines import Content
from tiger.rankers.two_stage import candidates as candidates_module
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.features import DAYS, READ, RankingBatch
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever import initialization
from tiger.retriever.initialization import init_token_embeddings
from tiger.retriever.memory import AGES, ROUTES, ItemMemory, MemoryTables, MemoryWeights
from tiger.semantic_ids import fitting
from tiger.semantic_ids.fitting import Cooccurrence, fit_codes
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

SIZE = 100_000
MIB = 1 << 20


def peak_of(work: Callable[[], object]) -> float:
    """MiB of arrays and objects beyond what there was before."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MIB


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that an operation has made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        read = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in read:  # no view of what it read
            self.numbers = max(self.numbers, made.numel())
        return made


def tokenizer_of(tokens: str) -> SemanticIdTokenizer:
    codes = np.random.default_rng(0).integers(0, 256, (SIZE, 3))
    return SemanticIdTokenizer(codes, [f"item-{row}" for row in range(SIZE)], 256, tokens=tokens)


def memory_of_pairs() -> ItemMemory:
    """Of a catalog where each item follows the one before it, and is like the one after it."""
    pairs = sparse.eye(SIZE, k=1, dtype=np.float32, format="csr")
    tables = MemoryTables(pairs, pairs, pairs, np.full(SIZE, 5, dtype=np.float32))
    return ItemMemory(tables, MemoryWeights(np.full((len(ROUTES), AGES), 0.1, dtype=np.float32)))


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_one_item_comes_and_goes(tokens):
    tokenizer = tokenizer_of(tokens)
    items = pa.table({"item_id": tokenizer.item_ids.to_arrow(), "title": ["tent"] * SIZE})
    recommender = TigerRecommender(make_model(tokenizer), tokenizer, None, items, memory=memory_of_pairs())
    recommender.recommend([["item-1"]], k=5, num_beams=5)

    class Given:  # a quantizer that knows the codes
        input_dim, codebook_size = 1, 256

        def encode(self, embeddings):
            return np.tile([3, 1, 4], (len(embeddings), 1)) + embeddings[:, :1].astype(int)

    tokenizer.quantizer = Given()

    def add(number: int) -> None:
        row = {"title": "lamp"}
        recommender.add_items([f"new-{number}"], table=[row], embeddings=np.full((1, 1), number, dtype=np.float32))

    add(0)  # which makes room
    places = recommender.model.shared.weight.data_ptr(), recommender.tokenizer.token_table.ctypes.data
    before = recommender.model
    with Largest() as largest:
        assert peak_of(lambda: add(1)) < 20  # a copy of ids and their rows alone is 12
    assert (recommender.model.shared.weight.data_ptr(), recommender.tokenizer.token_table.ctypes.data) == places
    if tokens == "prefixes":
        assert recommender.model.config.vocab_size > before.config.vocab_size
        assert largest.numbers < SIZE * 8  # of embeddings there are two for each item, 16 wide
    assert recommender.items["title"][-1].as_py() == "lamp"
    assert peak_of(lambda: recommender.remove_items(["item-77"])) < 20
    assert len(recommender.tokenizer) == len(recommender.trie) == len(recommender.items) == SIZE + 1
    found, _ = recommender.recommend([["new-1", "item-3"]], k=5, num_beams=5)
    assert len(found[0]) == 5 and "item-77" not in recommender.tokenizer.item_ids


@pytest.fixture(scope="module")
def candidates():
    random = np.random.default_rng(1)
    rows = random.integers(0, SIZE, 10_000).astype(np.int32)
    train = Sequences(5 * np.arange(2001), rows, np.full(10_000, 86_400 * 30))
    words = [f"w{number}" for number in random.integers(0, 3000, SIZE)]
    items = pa.table({"item_id": [f"i{row}" for row in range(SIZE)], "title": [f"{word} shop" for word in words]})
    events = np.sort(rows.astype(np.int64) * DAYS + 30)
    vectors = random.standard_normal((SIZE, 64), dtype=np.float32)
    codes = random.integers(0, 256, (SIZE, 3)).astype(np.int32)
    return Candidates(items, PairTable.fit(train, SIZE, READ), events, vectors[:, :8], codes, vectors), train


def test_candidates_of_many_users(candidates, monkeypatch):
    proposing, train = candidates
    histories = train.select(np.arange(256))
    found = []
    # All scores of all users together would be 100 MiB, of which there are several.
    assert peak_of(lambda: found.append(proposing.propose(histories))) < 250
    alone = proposing.propose(histories.select(np.arange(40, 41)))
    np.testing.assert_array_equal(alone.rows[0], found[0].rows[40])
    np.testing.assert_allclose(alone.columns[0], found[0].columns[40], rtol=1e-4, atol=1e-5)
    batch = RankingBatch(histories, found[0].rows, SIZE, np.empty((256, 0)), np.empty((256, 0)))
    assert {profile.dtype for profile in batch.profiles.values()} == {np.dtype(np.float32)}
    # Given candidates cost the same in any catalog: no item but them is scored.
    monkeypatch.setattr(Content, "similarity", None)
    one = histories.select(np.arange(1))
    assert peak_of(lambda: proposing.describe(one, found[0].rows[:1])) < 4


def test_proposals_don_t_depend_on_how_many_users_are_scored_at_once(candidates, monkeypatch):
    proposing, train = candidates
    histories = train.select(np.arange(30))
    whole = proposing.propose(histories)
    monkeypatch.setattr(candidates_module, "_CHUNK_SCORES", 7 * SIZE)
    parts = proposing.propose(histories)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_array_equal(parts.columns, whole.columns)


def test_embeddings_are_initialized_a_few_columns_at_a_time(monkeypatch):
    tokenizer = tokenizer_of("codes")
    vectors = np.random.default_rng(2).standard_normal((SIZE, 64), dtype=np.float32)
    found = []
    for columns in (64, 8):
        monkeypatch.setattr(initialization, "_COLUMNS", columns)
        torch.manual_seed(0)
        model = make_model(tokenizer, d_model=64)
        with Largest() as largest:
            init_token_embeddings(model, tokenizer, vectors[:, :40], vectors[:, 40:])
        found.append(model.shared.weight.detach())
    assert torch.equal(*found)
    assert largest.numbers <= SIZE * 40  # centered once, kind by kind, for their deviation


def test_pairs_are_counted_in_parts(monkeypatch):
    random = np.random.default_rng(3)
    train = Sequences(
        8 * np.arange(501), random.integers(0, 90, 4000).astype(np.int32), random.integers(0, 9**6, 4000)
    )
    whole, groups = PairTable.fit(train, 90), random.integers(0, 7, 90)
    monkeypatch.setattr("tiger.data.cooccurrence._PAIRS_AT_ONCE", 500)
    parts = PairTable.fit(train, 90)
    for one, other in ((whole, parts), (whole.grouped(groups), parts.grouped(groups))):
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_array_equal(one.values, other.values)
    assert (whole.find(np.array([3]), np.array([90])) == len(whole.keys)).all()  # an item that came later
    assert whole.leaving(np.array([90])).tolist() == [5]


def test_vectors_of_a_large_log_are_those_of_a_small_one(monkeypatch):
    """Two ways to the same factors: the products of vectors agree, their signs need not."""
    random = np.random.default_rng(4)
    center = np.repeat(random.integers(0, 12, 800), 6)
    train = Sequences(
        6 * np.arange(801), (center * 25 + random.integers(0, 25, 4800)).astype(np.int32), np.zeros(4800)
    )
    small = cooccurrence_vectors(train, 300, 12)
    monkeypatch.setattr(item_vectors, "_LARGE", 0)
    monkeypatch.setattr(item_vectors, "_ROWS", 64)
    large = cooccurrence_vectors(train, 300, 12)
    np.testing.assert_allclose(large @ large.T, small @ small.T, atol=0.02)
    np.testing.assert_array_equal(large, cooccurrence_vectors(train, 300, 12))


def test_texts_beyond_a_number_are_a_sample_to_learn_from():
    texts = [f"soap number{row % 50} rose{row % 7}" for row in range(3000)]
    encoder = LSAEncoder.fit(texts, 8, max_texts=200)
    read = np.sort(np.random.default_rng(0).choice(3000, 200, replace=False))
    np.testing.assert_array_equal(encoder.components, LSAEncoder.fit([texts[row] for row in read], 8).components)
    np.testing.assert_array_equal(encoder.encode(texts), encoder.encode(text for text in texts))


def test_codes_of_text_and_log_are_made_in_parts(monkeypatch):
    random = np.random.default_rng(5)
    vectors, log = random.standard_normal((400, 24), dtype=np.float32), random.standard_normal((400, 40))
    given = Cooccurrence(log, {"shuffle_ties": None}), 2, 8
    whole, quantizer = fit_codes("residual-kmeans", vectors, *given, progress=False)
    np.testing.assert_array_equal(given[0].joined_to(vectors)[30:50], given[0].joiner(vectors)(slice(30, 50)))
    monkeypatch.setattr(fitting, "_ROWS", 30)
    np.testing.assert_array_equal(fit_codes("residual-kmeans", vectors, *given, progress=False)[0], whole)
    monkeypatch.setattr(fitting, "MAX_ROWS", 100)
    sampled, fewer = fit_codes("residual-kmeans", vectors, *given, progress=False)
    assert sampled.shape == (400, 2) and fewer.input_dim == quantizer.input_dim == 24
