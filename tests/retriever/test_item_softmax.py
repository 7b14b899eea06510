"""``output_softmax: items``: the probability of a first token is the sum over the items that begin with it."""

import numpy as np
import pytest
import torch

from tests.conftest import make_histories, make_model, make_tokenizer
from tiger.data.sequences import Sequences
from tiger.retriever.beam_search import beam_search
from tiger.retriever.child_softmax import first_logits
from tiger.retriever.config import note_learned_tokens, retriever_config, t5_config
from tiger.retriever.data_collator import TrainingCollator, child_targets
from tiger.retriever.dataset import TrainingExamples
from tiger.retriever.inference_model import packed
from tiger.retriever.initialization import grow_vocabulary, with_new_tokens
from tiger.retriever.model import TigerT5, next_item_loss, target_states
from tiger.semantic_ids.static_trie import StaticTrie
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError

VISIBLE = torch.tensor([[3], [2]])


@pytest.fixture
def setup():
    tokenizer = make_tokenizer(60, tokens="prefixes")
    model = make_model(tokenizer, output_softmax="items")
    return tokenizer, model, SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [3, 2])


def loss_of(model, trie, tokenizer, histories, rows, softmax="items"):
    labels = torch.from_numpy(tokenizer.encode(rows.numpy())).view(2, 1, -1)
    return next_item_loss(model, histories, VISIBLE, labels, 1, child_targets(trie, rows, softmax == "items"))


def spelt_out(model, tokenizer, histories, rows):
    """The same loss, item by item."""
    table = torch.from_numpy(tokenizer.token_table).long()
    labels = torch.from_numpy(tokenizer.encode(rows.numpy())).view(2, 1, -1)
    states = target_states(model, histories, VISIBLE, labels)
    total = torch.zeros(())
    for user, row in enumerate(rows.tolist()):
        of_items = (model.shared(table[:, -1]) @ states[user, 0]).softmax(0)
        total = total - of_items[table[:, 0] == table[row, 0]].sum().log()
        for level in range(1, tokenizer.depth):
            tokens = table[(table[:, :level] == table[row, :level]).all(1), level].unique()
            logits = model.shared(tokens) @ states[user, level]
            total = total - logits.log_softmax(0)[tokens == table[row, level]].sum()
    return total


def test_loss_and_gradients_are_those_of_the_sum_spelt_out(setup):
    tokenizer, model, trie, histories = setup
    rows = torch.tensor([5, 41])
    found = []
    for loss in (loss_of(model, trie, tokenizer, histories, rows), spelt_out(model, tokenizer, histories, rows)):
        model.zero_grad()
        loss.backward()
        found.append([loss.detach()] + [weight.grad.clone() for weight in model.parameters()])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)
    children = make_model(tokenizer)
    children.load_state_dict(model.state_dict())
    with torch.no_grad():  # and not those of a softmax over children
        assert abs(loss_of(children, trie, tokenizer, histories, rows, "children") - found[0][0]) > 0.01
    for one, other in ((model, "children"), (children, "items")):
        with pytest.raises(ValueError, match="made for another output_softmax"):
            loss_of(one, trie, tokenizer, histories, rows, other)


def test_batches_hold_the_items_of_each_first_token(setup):
    tokenizer, _, trie, _ = setup
    sequences = Sequences.from_rows([np.array([1, 5, 9])])
    batch = TrainingCollator(tokenizer, trie, sums_items=True)([TrainingExamples(sequences)[0]])
    first, *later = batch["children"]
    table = tokenizer.token_table
    assert first.choices.tolist() == [table[trie.rows.numpy(), -1].tolist()]
    for answer, row in zip(first.answers.tolist(), (5, 9), strict=True):
        items = trie.rows[first.owners == answer].numpy()
        assert sorted(items) == np.flatnonzero(table[:, 0] == table[row, 0]).tolist()
    assert torch.equal(first.to(torch.int32).owners, first.owners.int())
    assert all(level.owners is None for level in later)


def test_probabilities_of_all_items_sum_to_one(setup):
    _, model, trie, histories = setup
    beams = beam_search(model, trie, histories, num_beams=60)
    torch.testing.assert_close(beams.scores.exp().sum(-1), torch.ones(2), atol=1e-5, rtol=0)


def test_an_item_that_its_first_token_would_hide_is_found(setup):
    tokenizer, model, trie, histories = setup
    children = make_model(tokenizer)
    children.load_state_dict(model.state_dict())
    row = int(np.bincount(tokenizer.token_table[:, 0])[tokenizer.token_table[:, 0]].argmax())
    labels = torch.from_numpy(tokenizer.encode(np.array([row]))).view(1, 1, -1)
    state = target_states(model, histories[:1], VISIBLE[:1], labels)[0, 0].detach()
    first, last = (int(tokenizer.token_table[row, level]) for level in (0, -1))
    ranks = []
    for one in (model, children):
        with torch.no_grad():
            one.shared.weight[last] = 20 * state / state.norm() ** 2
            one.shared.weight[first] = -20 * state / state.norm() ** 2
        rows = beam_search(one, trie, histories[:1], num_beams=60).rows[0]
        ranks.append(tokenizer.token_table[rows[:1].numpy(), 0] == first)
    assert ranks == [True, False]


def test_unlikely_first_tokens_stay_answers(setup):
    _, model, trie, histories = setup
    with torch.no_grad():
        model.shared.weight.mul_(100)  # probabilities below what float32 holds
    beams = beam_search(model, trie, histories, num_beams=60)
    assert sorted(beams.rows[0].tolist()) == list(range(60)) and beams.scores.isfinite().all()


def test_a_static_trie_gives_the_same_logits(setup):
    tokenizer, model, trie, _ = setup
    states = torch.randn(2, 1, 16)
    output = packed(model, torch.float32).output
    static = StaticTrie(trie)
    for one in (trie, SemanticIdTrie.build(tokenizer.token_table[:40])):
        assert static.overwrite(one)
        expected, found = (first_logits(states, output, each, 0) for each in (one, static))
        assert torch.equal(found[..., : expected.shape[-1]], expected)


def first_probabilities(tokenizer, model, static=False):
    """Of each first token, after one random state."""
    trie, found = SemanticIdTrie.build(tokenizer.token_table), packed(model, torch.float32)
    states = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    logits = first_logits(states, found.output, StaticTrie(trie) if static else trie, 0, found.learned_tokens)
    return dict(zip(trie.tokens[0].tolist(), logits[0, : trie.widths[0]].softmax(-1).tolist()))


@pytest.mark.parametrize("static", [False, True])
def test_many_new_items_leave_the_probabilities_of_the_others(setup, static):
    """New items of one code add nothing to its probability, where each would add as much as its parent has."""
    tokenizer, model, _, _ = setup
    before = first_probabilities(tokenizer, model, static)
    tokenizer.add_items([f"new{number}" for number in range(40)], codes=np.repeat(tokenizer.codes[3:4], 40, axis=0))
    grow_vocabulary(model, tokenizer)
    assert first_probabilities(tokenizer, model, static) == pytest.approx(before, abs=1e-6)


def test_new_items_of_a_new_code_count_as_one():
    tokenizer = make_tokenizer(20, 64, tokens="prefixes")
    model = make_model(tokenizer, output_softmax="items")
    known, found = set(first_probabilities(tokenizer, model)), []
    unused = np.setdiff1d(np.arange(64), tokenizer.codes[:, 0])[0]
    for number in range(2):
        codes = np.repeat([[unused, *tokenizer.codes[0, 1:]]], 5, axis=0)
        tokenizer.add_items([f"new{number}-{at}" for at in range(5)], codes=codes)
        grow_vocabulary(model, tokenizer)
        probabilities = first_probabilities(tokenizer, model)
        (new,) = set(probabilities) - known
        found.append(probabilities[new])
    assert 0 < found[1] < 1.5 * found[0]  # twice the items


def test_training_makes_new_items_known(setup):
    tokenizer, model, _, _ = setup
    known = retriever_config(model).learned_tokens
    assert known == tokenizer.vocab_size
    tokenizer.add_items(["new"], codes=tokenizer.codes[3:4])
    grow_vocabulary(model, tokenizer)
    assert retriever_config(model).learned_tokens == known < tokenizer.vocab_size
    note_learned_tokens(model)
    assert (
        retriever_config(model).learned_tokens == tokenizer.vocab_size == packed(model, torch.float32).learned_tokens
    )


def test_items_are_added_without_training(setup):
    tokenizer, model, trie, histories = setup
    before = beam_search(model, trie, histories, 60)
    tokenizer.add_items(["new"], codes=tokenizer.codes[3:4])
    after = beam_search(with_new_tokens(model, tokenizer), SemanticIdTrie.build(tokenizer.token_table), histories, 61)
    assert sorted(after.rows[0].tolist()) == list(range(61))
    torch.testing.assert_close(after.scores.exp().sum(-1), torch.ones(2), atol=1e-5, rtol=0)
    changed = {*np.flatnonzero(tokenizer.token_table[:, 0] == tokenizer.token_table[3, 0]).tolist(), 60}
    others = [[row for row in found.rows[0].tolist() if row not in changed] for found in (before, after)]
    assert others[0] == others[1]


def test_saved_and_opened_again(setup, tmp_path):
    _, model, trie, histories = setup
    model.save_pretrained(tmp_path)
    again = TigerT5.from_pretrained(tmp_path).eval()
    found, expected = (beam_search(one, trie, histories, 5) for one in (again, model))
    assert torch.equal(found.rows, expected.rows) and torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("tokens, softmax", [("codes", "items"), ("hashed_prefixes", "items"), ("codes", "children")])
def test_kinds_of_tokens_without_it(tokens, softmax):
    with pytest.raises(DataError, match=f"tokens: {tokens} must be"):
        t5_config(make_tokenizer(20, tokens=tokens), output_softmax=softmax)


def test_transformers_own_search_is_refused(setup):
    _, model, _, histories = setup
    with pytest.raises(DataError, match="output_softmax: items.*custom_generate"):
        model.generate(histories)
    with pytest.raises(DataError, match="output_softmax: items"):
        model(histories, labels=histories[:, :4])
