import numpy as np
import pytest
import torch

from tests.conftest import make_model, make_tokenizer
from tiger.embeddings.item_vectors import principal_axes
from tiger.retriever.beam_search import beam_search
from tiger.retriever.initialization import grow_vocabulary, init_nearest_neighbor, init_token_embeddings
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_tokens_of_similar_items_start_alike(tokens):
    random = np.random.default_rng(0)
    tokenizer = make_tokenizer(200, tokens=tokens)
    model = make_model(tokenizer, d_model=64)
    before = model.shared.weight.detach().clone()
    kinds = random.integers(0, 2, 200)
    vectors = random.standard_normal((200, 48)) * 0.3
    vectors[:, 0] += kinds * 5.0
    others = random.standard_normal((200, 16)) * 100  # no louder for being longer
    torch.manual_seed(1)
    init_token_embeddings(model, tokenizer, vectors, others, share=0.9)
    after = model.shared.weight.detach()
    assert torch.equal(after[0], before[0])
    if tokens == "prefixes":  # the last prefix of an item is the item's own
        leaves = after[torch.from_numpy(tokenizer.token_table[:, -1]).long()]
        alike = torch.nn.functional.cosine_similarity(leaves[:, None, :48], leaves[None, :, :48], dim=-1)
        same = torch.from_numpy(kinds[:, None] == kinds[None])
        assert alike[same].mean() > 0.4 > -0.4 > alike[~same].mean()
        assert abs(leaves.std() / before.std() - 1) < 0.1
        assert abs(leaves[:, :48].std() / leaves[:, 48:].std() - 1) < 0.1
    # A token is where its items are, whichever the kind.
    mean = vectors[tokenizer.codes[:, 0] == 3].mean(axis=0) - vectors.mean(axis=0)
    token = tokenizer.token_table[tokenizer.codes[:, 0] == 3][0, 0]
    start = after[int(token), :48]
    assert torch.nn.functional.cosine_similarity(start, torch.from_numpy(mean).float(), dim=0) > 0.5


def test_wrong_vectors_are_refused():
    tokenizer = make_tokenizer(20)
    model = make_model(tokenizer, d_model=16)
    for vectors, share, message in (
        (np.zeros((10, 16)), 0.9, "20 items"),
        (np.zeros((20, 15)), 0.9, "16 wide, the vectors are 15"),
        (np.zeros((20, 16)), 2, "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            init_token_embeddings(model, tokenizer, vectors, share=share)
    with pytest.raises(ValueError, match="the vectors are none"):
        init_token_embeddings(model, tokenizer)


def test_principal_axes():
    random = np.random.default_rng(0)
    vectors = random.standard_normal((500, 4)) * [0.1, 3, 1, 0.01] + 7
    reduced = principal_axes(vectors, 2)
    assert reduced.dtype == np.float32 and reduced.shape == (500, 2)
    assert abs(np.corrcoef(reduced[:, 0], vectors[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(reduced[:, 1], vectors[:, 2])[0, 1]) > 0.99
    np.testing.assert_allclose(reduced.std(axis=0), 1, atol=1e-2)
    vectors[:, 0] = vectors[:, 2] * 2  # one axis fewer
    wide = principal_axes(vectors, 6)
    assert not wide[:, 3:].any() and wide[:, :3].std(axis=0).min() > 0.9


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_a_model_starts_as_its_items_neighbours(tokens):
    """Items in tight groups: what is near the history is found before any training."""
    random = np.random.default_rng(0)
    groups = np.arange(60) % 6
    vectors = random.standard_normal((6, 32))[groups] + 0.1 * random.standard_normal((60, 32))
    codes = np.column_stack([groups, random.integers(0, 4, 60)])
    tokenizer = SemanticIdTokenizer(codes, [f"i{n}" for n in range(60)], codebook_size=8, tokens=tokens)
    model = make_model(tokenizer, d_model=32, num_heads=4, d_kv=16).eval()
    torch.manual_seed(0)
    init_token_embeddings(model, tokenizer, vectors, share=1.0)
    init_nearest_neighbor(model)
    histories = torch.from_numpy(tokenizer.encode_history(np.arange(60)[:, None]))
    trie = SemanticIdTrie.build(tokenizer.token_table)
    found = beam_search(model, trie, histories, num_beams=60, k=5).rows
    right = (groups[found.numpy()] == groups[:, None]).mean()
    assert right > (0.9 if tokens != "codes" else 0.5)  # by chance 1/6


def test_new_prefixes_start_where_their_codes_say():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]])
    tokenizer = SemanticIdTokenizer(codes, list("abcde"), codebook_size=4, tokens="prefixes")
    model = make_model(tokenizer)
    before = model.shared.weight.detach().clone()
    tokenizer.add_items(["f", "g", "h"], codes=np.array([[2, 1], [2, 1], [3, 1]]))
    grow_vocabulary(model, tokenizer)
    after = model.shared.weight.detach()
    assert torch.equal(after[: len(before)], before) and len(after) == tokenizer.vocab_size == len(before) + 6
    table = torch.from_numpy(tokenizer.token_table).long()
    steps = torch.stack([after[table[row, 1]] - after[table[row, 0]] for row in (1, 3)])  # code 1 elsewhere
    torch.testing.assert_close(after[table[5, 1]], after[table[4, 0]] + steps.mean(0))
    torch.testing.assert_close(after[table[5, 2]], after[table[5, 1]])  # collision tokens mean nothing
    torch.testing.assert_close(after[table[7, 0]], after[table[[0, 2, 4], 0]].mean(0))  # nobody else has code 3
    again = make_model(SemanticIdTokenizer(codes, list("abcde"), codebook_size=4, tokens="prefixes"))
    grow_vocabulary(again, tokenizer)
    assert torch.equal(again.shared.weight, model.shared.weight)


def test_a_first_code_after_all_others_have_gone_has_a_vector():
    """Where every item that is left moves to a new first code, no other one is left to take the mean of."""
    tokenizer = make_tokenizer(4, tokens="prefixes")
    model = make_model(tokenizer, d_model=16)
    codes = tokenizer.codes[[0]].copy()
    codes[0, 0] = next(code for code in range(tokenizer.codebook_size) if code not in tokenizer.codes[:, 0])
    tokenizer.remove_items(tokenizer.item_ids[1:])
    tokenizer.update_items(tokenizer.item_ids, codes=codes)
    grow_vocabulary(model, tokenizer)
    assert torch.isfinite(model.shared.weight).all()
