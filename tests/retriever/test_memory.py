"""Memory: its masses by brute force, counts freed of a target, and its prior in beam search."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy import sparse

from tests.conftest import make_histories, make_model, make_tokenizer
from tiger.data.sequences import Sequences
from tiger.embeddings.item_neighbors import ItemTexts, nearest_items, truncated
from tiger.retriever.beam_search import beam_search
from tiger.retriever.memory import AGAIN, AGES, ROUTES, ItemMemory, MemoryTables, MemoryWeights
from tiger.retriever.memory_file import read_memory, write_memory
from tiger.retriever.memory_fitting import fit_weights, leave_last_out
from tiger.retriever.prior import MemoryPrior
from tiger.retriever.search import beams_of_users
from tiger.retriever.search_options import SearchOptions
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError

ITEMS = 40


def make_texts(count=ITEMS, seed=0):
    random = np.random.default_rng(seed)
    words = sparse.random(count, 30, 0.2, "csr", dtype=np.float32, random_state=seed)
    lengths = np.maximum(np.sqrt(words.multiply(words).sum(axis=1)), 1e-9)
    return ItemTexts(sparse.csr_matrix(words / lengths), random.normal(size=(count, 8)).astype(np.float32))


def make_log(users=30, seed=0, longest=8):
    random = np.random.default_rng(seed)
    return Sequences.from_rows([random.integers(0, ITEMS, random.integers(2, longest)) for _ in range(users)])


def make_weights(seed=0):
    kernels = np.random.default_rng(seed).uniform(0, 1, (len(ROUTES), AGES)).astype(np.float32)
    return MemoryWeights(kernels, floor=0.05, popularity=0.5)


def make_memory(seed=0):
    return ItemMemory(MemoryTables.fit(make_log(), make_texts(), width=None), make_weights(seed))


def without_repeats(memory):
    kernels = memory.weights.kernels.copy()
    kernels[AGAIN] = 0
    return replace(memory, weights=replace(memory.weights, kernels=kernels))


def one_history(*rows):
    return Sequences.from_rows([np.array(rows, dtype=np.int64)])


def dense_mass(memory, history):
    """The masses after one history, route by route."""
    tables, kernels = memory.tables, memory.weights.kernels
    near, followers = tables.near.toarray(), tables.followers.toarray()
    routes = [followers, tables.shared.toarray(), tables.neighbors.toarray(), near @ followers, followers @ near.T]
    total = memory.prior.astype(np.float64).copy()
    for age, item in enumerate(reversed(history[-AGES:])):
        for kernel, route in zip(kernels, routes):
            total += kernel[age] * route[item]
        total[item] += kernels[AGAIN][age]
    return total


def test_masses_are_those_of_their_formula():
    memory = make_memory()
    histories = [[], [3], [5, 1, 5, 30], list(range(AGES + 5))]
    sequences = Sequences.from_rows([np.array(one, dtype=np.int64) for one in histories])
    found = memory.mass(sequences)
    for mass, history in zip(found, histories):
        np.testing.assert_allclose(mass, dense_mass(memory, history), rtol=2e-5)
    assert memory.prior.min() > 0


def test_leaving_an_event_out_is_counting_without_it():
    # Items 0 to 5 are in many histories, so that totals over 5 change too; some targets are in the history already.
    random = np.random.default_rng(1)
    rows = [random.choice(12, random.integers(2, 7)) for _ in range(40)] + [np.array([3, 4, 3, 4])]
    log, texts = Sequences.from_rows(rows), make_texts(12)
    tables = MemoryTables.fit(log, texts, width=None)
    users = np.array([0, 3, 17, 40])
    batch = leave_last_out(tables, log.select(users))
    for place, user in enumerate(users):
        without = Sequences.from_rows([row[:-1] if number == user else row for number, row in enumerate(rows)])
        counted = MemoryTables.fit(without, texts, width=None)
        near = counted.near.toarray()
        followers = counted.followers.toarray()
        routes = [
            followers,
            counted.shared.toarray(),
            counted.neighbors.toarray(),
            near @ followers,
            followers @ near.T,
        ]
        target = rows[user][-1]
        assert batch.targets[place] == target and batch.totals[place] == counted.totals[target]
        for route, expected in enumerate(routes):
            for age, item in enumerate(reversed(rows[user][:-1])):
                if item == target:  # its own row has other totals then; it is no answer where histories are left out
                    continue
                own = (batch.users == place) & (batch.reads == route * AGES + age)
                found = np.bincount(batch.items[own], batch.values[own], 12)
                if target in rows[user][:-1]:  # likewise in the columns of the others
                    found, expected_row = np.delete(found, rows[user]), np.delete(expected[item], rows[user])
                    np.testing.assert_allclose(found, expected_row, atol=2e-5, err_msg=ROUTES[route])
                else:
                    np.testing.assert_allclose(found, expected[item], atol=2e-5, err_msg=ROUTES[route])


def test_weights_are_not_those_of_copying():
    # Every user has a pair of items that no one else has: counts say all of the last event, and nothing of the next.
    rows = [np.array([2 * user, 2 * user + 1]) for user in range(ITEMS // 2)]
    log = Sequences.from_rows(rows)
    tables = MemoryTables.fit(log, ItemTexts(vectors=np.eye(ITEMS, dtype=np.float32)), width=None)
    batch = leave_last_out(tables, log)
    assert not batch.values[batch.items == batch.targets[batch.users]].any()
    start = fit_weights(tables, log, steps=0).kernels[0, 0]
    assert fit_weights(tables, log, steps=40).kernels[0, 0] == start  # nothing speaks for it
    twice = Sequences.from_rows(rows + rows)  # now another user has the pair
    tables = MemoryTables.fit(twice, ItemTexts(vectors=np.eye(ITEMS, dtype=np.float32)), width=None)
    assert fit_weights(tables, twice, steps=40).kernels[0, 0] > 2 * start


def test_weights_find_the_route_that_a_log_follows():
    # Items come in a fixed cycle: what followed says it all.
    random = np.random.default_rng(0)
    rows = [(start + np.arange(5)) % ITEMS for start in random.integers(0, ITEMS, 300)]
    log = Sequences.from_rows(rows)
    tables = MemoryTables.fit(log, make_texts())
    weights = fit_weights(tables, log, steps=60)
    follows, _, similar, *_ = weights.kernels[:, 0]
    assert follows > 5 * similar
    memory = ItemMemory(tables, weights)
    mass = memory.mass(one_history(7, 8, 9))
    assert mass[0].argmax() == 10
    assert fit_weights(tables, log, steps=5).kernels.tolist() == fit_weights(tables, log, steps=5).kernels.tolist()


def test_a_log_that_repeats_is_known_by_the_histories_themselves():
    # Each user goes around three items of its own: what others did says nothing.
    random = np.random.default_rng(0)
    rows = [np.tile(random.choice(ITEMS, 3, replace=False), 3) for _ in range(200)]
    log = Sequences.from_rows(rows)
    tables = MemoryTables.fit(log, make_texts())
    memory = ItemMemory(tables, fit_weights(tables, log, exclude_history=False))
    best = np.argsort(-memory.mass(one_history(7, 21, 33, 7, 21)), axis=1)[0, :3]
    assert set(best.tolist()) == {7, 21, 33}
    # Where answers hold no item of the history, nothing is learned of it, nor said.
    assert not fit_weights(tables, log, exclude_history=True, steps=5).kernels[AGAIN].any()


def test_a_memory_of_before_repeats_is_read(tmp_path):
    memory = without_repeats(make_memory())
    file = tmp_path / "memory.safetensors"
    write_memory(memory, file)
    arrays = load_file(file)
    save_file(arrays | {"kernels": arrays["kernels"][:AGAIN].copy()}, file)
    history = one_history(3, 5, 3)
    assert read_memory(file, ITEMS).mass(history).tolist() == memory.mass(history).tolist()
    save_file(arrays | {"kernels": arrays["kernels"][:2].copy()}, file)
    with pytest.raises(DataError, match="weights of 2 routes"):
        read_memory(file, ITEMS)


def setup(tokens="codes"):
    tokenizer = make_tokenizer(ITEMS, tokens=tokens)
    model = make_model(tokenizer)
    trie, histories = SemanticIdTrie.build(tokenizer.token_table), make_histories(tokenizer, [3, 0, 5, 1])
    random = np.random.default_rng(2)
    mass = torch.from_numpy(random.uniform(1e-3, 1, (4, ITEMS)).astype(np.float32))
    floors = torch.from_numpy(random.uniform(1e-4, 1e-2, ITEMS).astype(np.float32))
    return model, trie, histories, mass, floors


@pytest.mark.parametrize("tokens", ["codes", "prefixes", "hashed_prefixes"])
def test_search_with_every_beam_is_exact(tokens):
    model, trie, histories, mass, floors = setup(tokens)
    plain = beam_search(model, trie, histories, num_beams=ITEMS)
    log_probs = torch.empty(4, ITEMS).scatter_(1, plain.rows, plain.scores)
    expected = mass.log() + 0.3 * (log_probs.exp() + floors).log()
    prior = MemoryPrior(trie, mass, floors, 0.3)
    beams = beam_search(model, trie, histories, num_beams=ITEMS, prior=prior)
    torch.testing.assert_close(beams.scores, expected.sort(descending=True).values, atol=2e-5, rtol=0)
    torch.testing.assert_close(beams.scores, expected.gather(1, beams.rows), atol=2e-5, rtol=0)


def test_search_with_a_prior_leaves_out_and_allows():
    model, trie, histories, mass, floors = setup()
    prior = MemoryPrior(trie, mass, floors, 0.3)
    full = beam_search(model, trie, histories, num_beams=ITEMS, prior=prior)
    excluded = full.rows[:, [0, 2]]
    allowed = torch.arange(ITEMS) % 2 == 0
    found = beam_search(model, trie, histories, ITEMS, k=10, excluded=excluded, allowed_items=allowed, prior=prior)
    for row, best in enumerate(full.rows.tolist()):
        expected = [item for item in best if item % 2 == 0 and item not in excluded[row].tolist()][:10]
        assert found.rows[row].tolist() == expected


def test_many_users_get_the_priors_of_their_own():
    model, trie, histories, mass, floors = setup()
    many, masses = histories.repeat(10, 1), mass.repeat(10, 1)  # more than are decoded together
    found = beam_search(model, trie, many, ITEMS, prior=MemoryPrior(trie, masses, floors, 0.3))
    one = beam_search(model, trie, histories, ITEMS, prior=MemoryPrior(trie, mass, floors, 0.3))
    assert found.rows.tolist() == one.rows.tolist() * 10


def test_a_large_catalog_is_decoded_for_a_few_users_at_a_time(monkeypatch):
    tokenizer = make_tokenizer(ITEMS)
    model, trie = make_model(tokenizer).eval(), SemanticIdTrie.build(tokenizer.token_table)
    memory, histories, most = make_memory(), make_log(users=7), []
    of_users = ItemMemory.mass

    def counted(self, histories):
        most.append(len(histories))
        return of_users(self, histories)

    monkeypatch.setattr(ItemMemory, "mass", counted)
    options = SearchOptions(num_beams=ITEMS)
    whole = beams_of_users(model, tokenizer, trie, histories, 5, options, 20, memory=memory)
    monkeypatch.setattr("tiger.retriever.search._MASSES_AT_ONCE", 3 * ITEMS * torch.get_num_threads())
    parts = beams_of_users(model, tokenizer, trie, histories, 5, options, 20, memory=memory)
    assert sorted(most) == [1, 3, 3, 7]
    assert np.array_equal(whole[0], parts[0]) and np.allclose(whole[1], parts[1], atol=1e-5)


def test_sampling_with_a_prior_draws_by_what_tokens_add():
    model, trie, histories, mass, floors = setup()
    one, count = histories[:1], 4000
    # Of two items alone: the first token decides, if they differ there.
    rows = trie.rows[[0, -1]].long()
    allowed = torch.zeros(ITEMS, dtype=torch.bool)
    allowed[rows] = True
    prior = MemoryPrior(trie, mass[:1].expand(count, -1), floors, 0.3)
    options = {"num_beams": 1, "allowed_items": allowed, "temperature": 1.0}
    drawn = beam_search(
        model, trie, one.expand(count, -1), prior=prior, generator=torch.Generator().manual_seed(0), **options
    )
    first = prior.select(slice(0, 1)).mixed(
        0, trie.paths(rows)[:, 0].view(1, 1, 2), first_log_probs(model, trie, one, trie.paths(rows)[:, 0])
    )
    expected = first.flatten().softmax(0)[0].item()
    assert (
        abs((drawn.rows == rows[0]).float().mean().item() - expected) < 4 * (expected * (1 - expected) / count) ** 0.5
    )


def first_log_probs(model, trie, history, nodes):
    found = beam_search(model, trie, history, num_beams=ITEMS)
    paths = trie.paths(found.rows[0])[:, 0]
    return torch.stack([found.scores[0][paths == node].logsumexp(0) for node in nodes]).view(1, 1, -1)


def test_new_items_borrow_from_their_nearest():
    memory = without_repeats(make_memory())
    shares = sparse.csr_matrix(([0.5, 0.5, 1.0], ([0, 0, 1], [3, 8, 4])), shape=(3, ITEMS), dtype=np.float32)
    grown = memory.extended(shares)
    assert len(grown) == ITEMS + 3 and len(memory) == ITEMS
    history = one_history(7, 4)
    before, after = memory.mass(history)[0] - memory.prior, grown.mass(history)[0] - grown.prior
    np.testing.assert_allclose(after[:ITEMS], before, rtol=1e-5)
    np.testing.assert_allclose(after[ITEMS:], [(before[3] + before[8]) / 2, before[4], 0], rtol=1e-4, atol=1e-7)
    # In a history, a new item counts as those that it borrows from.
    mixed = grown.mass(one_history(7, ITEMS + 1))
    np.testing.assert_allclose(mixed, grown.mass(history), rtol=1e-5)
    # Rows that go leave the others' masses as they are; new items of new items borrow from known ones alone.
    kept = grown.keep(np.array([8, ITEMS, 3]))
    np.testing.assert_allclose(kept.mass(one_history(2)), grown.mass(one_history(3))[:, [8, ITEMS, 3]])
    # What a history repeats is the new item itself.
    repeats = replace(grown, weights=make_weights())
    gain = (repeats.mass(one_history(7, ITEMS + 1)) - mixed)[0]
    np.testing.assert_allclose(gain[[ITEMS + 1, 7]], make_weights().kernels[AGAIN, :2], rtol=1e-4)
    assert np.count_nonzero(gain > 1e-4) == 2
    again = grown.extended(sparse.csr_matrix(([1.0], ([0], [ITEMS])), shape=(1, ITEMS + 3), dtype=np.float32))
    assert again.borrowed[3].nnz == 0


def test_a_memory_comes_back_from_its_file(tmp_path):
    memory = make_memory().extended(sparse.csr_matrix(([1.0], ([0], [3])), shape=(1, ITEMS), dtype=np.float32))
    memory = memory.keep(np.arange(2, ITEMS + 1))
    file = tmp_path / "memory.safetensors"
    write_memory(memory, file)
    again = read_memory(file, ITEMS - 1)
    history = Sequences.from_rows([np.array([1]), np.array([2, ITEMS - 2])])
    assert again.mass(history).tolist() == memory.mass(history).tolist()
    assert again.weights.t5_floor == pytest.approx(memory.weights.t5_floor)
    with pytest.raises(DataError, match="slots"):
        read_memory(file, ITEMS)
    arrays = load_file(file)
    for name, value in {"shared.columns": ITEMS, "followers.starts": -1, "kernels": -1, "slots": 2 * ITEMS}.items():
        broken = {key: array.copy() for key, array in arrays.items()}
        broken[name].flat[-1] = value
        save_file(broken, file)
        with pytest.raises(DataError, match="memory.safetensors is damaged"):
            read_memory(file, ITEMS - 1)


def test_a_file_with_a_row_that_no_item_borrows_is_read_without_it(tmp_path):
    file = tmp_path / "memory.safetensors"
    memory = make_memory()
    shares = sparse.csr_matrix(([1.0, 1.0, 1.0], ([0, 1, 2], [3, 8, 4])), shape=(3, ITEMS), dtype=np.float32)
    grown = memory.extended(shares)
    write_memory(grown, file)
    arrays = load_file(file)
    for kept in (np.arange(ITEMS), np.array([ITEMS + 2, *range(ITEMS), ITEMS])):
        # What earlier versions wrote: the removed items' slots are gone, their rows are not.
        save_file(arrays | {"slots": grown.slots[kept]}, file)
        again = read_memory(file, len(kept))
        assert again.borrowed.shape[0] == len(kept) - ITEMS
        history = one_history(*np.flatnonzero(np.isin(kept, [7, 4])))
        np.testing.assert_allclose(again.mass(history), grown.mass(one_history(4, 7))[:, kept], rtol=1e-6)
    assert again.slots.tolist() == [ITEMS + 1, *range(ITEMS), ITEMS]


def test_neighbors_are_the_most_similar_by_words_and_vectors():
    texts = make_texts()
    words, vectors = texts.words.toarray(), texts.vectors
    expected = ((words @ words.T) ** 2 + (vectors @ vectors.T).clip(0) ** 2) / 2
    np.fill_diagonal(expected, 0)
    found = nearest_items(texts, 5).toarray()
    for row, similar in zip(found, expected):
        best = np.sort(similar)[::-1][:5]
        np.testing.assert_allclose(np.sort(row)[::-1][:5], best, atol=1e-6)
    assert truncated(sparse.csr_matrix(expected.astype(np.float32)), 5).nnz <= 5 * ITEMS
    only = nearest_items(replace(texts, words=None), 3)
    assert only.diagonal().sum() == 0 and np.diff(only.indptr).max() <= 3
