import numpy as np
import pytest
import torch

from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tiger.data.sequences import pad_rows
from tiger.retriever import item_scores
from tiger.retriever.beam_search import beam_search
from tiger.retriever.item_scores import item_log_probs


def test_items_score_as_a_search_scores_them(recommender, monkeypatch):  # noqa: F811
    tokens = recommender.tokenizer.encode_history(pad_rows([np.array([1, 2, 3]), np.array([7]), np.array([], int)]))
    histories = torch.from_numpy(tokens)
    found = beam_search(recommender.model, recommender.trie, histories, num_beams=40)
    rows = torch.tensor([5, 0, 39])
    scores = item_log_probs(recommender.model, recommender.trie, histories, rows)
    for user in range(3):
        places = [found.rows[user].tolist().index(row) for row in rows.tolist()]
        torch.testing.assert_close(scores[user], found.scores[user, places])
    # A history at a time, as where the vocabulary is large.
    monkeypatch.setattr(item_scores, "_NUMBERS", 1)
    torch.testing.assert_close(item_log_probs(recommender.model, recommender.trie, histories, rows), scores)


def test_probabilities_among_children_sum_to_one(recommender):  # noqa: F811
    histories = torch.from_numpy(recommender.tokenizer.encode_history(np.array([[4, 9]])))
    total = item_log_probs(recommender.model, recommender.trie, histories, torch.arange(40)).exp().sum().item()
    if recommender.tokenizer.tokens == "prefixes":
        assert total == pytest.approx(1, abs=1e-5)
    else:  # over the whole vocabulary, where most codes make no item
        assert 0 < total < 1
