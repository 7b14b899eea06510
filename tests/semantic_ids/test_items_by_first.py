"""Items by first token: in a run of tokens where they are dense, in any order where they are not."""

import torch

from tiger.semantic_ids.items_by_first import ItemsByFirst


def pairs_of(items):
    return {(int(token), int(node)) for token, node in zip(items.tokens, items.nodes) if token}


def test_tokens_become_a_run_whose_rows_are_a_slice():
    table = torch.arange(40.0).view(20, 2)
    found = ItemsByFirst.in_a_run(torch.tensor([9, 7, 12, 8]), torch.tensor([1, 0, 2, 0]))
    assert found.start == 7 and found.tokens.tolist() == [7, 8, 9, 0, 0, 12]
    assert pairs_of(found) == {(7, 0), (8, 0), (9, 1), (12, 2)}
    rows = found.rows(table)
    assert rows.data_ptr() == table[7:].data_ptr() and rows.tolist() == table[7:13].tolist()


def test_tokens_far_apart_stay_as_they_are():
    tokens, nodes = torch.tensor([90, 7]), torch.tensor([1, 0])
    found = ItemsByFirst.in_a_run(tokens, nodes)
    assert found.start is None and pairs_of(found) == {(90, 1), (7, 0)}
    assert found.rows(torch.arange(100.0).unsqueeze(1)).tolist() == [[90.0], [7.0]]
    assert not len(ItemsByFirst.in_a_run(tokens[:0], nodes[:0]).tokens)
