import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_tokenizer
from tiger.data.sequences import Sequences, pad_rows
from tiger.retriever import dataset
from tiger.retriever.data_collator import EvaluationCollator, TrainingCollator
from tiger.retriever.dataset import EvaluationExamples, LengthBatchSampler, TrainingExamples


def sequences_of(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(offsets, np.arange(offsets[-1], dtype=np.int32), np.zeros(offsets[-1], dtype=np.int64))


def pairs(examples):
    """(target, its history) of every target, from the examples as they are handed out."""
    for index in range(len(examples)):
        example = examples[index]
        for place in range(example["first_target"], len(example["items"])):
            yield int(example["items"][place]), example["items"][:place].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 7), st.booleans())
def test_every_item_but_the_first_is_a_target_once(lengths, max_history, shared):
    sequences = sequences_of(lengths)
    examples = TrainingExamples(sequences, max_history, shared=shared)
    found = list(pairs(examples))
    expected = {
        int(item): (sequence[:place], place) for sequence in sequences for place, item in enumerate(sequence) if place
    }
    assert sorted(target for target, _ in found) == sorted(expected)
    for target, history in found:
        before, place = expected[target]
        assert history == before[len(before) - len(history) :].tolist()
        least = min(place, (max_history + 1) // 2) if shared else min(place, max_history)
        assert least <= len(history) <= max_history
    assert examples.num_targets.sum() == len(found)


def test_batches_hold_one_length_and_a_budget_of_targets():
    lengths = np.random.default_rng(0).integers(2, 40, 3000)
    examples = TrainingExamples(sequences_of(lengths), 20)
    sampler = LengthBatchSampler(examples, targets_per_batch=256, seed=1)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(len(examples)))
        assert max(examples.num_targets[batch].sum() for batch in batches) <= 256
        padded = sum(len(batch) * examples.history_lengths[batch].max() for batch in batches)
        assert examples.history_lengths.sum() / padded > 0.9
    sampler.set_epoch(0)
    assert list(sampler) == list(LengthBatchSampler(examples, 256, seed=1)) != batches
    assert len(LengthBatchSampler(examples, 256, multiple_of=7)) % 7 == 0
    with pytest.raises(ValueError, match="fewer processes"):
        LengthBatchSampler(examples, 10**9, multiple_of=2)


def test_collated_targets_see_what_precedes_them():
    tokenizer = make_tokenizer(40)
    examples = TrainingExamples(sequences_of([4, 3]), 20)
    batch = TrainingCollator(tokenizer)([examples[0], examples[1]])
    assert batch["input_ids"].shape == (2, 12) and batch["labels"].shape == (2, 3, 4)
    assert batch["num_visible_items"].tolist() == [[1, 2, 3], [1, 2, 0]]
    assert tokenizer.decode(batch["input_ids"].view(2, 3, 4).numpy()).tolist() == [[0, 1, 2], [4, 5, -1]]
    assert tokenizer.decode(batch["labels"][0].numpy()).tolist() == [1, 2, 3]
    assert batch["labels"][1, 2].tolist() == [-100] * 4


def test_evaluation_reads_the_end_and_remembers_all():
    tokenizer = make_tokenizer(60)
    examples = EvaluationExamples(sequences_of([30, 0, 2]), np.array([59, 1, 2]), max_history=5)
    assert examples.by_length().tolist() == [0, 2, 1]
    batch = EvaluationCollator(tokenizer)([examples[row] for row in range(3)])
    assert tokenizer.decode(batch["input_ids"].view(3, 5, 4).numpy())[0].tolist() == [25, 26, 27, 28, 29]
    assert batch["seen"].shape == (3, 30) and batch["seen"][2, :3].tolist() == [30, 31, -1]
    assert batch["labels"].tolist() == [59, 1, 2]
    assert batch["input_ids"][1].eq(0).all()
    assert len(examples.sample(2)) == 2 and examples.sample(None) is examples


def test_pad_rows():
    assert pad_rows([np.array([3, 4]), np.array([], dtype=int)]).tolist() == [[3, 4], [-1, -1]]
    assert pad_rows([np.array([], dtype=int)]).tolist() == [[-1]]
    assert torch.from_numpy(pad_rows([np.array([1], dtype=np.int32)])).dtype == torch.int64


def test_what_a_user_has_seen_is_there_once_and_very_long_histories_come_together(monkeypatch):
    monkeypatch.setattr(dataset, "_VERY_LONG", 6)
    histories = Sequences.from_rows([np.array([4, 2, 4, 2]), np.arange(9), np.arange(5), np.tile([1, 0], 10)])
    examples = EvaluationExamples(histories, np.zeros(4, dtype=np.int64), max_history=4)
    assert examples.by_length().tolist() == [3, 1, 0, 2]
    batch = EvaluationCollator(make_tokenizer(20))([examples[0], examples[3]])
    assert batch["seen"].tolist() == [[2, 4], [0, 1]]
