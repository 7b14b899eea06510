import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiger.semantic_ids.trie import SemanticIdTrie


def test_follow_gives_the_tokens_that_continue_a_prefix():
    trie = SemanticIdTrie.build(np.array([[2, 5], [1, 5], [2, 4], [2, 7]]))
    children, tokens, allowed = trie.follow(0, None)
    assert tokens.tolist() == [1, 2] and allowed.all()
    children, tokens, allowed = trie.follow(1, torch.tensor([[1, 0]]))
    assert tokens.shape == (1, 2, 3)
    assert tokens[0, 0].tolist() == [4, 5, 7] and allowed[0, 0].all()
    assert tokens[0, 1, 0] == 5 and allowed[0, 1].tolist() == [True, False, False]
    assert trie.rows[children[0, 0]].tolist() == [2, 0, 3]


tables = st.integers(1, 4).flatmap(
    lambda depth: st.lists(
        st.lists(st.integers(0, 5), min_size=depth, max_size=depth), min_size=1, max_size=40, unique_by=tuple
    )
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_walking_finds_exactly_the_table(table):
    table = np.array(table)
    trie = SemanticIdTrie.build(table)
    found = {}
    frontier = [((), None)]
    for level in range(trie.depth):
        wider = []
        for prefix, node in frontier:
            nodes = None if node is None else torch.tensor([node])
            children, tokens, allowed = (part.reshape(-1) for part in trie.follow(level, nodes))
            wider += [((*prefix, int(t)), int(c)) for c, t, ok in zip(children, tokens, allowed) if ok]
        frontier = wider
    found = {prefix: int(trie.rows[node]) for prefix, node in frontier}
    assert found == {tuple(row): index for index, row in enumerate(table.tolist())}


@settings(max_examples=60, deadline=None)
@given(tables)
def test_paths_and_leaf_counts(table):
    table = np.array(table)
    trie = SemanticIdTrie.build(table)
    paths = trie.paths(torch.arange(len(table)))
    for level in range(trie.depth):
        assert np.array_equal(trie.tokens[level][paths[:, level]].numpy(), table[:, level])
        prefixes = [tuple(row) for row in table[:, : level + 1].tolist()]
        expected = [prefixes.count(prefix) for prefix in prefixes]
        assert trie.leaf_counts(level, paths[:, level]).tolist() == expected


def test_wide_tuples_that_fill_more_than_64_bits():
    table = np.random.default_rng(0).integers(0, 2**20, (500, 6))
    trie = SemanticIdTrie.build(table)
    assert np.array_equal(np.stack([trie.tokens[5][trie.leaves.long()]]).ravel(), table[:, 5])


@settings(max_examples=150, deadline=None)
@given(tables, st.integers(0, 40))
def test_insert_equals_build(table, present):
    table = np.array(table)
    present = min(max(1, present), len(table))
    grown, built = SemanticIdTrie.build(table[:present]).insert(table[present:]), SemanticIdTrie.build(table)
    assert grown.widths == built.widths
    for a, b in zip(grown._arrays(), built._arrays()):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_insert_refuses_what_is_there():
    trie = SemanticIdTrie.build(np.array([[1, 2], [3, 4]]))
    with pytest.raises(ValueError, match="row 1 of the table is in the trie already"):
        trie.insert(np.array([[3, 5], [3, 4]]))
    with pytest.raises(ValueError, match="twice in the table"):
        trie.insert(np.array([[3, 5], [3, 5]]))
    with pytest.raises(ValueError, match="needed"):
        trie.insert(np.array([[3]]))


def test_saved_and_mapped(tmp_path):
    trie = SemanticIdTrie.build(np.random.default_rng(0).permutation(5000).reshape(1000, 5))
    trie.save(tmp_path / "trie.safetensors")
    again = SemanticIdTrie.load(tmp_path / "trie.safetensors")
    assert again.widths == trie.widths
    assert all(torch.equal(a, b) for a, b in zip(again._arrays(), trie._arrays()))


def test_refuses_repeats_and_nothing():
    with pytest.raises(ValueError, match="repeats another row"):
        SemanticIdTrie.build(np.array([[1, 2], [1, 2]]))
    with pytest.raises(ValueError, match="at least one row"):
        SemanticIdTrie.build(np.empty((0, 4), dtype=int))


def test_a_million_items_are_small_and_quick():
    codes = np.unique(np.random.default_rng(0).integers(0, 256, (1_000_000, 4)), axis=0)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        trie = SemanticIdTrie.build(codes)
        seconds.append(time.process_time() - start)
    assert trie.nbytes <= 40 * len(codes)
    assert len(codes) / min(seconds) >= 1_000_000
