"""``recent_items``: attention to the history knows how many items ago an item was."""

import numpy as np
import pytest
import torch

from tests.conftest import make_histories, make_model, make_tokenizer, target_logits
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import RetrieverConfig
from tiger.retriever.initialization import init_nearest_neighbor, init_token_embeddings
from tiger.retriever.model import TigerT5
from tiger.retriever.recency import STEP, cross_attention_bias
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError


def test_the_bias_counts_from_the_last_visible_item():
    table = torch.tensor([[0.0, 0.5], [-1.0, -1.5], [-2.0, -2.5]])
    found = cross_attention_bias(torch.tensor([[4, 1, 0]]), 8, 2, False, table)
    gone = float("-inf")
    assert found.shape == (1, 2, 3, 8)
    assert found[0, 0, 0].tolist() == [-2, -2, -2, -2, -1, -1, 0, 0]  # the oldest share the last row
    assert found[0, 1, 1].tolist() == [0.5, 0.5] + [gone] * 6
    assert found[0, 0, 2].tolist() == [0] + [gone] * 7  # no history: the first token


def test_a_user_token_is_no_item():
    table = torch.tensor([[1.0], [2.0]])
    found = cross_attention_bias(torch.tensor([[2]]), 4, 1, True, table)
    assert found[0, 0, 0].tolist() == [0, 2, 1, float("-inf")]


@pytest.mark.parametrize("tokens", ["codes", "prefixes"])
def test_shared_targets_equal_one_prefix_at_a_time(tokens):
    tokenizer = make_tokenizer(50, tokens=tokens)
    model = make_model(tokenizer, recent_items=3)
    with torch.no_grad():
        model.recency.weight.normal_()
    histories = make_histories(tokenizer, [6, 4])
    labels = torch.from_numpy(tokenizer.encode(np.arange(8).reshape(2, 4)))
    visible, wide = torch.tensor([[3, 4, 5, 6], [1, 2, 3, 4]]), tokenizer.history_depth
    together = target_logits(model, histories, visible, labels).view(2, 4, labels.shape[-1], -1)
    for row in range(2):
        for target in range(4):
            seen, part = visible[row, target], (slice(row, row + 1), slice(target, target + 1))
            alone = target_logits(model, histories[row : row + 1, : wide * seen], seen.view(1, 1), labels[part])
            torch.testing.assert_close(together[row, target], alone, atol=2e-5, rtol=1e-4)


def test_without_a_bias_nothing_changes_and_with_one_the_order_counts():
    tokenizer = make_tokenizer(50)
    plain, model = make_model(tokenizer), make_model(tokenizer, recent_items=5)
    model.load_state_dict(plain.state_dict(), strict=False)
    trie, histories = SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [4, 0, 2])
    assert model.recency.weight[:, 0].tolist() == pytest.approx([-STEP * place for place in range(5)])
    expected = beam_search(plain, trie, histories, 10)
    assert not torch.allclose(beam_search(model, trie, histories, 10).scores[0], expected.scores[0], atol=1e-4)
    with torch.no_grad():
        model.recency.weight.zero_()
    found = beam_search(model, trie, histories, 10)
    assert torch.equal(found.rows, expected.rows)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0)


def test_before_training_the_last_item_counts_most():
    tokenizer = make_tokenizer(40, tokens="prefixes")
    model = make_model(tokenizer, d_model=16, recent_items=8)
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 16)))[0].astype(np.float32)
    init_token_embeddings(model, tokenizer, vectors)
    init_nearest_neighbor(model)
    trie = SemanticIdTrie.build(tokenizer.token_table)
    rows = np.array([[5, 11, 17, 23]])
    for order in (rows, rows[:, ::-1]):
        found = beam_search(model, trie, torch.from_numpy(tokenizer.encode_history(order)), 40).rows[0].tolist()
        places = [found.index(row) for row in order[0].tolist()]
        assert places[-1] < places[0]


def test_saved_and_opened_again(tmp_path):
    tokenizer = make_tokenizer(30)
    model = make_model(tokenizer, recent_items=4)
    with torch.no_grad():
        model.recency.weight.normal_()
    model.save_pretrained(tmp_path)
    again = TigerT5.from_pretrained(tmp_path)
    assert torch.equal(again.recency.weight, model.recency.weight)
    with pytest.raises(DataError, match="recent_items"):
        model.export_t5(tmp_path / "plain")
    with pytest.raises(DataError, match="recent_items.*custom_generate"):
        model.generate(make_histories(tokenizer, [2]))


def test_its_range():
    with pytest.raises(DataError, match="recent_items must be from 0 to 4096, got -1"):
        RetrieverConfig(recent_items=-1)
