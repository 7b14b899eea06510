"""Searches as CUDA graphs, with a stand-in that calls the search again on the buffers that a graph would read."""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch

from tests.conftest import make_histories, make_model, make_recommender, make_tokenizer
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever import search_graphs
from tiger.retriever.beam_search import beam_search
from tiger.retriever.search_graphs import (
    GraphShapes,
    SearchGraphs,
    bucket_sizes,
    cuda_recorder,
    graphs_of,
    repeating_recorder,
    use_graphs,
)
from tiger.semantic_ids.static_trie import StaticTrie
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils import devices

SHAPES = GraphShapes(users=(1, 4), items=(3, 6), num_beams=8, excluded=5)


@pytest.fixture(autouse=True)
def no_host(monkeypatch):
    """Take the path of an accelerator on the CPU."""
    monkeypatch.setattr(devices, "is_host", lambda device: False)


def make_graphs(model, trie, **options) -> SearchGraphs:
    graphs = SearchGraphs(model, trie, SHAPES, recorder=repeating_recorder(), **options)
    graphs.record_all()
    return graphs


def same(found, expected) -> None:
    assert found is not None
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.rows, expected.rows)


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_graphs_answer_as_the_search_does(tokens):
    tokenizer = make_tokenizer(60, tokens=tokens)
    model, trie = make_model(tokenizer), SemanticIdTrie.build(tokenizer.token_table)
    graphs = make_graphs(model, trie)
    assert len(graphs) == 4
    for lengths in ([2], [6], [1, 5, 0], [3, 3, 3, 3]):
        histories = make_histories(tokenizer, lengths, seed=len(lengths))
        excluded = torch.arange(len(lengths) * 3).view(-1, 3) % 60
        for out in (None, excluded, excluded[:, :1]):
            expected = beam_search(model, trie, histories, 8, k=6, excluded=out)
            same(graphs.search(trie, histories, 8, 6, out), expected)


def test_an_answer_outlives_the_next_one():
    tokenizer = make_tokenizer(60)
    model, trie = make_model(tokenizer), SemanticIdTrie.build(tokenizer.token_table)
    graphs = make_graphs(model, trie)
    first, second = make_histories(tokenizer, [3], seed=1), make_histories(tokenizer, [2], seed=2)
    found = graphs.search(trie, first, 8, 8, None)
    graphs.search(trie, second, 8, 8, None)
    same(found, beam_search(model, trie, first, 8))


def test_what_fits_into_no_bucket_is_left_to_the_search():
    tokenizer = make_tokenizer(60)
    model, trie = make_model(tokenizer), SemanticIdTrie.build(tokenizer.token_table)
    graphs = make_graphs(model, trie)
    one = make_histories(tokenizer, [3])
    assert graphs.search(trie, make_histories(tokenizer, [3] * 5), 8, 5, None) is None  # users
    assert graphs.search(trie, make_histories(tokenizer, [7]), 8, 5, None) is None  # items
    assert graphs.search(trie, one, 9, 5, None) is None  # beams
    assert graphs.search(trie, one, 8, 5, torch.zeros(1, 6, dtype=torch.long)) is None  # left out
    with torch.autocast("cpu", torch.bfloat16):
        assert graphs.search(trie, one, 8, 5, None) is None  # precision
    assert graphs.search(trie, one, 8, 5, None) is not None and len(graphs) == 4  # nothing was recorded since
    with torch.no_grad():
        model.shared.weight.mul_(1.01)
    assert graphs.search(trie, one, 8, 5, None) is None  # weights


def test_items_are_added_without_recording():
    table = make_tokenizer(60).token_table[:52]
    whole = SemanticIdTrie.build(table)
    tokenizer = make_tokenizer(60)
    model = make_model(tokenizer)
    few = SemanticIdTrie.build(table[:45])
    graphs = make_graphs(model, few)
    recorded = list(graphs._recorded.values())
    histories = make_histories(tokenizer, [3, 2])
    before = graphs.search(few, histories, 8, 8, None)
    same(before, beam_search(model, few, histories, 8))
    more = few.insert(table[45:])
    same(graphs.search(more, histories, 8, 8, None), beam_search(model, whole, histories, 8))
    assert [one is other for one, other in zip(recorded, graphs._recorded.values())] == [True] * 4
    # Batches of the catalog before, in between.
    same(graphs.search(few, histories, 8, 8, None), before)
    same(graphs.search(more, histories, 8, 8, None), beam_search(model, whole, histories, 8))


def test_a_catalog_that_outgrows_its_room_is_searched_without():
    tokenizer = make_tokenizer(200)
    model, table = make_model(tokenizer), tokenizer.token_table
    few = SemanticIdTrie.build(table[:40])
    graphs = make_graphs(model, few)
    histories = make_histories(tokenizer, [3])
    assert graphs.search(SemanticIdTrie.build(table), histories, 8, 8, None) is None
    same(graphs.search(few, histories, 8, 8, None), beam_search(model, few, histories, 8))


def test_a_static_trie_follows_as_its_original_does():
    table = make_tokenizer(50).token_table
    for count in (1, 7, 50):
        trie = SemanticIdTrie.build(table[:count])
        static = StaticTrie(trie)
        addresses = [array.data_ptr() for array in static._arrays()]
        rows = torch.arange(count)
        assert torch.equal(static.paths(rows), trie.paths(rows))
        for level in range(trie.depth):
            nodes = None if level == 0 else torch.arange(len(trie.tokens[level - 1]))
            children, tokens, allowed = static.follow(level, nodes)
            own = trie.follow(level, nodes)
            width = trie.widths[level]
            assert torch.equal(allowed[..., :width], own[2]) and not allowed[..., width:].any()
            assert torch.equal(children[allowed], own[0][own[2]]) and torch.equal(tokens[allowed], own[1][own[2]])
            every = torch.arange(len(trie.tokens[level]))
            assert torch.equal(static.leaf_counts(level, every), trie.leaf_counts(level, every))
        assert static.overwrite(trie.insert(table[count : count + 3])) and len(static) >= count + 3
        assert addresses == [array.data_ptr() for array in static._arrays()]
    assert not static.overwrite(SemanticIdTrie.build(make_tokenizer(50, num_codebooks=2).token_table))


def test_a_smaller_catalog_leaves_nothing_of_the_one_before():
    tokenizer = make_tokenizer(60)
    model, table = make_model(tokenizer), tokenizer.token_table
    whole, few = SemanticIdTrie.build(table), SemanticIdTrie.build(table[:20])
    graphs = make_graphs(model, whole)
    histories = make_histories(tokenizer, [3, 2])
    same(graphs.search(few, histories, 8, 8, None), beam_search(model, few, histories, 8))


def test_the_recommender_uses_them(monkeypatch):
    tiger = make_recommender(60)
    histories = [[f"item-{at}" for at in range(user + 1)] for user in range(4)]
    options = {"k": 5, "num_beams": 8, "batch_size": 4}
    expected = tiger.recommend(histories, **options)
    graphs = make_graphs(tiger.model, tiger.trie)
    use_graphs(tiger.model, graphs)
    answered = []
    right = SearchGraphs.search
    monkeypatch.setattr(SearchGraphs, "search", lambda *args: answered.append(right(*args)) or answered[-1])
    items, scores = tiger.recommend(histories, **options)
    assert items == expected[0] and len(answered) == 1 and answered[0] is not None
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4)
    tiger.recommend(histories, **options, temperature=1.0)
    assert len(answered) == 1  # sampling is not recorded
    use_graphs(tiger.model, None)
    tiger.recommend(histories, **options)
    assert len(answered) == 1


def test_graphs_do_not_keep_their_model():
    tokenizer = make_tokenizer(40)
    model, trie = make_model(tokenizer), SemanticIdTrie.build(tokenizer.token_table)
    use_graphs(model, make_graphs(model, trie))
    kept = weakref.ref(model)
    assert graphs_of(model) is not None
    del model
    gc.collect()
    assert kept() is None


def test_buckets_end_with_the_largest_batch():
    assert bucket_sizes(256) == (1, 4, 16, 64, 256)
    assert bucket_sizes(100) == (1, 4, 16, 64, 100) and bucket_sizes(1) == (1,)


class TestService:
    """Recording at the start of a service."""

    @pytest.fixture
    def graphs(self):
        pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")
        from tiger.serving import graphs

        return graphs

    def test_it_records_what_its_batches_need(self, graphs):
        tiger = make_recommender(60)
        recorded = graphs.record_graphs(tiger, 4, None, repeating_recorder())
        assert recorded is graphs_of(tiger.model) and len(recorded) == 2 * 3
        assert recorded.shapes.users == (1, 4) and recorded.shapes.items == (5, 10, 20)
        assert recorded.shapes.num_beams == 50

    def test_added_items_are_recommended_by_the_same_graphs(self, graphs):
        vectors = np.random.default_rng(0).standard_normal((48, 6)).astype(np.float32)
        ids = [f"item-{row}" for row in range(45)]
        tokenizer = SemanticIdTokenizer.fit(
            vectors[:45], ids, quantizer="residual-kmeans", codebook_size=8, progress=False
        )
        tiger = TigerRecommender(make_model(tokenizer), tokenizer)
        recorded = graphs.record_graphs(tiger, 4, None, repeating_recorder())
        model = tiger.model
        tiger.add_items(["new-1", "new-2", "new-3"], embeddings=vectors[45:])
        assert tiger.model is model and recorded is graphs_of(model)
        (with_graphs,), _ = tiger.recommend([["item-3"]], k=48, num_beams=50, exclude_history=False)
        assert recorded._loaded is tiger.trie and {"new-1", "new-2", "new-3"} <= set(with_graphs)
        use_graphs(model, None)
        assert tiger.recommend([["item-3"]], k=48, num_beams=50, exclude_history=False)[0] == [with_graphs]

    def test_it_goes_on_without_where_the_device_refuses(self, graphs, caplog):
        def refuses(run):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        tiger = make_recommender(60)
        with caplog.at_level(logging.WARNING, logger="tiger.serving"):
            assert graphs.record_graphs(tiger, 4, None, refuses) is None
        assert "searches run without: operation not permitted when stream is capturing" in caplog.text
        assert graphs_of(tiger.model) is None and tiger.recommend([["item-1"]], k=3)[0]

    def test_its_batches_and_precision_are_those_of_its_device(self, graphs, monkeypatch):
        from tiger.serving.routes import recommend_call
        from tiger.serving.schemas import RecommendRequest
        from tiger.serving.service import _batch_on
        from tiger.serving.settings import ServiceSettings

        tiger = make_recommender(40)
        assert _batch_on(tiger, ServiceSettings()) == 256  # as on a GPU
        monkeypatch.setattr(devices, "is_host", lambda device: True)
        assert _batch_on(tiger, ServiceSettings()) == 16 and _batch_on(tiger, ServiceSettings(max_batch=3)) == 3
        for bf16 in (None, True, False):
            assert recommend_call(RecommendRequest(histories=[["item-1"]]), 16, bf16).search.bf16 is bf16

    def test_a_reload_records_anew(self, graphs, tmp_path):
        from tiger.serving.live import LiveRecommender
        from tiger.serving.model_source import ModelSource

        make_recommender(40).save_pretrained(tmp_path / "model")
        source = ModelSource(str(tmp_path / "model"), None, TigerRecommender.from_pretrained)
        loaded = source.load()
        live = LiveRecommender(
            loaded.recommender,
            source=source,
            manifest=loaded.manifest,
            prepare=lambda tiger: graphs.record_graphs(tiger, 1, None, repeating_recorder()),
        )
        first = graphs_of(live.now.recommender.model)
        live.reload()
        second = graphs_of(live.now.recommender.model)
        assert first is not None and second is not None and first is not second

    def test_other_devices_refuse_the_option(self, graphs):
        cpu = torch.device("cpu")
        assert graphs.graph_settings(cpu, None, 16, None) is None
        assert graphs.graph_settings(cpu, False, 16, None) is None
        with pytest.raises(graphs.DataError, match="cuda_graphs needs an NVIDIA GPU"):
            graphs.graph_settings(cpu, True, 16, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_answer_as_the_eager_search():
    tokenizer = make_tokenizer(60)
    model, trie = make_model(tokenizer).cuda(), SemanticIdTrie.build(tokenizer.token_table).to("cuda")
    graphs = search_graphs.SearchGraphs(model, trie, SHAPES, bf16=False, recorder=cuda_recorder(model.device))
    graphs.record_all()
    for lengths in ([2], [1, 5, 0]):
        histories = make_histories(tokenizer, lengths).cuda()
        expected = beam_search(model, trie, histories, 8, k=6)
        found = graphs.search(trie, histories, 8, 6, None)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-3)
