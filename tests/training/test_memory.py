"""A memory is fitted after the T5's training, and its weight chosen on validation items."""

from dataclasses import replace

import numpy as np
import pytest

from tests.retriever.test_memory import ITEMS, make_log, make_memory, one_history
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.retriever.memory import MemoryTables
from tiger.training.memory import T5_WEIGHTS, Validation, counted_elsewhere, fit_memory, with_chosen_weight


def validation(memory, right):
    """Users without history, whose target the T5 knows, or takes for the least probable of all."""
    count = 400
    targets = np.random.default_rng(0).integers(0, ITEMS, count)
    rows = np.stack([targets if right else (targets + 1) % ITEMS], axis=1)
    histories = Sequences.from_rows([np.empty(0, dtype=np.int64)] * count)
    return Validation(histories, targets, rows, np.full((count, 1), -0.01, dtype=np.float32))


def test_the_weight_is_the_default_unless_another_is_clearly_better():
    memory = make_memory()
    default = memory.weights.t5_weight
    for right in (True, False):  # every weight above 0 puts a known target first: then none is better
        chosen, record = with_chosen_weight(memory, validation(memory, right), exclude_history=True)
        weight = chosen.weights.t5_weight
        assert record["t5_weight"] == weight
        assert set(record["validation ndcg@10"]) == {f"{one:g}" for one in {0.0, default, *T5_WEIGHTS}}
        assert weight == (default if right else 0)
    # Nothing to choose by: one user says nothing of the others.
    few = validation(memory, True)
    one = replace(few, histories=few.histories.select(np.arange(1)), targets=few.targets[:1], rows=few.rows[:1])
    one = replace(one, log_probs=few.log_probs[:1])
    assert with_chosen_weight(memory, one, True)[0].weights.t5_weight in (default, *T5_WEIGHTS)


@pytest.mark.parametrize("texts", [["tent"] * ITEMS, [""] * ITEMS])
def test_a_memory_needs_neither_words_nor_vectors(texts):
    memory = fit_memory(make_log(), texts, None, np.zeros(ITEMS, dtype=np.int64), True)
    assert memory.tables.neighbors.nnz == (0 if not texts[0] else memory.tables.neighbors.nnz)
    assert np.isfinite(memory.mass(one_history(3))).all()


def test_popular_items_weigh_more_where_they_are_the_better_answer():
    """The counts and the T5 point elsewhere: at least popularity's order is reached, and the record says so."""
    random, popular = np.random.default_rng(0), np.arange(5)
    rows = [np.append(random.integers(5, ITEMS, 3), random.permutation(popular)) for _ in range(60)]
    memory = fit_memory(Sequences.from_rows(rows), [""] * ITEMS, None, np.zeros(ITEMS, dtype=np.int64), True)
    kernels = memory.weights.kernels.copy()
    kernels[2:] = 0
    kernels[:2] = 5.0
    misled = replace(memory, weights=replace(memory.weights, kernels=kernels, popularity=0.0))
    count = 200
    histories = Sequences.from_rows([random.integers(5, ITEMS, 3) for _ in range(count)])
    targets = random.integers(0, 5, count)
    wrong = np.tile(np.arange(20, 30), (count, 1))
    known = Validation(histories, targets, wrong, np.full(wrong.shape, -2.0, dtype=np.float32))
    shuffled = replace(misled, tables=replace(misled.tables, followers=misled.tables.followers[::-1].tocsr()))
    chosen, record = with_chosen_weight(shuffled, known, exclude_history=True)
    before = record["validation ndcg@10"]["0.15"]
    assert record["popular items"] > before + 0.05
    assert record["with more popularity"] >= record["popular items"]
    assert set(np.argsort(-chosen.mass(one_history(7, 9)), axis=1)[0, :5].tolist()) == set(range(5))


def test_a_t5_that_knows_more_than_the_counts_decides():
    memory = fit_memory(make_log(), [""] * ITEMS, None, np.zeros(ITEMS, dtype=np.int64), False)
    known = validation(memory, True)
    # The counts are sure of another item, so that only a large weight puts the target first.
    histories = make_log(len(known.targets), seed=5)
    chosen, record = with_chosen_weight(memory, replace(known, histories=histories), exclude_history=False)
    found = record["validation ndcg@10"]
    assert chosen.weights.t5_weight == record["t5_weight"] and found[f"{record['t5_weight']:g}"] >= found["0.15"]
    assert found["6.4"] == max(found.values()) == 1.0


@pytest.mark.parametrize(("measured", "parts"), [(40, 5), (7, 1)])
def test_the_weight_is_chosen_beside_counts_of_all_validation_events_but_the_user_s_own(measured, parts):
    """A count of a user's own target would show it to the memory, which would then seem to need no T5."""
    histories = make_log(40, seed=3)
    train, targets = histories.drop_last(1), histories.items[histories.offsets[1:] - 1]
    split = LeaveOneOut(np.arange(40), train, targets, histories, targets, 0)
    users = np.sort(np.random.default_rng(0).choice(40, measured, replace=False))
    neighbors = make_memory().tables.neighbors
    found = counted_elsewhere(split, users, neighbors)
    assert len(found) == parts and sorted(np.concatenate([places for places, _ in found])) == list(range(measured))
    for places, tables in found:
        own = set(users[places])
        rows = [train[user] if user in own else histories[user] for user in range(40)]
        expected = MemoryTables.counted(Sequences.from_rows(rows), neighbors)
        assert (tables.followers != expected.followers).nnz == 0 and (tables.totals == expected.totals).all()

    # Measured with these: the users of a part with its tables, at their own places.
    memory = make_memory()
    valid = Validation(histories, targets, targets[:, None], np.full((40, 1), -1.0, dtype=np.float32))
    valid = replace(valid, histories=train.select(users), targets=targets[users], rows=targets[users, None])
    valid = replace(valid, log_probs=valid.log_probs[users], parts=found)
    _, record = with_chosen_weight(memory, valid, exclude_history=False)
    alone = []
    for places, tables in found:
        some = replace(valid, histories=valid.histories.select(places), targets=valid.targets[places], parts=None)
        some = replace(some, rows=valid.rows[places], log_probs=valid.log_probs[places])
        counting = replace(memory, tables=tables)
        alone += [with_chosen_weight(counting, some, False)[1]["validation ndcg@10"]["0"]] * len(places)
    assert record["validation ndcg@10"]["0"] == pytest.approx(np.mean(alone), abs=1e-5)
