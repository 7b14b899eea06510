"""A gate on an item's own table rows: its values, what it leaves alone, and what becomes of it on a disk."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import TrainingArguments, set_seed

from tests.conftest import make_tokenizer
from tests.rankers.click.test_model import CODES, DENSE, IDS, circle_lists, make_features, make_ranker
from tiger.rankers.click.dataset import ImpressionsCollator
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.gate import CountGate
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.ranker import ClickRanker
from tiger.rankers.click.trainer import RankerTrainer
from tiger.utils.errors import DataError

COUNTS = torch.tensor([0.0, 1.0, 5.0, 10.0, 20.0, 500.0])


def with_slopes(gate, *slopes):
    """The gate with these values of ``s``."""
    with torch.no_grad():
        gate.slope.copy_(torch.tensor(slopes).expm1().log())
    return gate


def test_weights_by_hand():
    weights = with_slopes(CountGate([1, 3]), 1.0, 2.0)(COUNTS, 4)
    # 1 - 5 / count, and 1 - (5 / count)^2; counts below 5 count as 5.
    expected = [[1, 0, 1, 0]] * 3 + [[1, 0.5, 1, 0.75], [1, 0.75, 1, 0.9375], [1, 0.99, 1, 0.9999]]
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-6, rtol=1e-5)
    assert not weights[:3, [1, 3]].any()  # exactly 0, whatever is learned
    torch.testing.assert_close(CountGate([0])(COUNTS, 1)[:, 0], weights[:, 1])  # s is 1 before training


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("random_hash", [0, 1]),
        ("unigram+random_hash", [3, 4]),
        ("random_hash+prefix_ngram+dense", [0, 1, 4]),
        ("prefix_ngram+spm", [2]),
        ("spm+ngram", []),
    ],
)
def test_rows_of_an_items_own(kind, own):
    assert make_features(kind).own_columns == own


def test_an_item_is_its_gated_rows_and_all_else():
    features = make_features("random_hash+unigram+dense")
    ranker = make_ranker(features, gate=True)
    with_slopes(ranker.gate, 0.5, 3.0)
    rows, dense = torch.from_numpy(features.rows(IDS, CODES)), torch.from_numpy(DENSE)
    counts = torch.from_numpy(np.random.default_rng(2).integers(0, 20, len(IDS))).float()
    found = ranker.embed(rows, dense, counts)
    table = ranker.table.weight[rows.long()]  # [items, 5, d]
    floored = counts.clamp(min=5)[:, None]
    shared = table[:, 2:].sum(1) + ranker.dense(dense)
    expected = (1 - (5 / floored) ** 0.5) * table[:, 0] + (1 - (5 / floored) ** 3) * table[:, 1] + shared
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    rare = counts <= 5
    assert rare.any() and torch.allclose(found[rare], shared[rare], atol=1e-6)
    with pytest.raises(ValueError, match="pass counts"):
        ranker.embed(rows, dense)


def test_without_a_gate_nothing_changes():
    features = make_features("random_hash+unigram+dense")
    plain, gated = (make_ranker(features, gate=gate) for gate in (False, True))
    assert plain.gate is None and not plain.reads_counts and plain.config.gate_columns == []
    own, other = plain.state_dict(), gated.state_dict()
    assert set(other) - set(own) == {"gate.slope"} and all(torch.equal(own[name], other[name]) for name in own)
    rows, dense = torch.from_numpy(features.rows(IDS, CODES)), torch.from_numpy(DENSE)
    sums = F.embedding_bag(rows, plain.table.weight, mode="sum", padding_idx=features.budget)
    counts = torch.full((len(IDS),), 1e9)
    assert torch.equal(plain.embed(rows, dense), sums + plain.dense(dense))  # to the last bit
    assert torch.equal(plain.embed(rows, dense, counts), sums + plain.dense(dense))
    # An item with endless events has all of its rows; one with few has none of its own.
    torch.testing.assert_close(gated.embed(rows, dense, counts), plain.embed(rows, dense), atol=1e-6, rtol=1e-5)
    assert (gated.embed(rows, dense, 0 * counts) - plain.embed(rows, dense)).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["random_hash", "spm", "unigram+dense", "random_hash+prefix_ngram"])
def test_a_gate_needs_both_sides(kind):
    features = make_features(kind)
    if kind == "random_hash+prefix_ngram":
        assert ranker_config(features, gate=True).gate_columns == [0, 1, 4]
        return
    with pytest.raises(DataError, match="has not both: use random_hash.unigram, or leave the gate out"):
        ranker_config(features, dense_dim=6, gate=True)


def make_trainer(folder, counts, steps=10, **sizes):
    features = make_features("random_hash+unigram")
    args = TrainingArguments(
        str(folder),
        report_to=[],
        use_cpu=True,
        max_steps=steps,
        save_strategy="no",
        learning_rate=1e-2,
        disable_tqdm=True,
    )
    rows, ranker = features.rows(IDS, CODES), make_ranker(features, gate=True, **sizes)
    return RankerTrainer(ranker, args, circle_lists(), circle_lists(seed=1), item_rows=rows, counts=counts)


@pytest.mark.parametrize("sparse", [True, False])
def test_training_moves_the_gate_and_leaves_rows_of_rare_items(tmp_path, sparse):
    counts = np.where(np.arange(len(IDS)) % 2, 100, 3)
    trainer = make_trainer(tmp_path, counts, sparse=sparse, weight_decay=0.0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert (after["gate.slope"] - before["gate.slope"]).abs().min() > 1e-3
    rows = make_features("random_hash+unigram").rows(IDS, CODES)[:, :2]
    often, rare = np.unique(rows[1::2]), np.setdiff1d(rows[::2], rows[1::2])
    moved = (after["table.weight"] - before["table.weight"]).abs().max(dim=1).values
    assert len(rare) > 10 and (moved[often] > 0).all() and not moved[rare].any()
    with pytest.raises(DataError, match="give RankerTrainer counts"):
        make_trainer(tmp_path, None)


def test_a_batch_has_the_counts_of_its_items():
    features, lists = make_features("random_hash+unigram"), circle_lists()
    rows, counts = features.rows(IDS, CODES), np.arange(len(IDS)) + 7
    batch = ImpressionsCollator(lists, rows, counts=counts)([3, 4])
    items = np.unique(np.concatenate([lists.history(np.array([3, 4]), 20).ravel(), lists.candidates[[3, 4]].ravel()]))
    assert batch["counts"].tolist() == (items[items >= 0] + 7).tolist()
    assert "counts" not in ImpressionsCollator(lists, rows)([3, 4])


@pytest.fixture
def tokenizer():
    return make_tokenizer(40)


def make_click_ranker(tokenizer, kind="random_hash+unigram"):
    set_seed(0)
    features = ItemFeatures.fit(kind, 100, tokenizer.codes, tokenizer.codebook_size)
    ranker = SemanticIdRanker(ranker_config(features, semantic_ids=tokenizer.fingerprint, d_model=8, gate=True))
    with_slopes(ranker.gate, 0.7, 1.3)
    return ClickRanker(ranker, features, tokenizer, totals=np.arange(len(tokenizer)))


HISTORIES = [np.array([1, 39]), np.array([], dtype=int), np.array([7])]
CANDIDATES = np.tile(np.arange(40), (3, 1))


def test_saved_and_read_again_it_is_the_same(tokenizer, tmp_path):
    ranker = make_click_ranker(tokenizer)
    ranker.save_pretrained(tmp_path)
    again = ClickRanker.from_pretrained(tmp_path, tokenizer)
    assert again.ranker.config.gate_columns == [0, 1] and torch.equal(
        again.ranker.gate.slope, ranker.ranker.gate.slope
    )
    np.testing.assert_allclose(again.score(HISTORIES, CANDIDATES), ranker.score(HISTORIES, CANDIDATES), atol=1e-6)
    assert again.digest() == ranker.digest()
    other = ClickRanker(ranker.ranker, ranker.features, tokenizer, totals=np.full(40, 5))
    assert np.abs(other.score(HISTORIES, CANDIDATES) - ranker.score(HISTORIES, CANDIDATES)).max() > 1e-3
    with pytest.raises(DataError, match="a ranker with a gate reads the number of events of each item: give totals"):
        ClickRanker(ranker.ranker, ranker.features, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"gate_columns": [0, 2]}))
    with pytest.raises(DataError, match="have different sizes"):
        ClickRanker.from_pretrained(tmp_path, tokenizer)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "totals.safetensors").unlink()
    with pytest.raises(DataError, match="totals.safetensors"):
        ClickRanker.from_pretrained(tmp_path, tokenizer)


def test_a_new_item_is_what_it_shares_with_others(tokenizer):
    ranker = make_click_ranker(tokenizer)
    before = ranker.score(HISTORIES, CANDIDATES)
    tokenizer.add_items(["new", "newer"], codes=tokenizer.codes[[30, 2]])
    ranker.add_items(tokenizer, None, None)
    both = np.tile([40, 41, 30, 2], (3, 1))
    scores = ranker.score(HISTORIES, both)
    np.testing.assert_array_equal(scores[:, 0] != scores[:, 2], True)  # item 30 has rows of its own as well
    np.testing.assert_allclose(scores[:, 1], scores[:, 3], rtol=1e-5, atol=1e-6)  # item 2 had 2 events: none either
    np.testing.assert_allclose(ranker.score(HISTORIES, CANDIDATES), before, rtol=1e-5, atol=1e-6)
    kept = np.setdiff1d(np.arange(42), [3, 41])
    ranker.keep_items(kept)
    again = ranker.score([np.searchsorted(kept, history) for history in HISTORIES], np.tile([39, 29], (3, 1)))
    np.testing.assert_allclose(again, scores[:, [0, 2]], rtol=1e-5, atol=1e-6)
