import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from tests.conftest import make_histories, make_model, make_tokenizer
from tiger.data.sequences import Sequences
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.beam_search import beam_search, trie_generate
from tiger.retriever.config import RetrieverConfig, check_pair, item_vocabulary, retriever_config, t5_config
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import TrainingExamples
from tiger.retriever.hashed_initialization import prefix_equations
from tiger.retriever.hashed_prefixes import HASHES, HashedPrefixes, row_sums
from tiger.retriever.initialization import grow_vocabulary, init_nearest_neighbor, init_token_embeddings
from tiger.retriever.item_scores import item_log_probs
from tiger.retriever.model import encode, next_item_loss
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.training.retriever_arguments import RetrieverArguments
from tiger.utils.errors import DataError

KIND = "hashed_prefixes"
HASHED = HashedPrefixes(first=100, count=50, unhashed_token=25, depth=4, has_user=False)
# Rows of the prefixes of [3, 12, 20, 26], found once: a saved model has learned these and no others.
ROWS = [[3, 0, 0], [12, 125, 101], [20, 101, 134], [26, 108, 137]]


def setup(num_items=40, **options):
    tokenizer = make_tokenizer(num_items, tokens=KIND)
    model = make_model(tokenizer, **options)
    return tokenizer, model, HashedPrefixes.of(model), SemanticIdTrie.build(tokenizer.token_table)


def test_rows_are_the_same_in_every_process():
    tokens = torch.tensor([3, 12, 20, 26])
    assert HASHED.rows(HASHED.parent_keys(tokens), tokens).tolist() == ROWS


def test_rows_follow_the_whole_prefix_and_are_spread_evenly():
    tokens = torch.cartesian_prod(torch.arange(1, 9), torch.arange(9, 17), torch.arange(17, 25), torch.arange(26, 30))
    rows = HASHED.rows(HASHED.parent_keys(tokens), tokens)
    assert torch.equal(rows[..., 0], tokens) and not rows[:, 0, 1:].any()  # one code: its own row is enough
    hashed = rows[:, 1:, 1:]
    assert hashed.min() == 100 and hashed.max() == 149
    for level in range(3):
        prefixes, places = np.unique(tokens[:, : level + 2], axis=0, return_index=True)
        # Equal where the prefix is, and a pair of rows for most of them.
        assert len(np.unique(torch.cat([tokens[:, : level + 2], hashed[:, level]], dim=1), axis=0)) == len(prefixes)
        counts = np.bincount(hashed[places, level].flatten() - 100, minlength=50)
        assert abs(counts.mean() - len(prefixes) * HASHES / 50) < 1e-9
        if level:
            assert counts.std() < 2 * counts.mean() ** 0.5  # as if drawn


def test_the_first_item_with_its_codes_adds_no_rows():
    tokens = torch.tensor([[3, 12, 20, 25], [3, 12, 20, 26]])
    rows = HASHED.rows(HASHED.parent_keys(tokens), tokens)
    assert rows[0, :3].tolist() == rows[1, :3].tolist() == ROWS[:3]
    assert rows[0, 3].tolist() == [25, 0, 0] and rows[1, 3].tolist() == ROWS[3]


@pytest.mark.parametrize("plain", [True, False])
def test_vectors_are_sums_of_rows(plain):
    tokenizer, model, hashed, _ = setup()
    table = model.shared.weight.detach()
    tokens = torch.from_numpy(tokenizer.encode(range(40)))
    rows = hashed.rows(hashed.parent_keys(tokens), tokens)
    expected = torch.zeros(40, 4, 16)
    for item in range(40):
        for level in range(4):
            for above in range(level + 1):
                for row in rows[item, above].tolist():
                    expected[item, level] += table[row] if row else 0
    layer = model.shared if plain else torch.nn.Sequential(model.shared)  # as an adapter wraps it
    with torch.no_grad():
        torch.testing.assert_close(hashed.path_vectors(layer, tokens), expected)
        torch.testing.assert_close(hashed.item_vectors(layer, tokens), expected[:, -1])
        assert not row_sums(layer, torch.zeros(2, 3, dtype=torch.int64)).any()  # padding


@pytest.mark.parametrize("users", [0, 3])
def test_histories_have_a_place_for_each_item(users):
    tokenizer, model, hashed, _ = setup(user_tokens=users)
    histories = make_histories(tokenizer, [3, 1])
    expected = histories.view(2, 3, 4)
    if users:
        who = torch.tensor([[tokenizer.vocab_size], [tokenizer.vocab_size + 2]])
        histories = torch.cat([who, histories], dim=1)
        expected = torch.cat([torch.nn.functional.pad(who, (0, 3)).unsqueeze(1), expected], dim=1)
    assert torch.equal(hashed.items(histories), expected)
    keys, values = encode(model, histories, 1)[0]
    assert keys.shape == values.shape == (2, 2, 3 + bool(users), 8)
    states = model.get_encoder()(input_ids=histories).last_hidden_state
    found = model.decoder.block[0].layer[1].EncDecAttention.k(states).unflatten(-1, (2, 8)).transpose(1, 2)
    torch.testing.assert_close(found[0], keys[0], atol=2e-5, rtol=1e-4)


def test_shared_histories_have_the_losses_of_single_ones():
    tokenizer, model, _, trie = setup()
    random = np.random.default_rng(0)
    lengths = [5, 3, 2, 7]
    items = random.integers(0, 40, sum(lengths)).astype(np.int32)
    sequences = Sequences(np.concatenate([[0], np.cumsum(lengths)]), items, np.arange(len(items)))
    collator, totals = TrainingCollator(tokenizer, trie), []
    for shared in (True, False):
        examples = TrainingExamples(sequences, 20, shared)
        batch = collator([examples[at] for at in range(len(examples))])
        totals.append(next_item_loss(model, **batch, num_items_in_batch=1))
    assert len(TrainingExamples(sequences, 20, False)) == sum(lengths) - 4
    torch.testing.assert_close(*totals, atol=1e-3, rtol=1e-5)
    totals[0].backward()
    learning = model.shared.weight.grad[-50:].abs().sum(dim=1).gt(0)
    assert learning.float().mean() > 0.5  # all but those that none of these prefixes has


def test_given_items_score_as_in_the_search():
    tokenizer, model, _, trie = setup()
    histories = make_histories(tokenizer, [3, 0, 5])
    beams = beam_search(model, trie, histories, num_beams=40)
    scores = item_log_probs(model, trie, histories, torch.arange(40))
    torch.testing.assert_close(scores.gather(1, beams.rows), beams.scores, atol=2e-5, rtol=0)


def test_the_table_has_one_size_for_every_catalog():
    sizes = set()
    for num_items in (10, 100, 3000):
        tokenizer = make_tokenizer(num_items, codebook_size=16, tokens=KIND)
        config = t5_config(tokenizer, hashed_rows=64)
        sizes.add(config.vocab_size)
        assert retriever_config(make_model(tokenizer)).hashed_rows == 50
    assert sizes == {1 + 4 * 16 + 64}
    assert t5_config(tokenizer).vocab_size == 1 + 4 * 16 + 20_000
    assert t5_config(tokenizer.with_tokens("codes"), hashed_rows=64).vocab_size == 1 + 4 * 16  # it has no such table


def test_a_new_item_is_recommended_without_new_rows(tmp_path):
    tokenizer, model, hashed, _ = setup()
    tiger = TigerRecommender(model, tokenizer)
    new = np.array([[1, 2, 3], [1, 2, 3]])
    assert not (tokenizer.codes == new[0]).all(axis=1).any()

    class Given:
        input_dim, codebook_size = 1, 8

        def encode(self, embeddings):
            return np.tile([1, 2, 3], (len(embeddings), 1))

    tokenizer.quantizer = Given()
    tiger.add_items(["new", "newer"], embeddings=np.zeros((2, 1), dtype=np.float32))
    assert tiger.model is model and len(model.shared.weight) == 33 + 50
    found, scores = tiger.recommend([["item-3"], ["new"]], k=42, num_beams=42, exclude_history=False)
    assert all(sorted(items) == sorted(tiger.tokenizer.item_ids) for items in found)
    tokens = torch.from_numpy(tiger.tokenizer.encode([40, 41]))
    vectors = hashed.item_vectors(model.shared, tokens)
    assert (vectors[0] - vectors[1]).abs().max() > 0.1  # though all their codes are the same
    tiger.tokenizer.quantizer = None
    tiger.save_pretrained(tmp_path)
    again = TigerRecommender.from_pretrained(tmp_path)
    assert again.tokenizer.tokens == KIND and retriever_config(again.model) == retriever_config(model)
    same, values = again.recommend([["item-3"], ["new"]], k=42, num_beams=42, exclude_history=False)
    assert same == found
    np.testing.assert_allclose(values, scores, atol=1e-6)


def test_hashed_rows_stay_the_last_when_more_items_share_their_codes_than_there_are_tokens():
    codes = np.tile([[1, 2]], (8, 1))
    tokenizer = SemanticIdTokenizer(codes, [f"i{n}" for n in range(8)], codebook_size=8, tokens=KIND)
    model = make_model(tokenizer, user_tokens=2)
    before, known = model.shared.weight.detach().clone(), item_vocabulary(model)
    vectors = HashedPrefixes.of(model).item_vectors(model.shared, torch.from_numpy(tokenizer.encode(range(8))))
    tokenizer.add_items(["i8"], codes=codes[:1])
    grow_vocabulary(model, tokenizer)
    assert item_vocabulary(model) == known + 1 == tokenizer.vocab_size
    assert torch.equal(model.shared.weight[known + 1 :], before[known:])  # those of users, then hashed ones
    grown = HashedPrefixes.of(model).item_vectors(model.shared, torch.from_numpy(tokenizer.encode(range(9))))
    torch.testing.assert_close(grown[:8], vectors)
    check_pair(model, tokenizer)


def structured(rows: int):
    """Items in groups, of which each has a first code of its own."""
    random = np.random.default_rng(0)
    groups = np.arange(120) % 6
    vectors = random.standard_normal((6, 32))[groups] + 0.3 * random.standard_normal((120, 32))
    codes = np.column_stack([groups, random.integers(0, 8, 120)])
    tokenizer = SemanticIdTokenizer(codes, [f"i{n}" for n in range(120)], codebook_size=8, tokens=KIND)
    return groups, vectors, tokenizer, make_model(tokenizer, d_model=32, num_heads=4, d_kv=16, hashed_rows=rows)


def test_with_many_rows_prefixes_begin_as_the_means_of_their_items():
    _, vectors, tokenizer, model = structured(2000)
    spread = float(model.shared.weight.detach().std())
    init_token_embeddings(model, tokenizer, vectors)
    centered = vectors - vectors.mean(axis=0)
    wanted = torch.from_numpy(centered / centered.std() * spread).float()
    hashed = HashedPrefixes.of(model)
    tokens = torch.from_numpy(tokenizer.encode(range(120)))
    found = hashed.path_vectors(model.shared, tokens).detach()
    table = torch.from_numpy(tokenizer.token_table)
    first = torch.stack([wanted[table[:, 0] == token].mean(dim=0) for token in table[:, 0]])
    assert (found[:, 0] - first).square().mean() < 0.01 * first.square().mean()
    assert (found[:, -1] - wanted).square().mean() < 0.05 * wanted.square().mean()
    sums, means, counts = prefix_equations(hashed, tokenizer, model.config.vocab_size)
    assert means.sum(axis=1) == pytest.approx(np.ones((len(counts), 1))) and counts.sum() == 3 * 120
    held = sums @ model.shared.weight.detach().numpy()
    torch.testing.assert_close(torch.from_numpy(held[-120:]).sort(0)[0], found[:, -1].sort(0)[0], atol=1e-4, rtol=0)


def test_an_initialized_model_finds_neighbors_before_any_training():
    """Rows for half of the prefixes: better than by chance, and than a random table."""
    groups, vectors, tokenizer, model = structured(60)
    histories = torch.from_numpy(tokenizer.encode_history(np.arange(120)[:, None]))
    trie = SemanticIdTrie.build(tokenizer.token_table)

    def right() -> float:
        found = beam_search(model, trie, histories, num_beams=60, k=5).rows
        return (groups[found.numpy()] == groups[:, None]).mean()

    by_chance = right()
    init_token_embeddings(model, tokenizer, vectors)
    init_nearest_neighbor(model)
    assert right() > 0.9 and by_chance < 0.4


def test_what_transformers_cannot_do_is_refused_by_name(tmp_path):
    tokenizer, model, _, trie = setup(history_attention="full")
    histories = make_histories(tokenizer, [3, 2])
    for refused in (
        lambda: model.generate(histories, num_beams=2, max_new_tokens=4),
        lambda: model(input_ids=histories, labels=torch.from_numpy(tokenizer.encode([1, 2]))),
        lambda: model.export_t5(tmp_path / "plain"),
    ):
        with pytest.raises(DataError, match="tokens: hashed_prefixes"):
            refused()
    model.save_pretrained(tmp_path / "model")
    reopened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    found = reopened.generate(histories, custom_generate=trie_generate, trie=trie, num_beams=9, max_new_tokens=4)
    best = beam_search(model, trie, histories, num_beams=9, k=1).rows
    assert tokenizer.decode(found[:, 1:].numpy()).tolist() == best[:, 0].tolist()
    # Its table is a plain T5's: one checkpoint, whoever opens it.
    assert T5ForConditionalGeneration.from_pretrained(tmp_path / "model").shared.weight.shape == (33 + 50, 16)


def test_settings_that_do_not_go_together_are_refused():
    tokenizer = make_tokenizer(10, tokens=KIND)
    with pytest.raises(DataError, match="hashed_rows must be at least 1"):
        t5_config(tokenizer, hashed_rows=0)
    with pytest.raises(DataError, match="output_softmax 'children'"):
        RetrieverConfig(hashed_rows=5)
    with pytest.raises(DataError, match="from 0 to"):
        RetrieverConfig(hashed_rows=-1)
    with pytest.raises(ValueError, match="tokens are hashed_prefixes, the tokenizer's are prefixes"):
        check_pair(make_model(tokenizer), tokenizer.with_tokens("prefixes"))
    with pytest.raises(DataError, match="codes, prefixes, hashed_prefixes, got 'hashed'"):
        tokenizer.with_tokens("hashed")
    settings = {"dataset": "d", "tokenizer": "t", "model_dir": "m"}
    with pytest.raises(DataError, match="hashed_rows goes with tokens: hashed_prefixes, not codes"):
        RetrieverArguments(**settings, hashed_rows=5)
    assert RetrieverArguments(**settings, hashed_rows=5, tokens=KIND).hashed_rows == 5
