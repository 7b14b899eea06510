"""Examples for training and evaluation, made on access, and a sampler of batches with histories of one length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from tiger.data.sequences import Sequences
from tiger.data.users import user_numbers
from tiger.utils.errors import DataError
from tiger.utils.sampling import sampled_rows

_VERY_LONG = 1000  # items of a history, of which others of its batch would feel the width


class TrainingExamples(Dataset):
    """Training examples in which every item of a sequence, except the first, is a target after the items before it.

    An example is a slice of one sequence and the position of its first target; each item from there on is a target,
    with the items before it as its history. Nothing is copied: an example is three integers until it is accessed.

    Args:
        sequences: the training part of the log.
        max_history: maximum number of history items per target.
        shared: True: all targets of a sequence in one example, for an encoder with causal attention. A sequence of
            more than ``max_history`` + 1 items gives overlapping examples, in which a target sees at least half of its
            last ``max_history`` items. False: one example per target, with exactly its last ``max_history`` items.
        user_tokens: as many as the model has: an example then has the number of its user's, too.

    Raises:
        ValueError: ``max_history`` is below 1.
        DataError: there are user tokens, and no user ids.
    """

    def __init__(self, sequences: Sequences, max_history: int = 20, shared: bool = True, user_tokens: int = 0):
        if max_history < 1:
            raise ValueError(f"max_history must be at least 1, got {max_history}")
        self.sequences = sequences
        self.max_history = max_history
        lengths, offsets = sequences.lengths, sequences.offsets[:-1]
        if shared:
            stride = (max_history + 1) // 2
            extra = np.maximum(0, -(-(lengths - 1 - max_history) // stride))
            counts = np.where(lengths >= 2, 1 + extra, 0)
        else:
            stride, counts = 1, np.maximum(lengths - 1, 0)
        index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        lengths, offsets = np.repeat(lengths, counts), np.repeat(offsets, counts)
        owners = np.repeat(np.arange(len(sequences)), counts)
        if shared:
            # Example j > 0 has the targets that follow example j - 1's last one, at most `stride` of them.
            stops = np.minimum(lengths, max_history + 1 + stride * index)
            first_targets = np.where(index == 0, 1, max_history + 1 + stride * (index - 1))
            starts = np.maximum(0, stops - 1 - max_history)
        else:
            first_targets = index + 1
            stops = first_targets + 1
            starts = np.maximum(0, first_targets - max_history)
        self.user_tokens = user_tokens
        self._users = numbers_of_users(sequences, user_tokens, required=True)
        self._owners = owners if user_tokens else None
        self._starts, self._stops = offsets + starts, offsets + stops
        self._first_targets = first_targets - starts

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def history_lengths(self) -> np.ndarray:
        """Number of history items per example, int64 [examples]."""
        return self._stops - self._starts - 1

    @property
    def num_targets(self) -> np.ndarray:
        """Number of targets per example, int64 [examples]."""
        return self._stops - self._starts - self._first_targets

    def __getitem__(self, index: int) -> dict:
        """``items``, int32 [history + 1], and ``first_target``, the position in it of the first target; ``user``,
        the number of the user's token, where there are such."""
        items = self.sequences.items[self._starts[index] : self._stops[index]]
        example = {"items": items, "first_target": int(self._first_targets[index])}
        if self._owners is not None:
            example["user"] = int(self._users[self._owners[index]])
        return example


def numbers_of_users(sequences: Sequences, user_tokens: int, required: bool = False) -> np.ndarray:
    """Numbers of the tokens of sequences' users, int64 [users]; all 0, unknown, where they have no ids.

    Args:
        sequences: of n users.
        user_tokens: how many there are; 0: none.
        required: whether ids must be there.

    Raises:
        DataError: they are not.
    """
    if not user_tokens or sequences.user_ids is None:
        if user_tokens and required:
            raise DataError("user_tokens needs to know whose sequences these are: give them user_ids.")
        return np.zeros(len(sequences), dtype=np.int64)
    return user_numbers(sequences.user_ids.to_pylist(), user_tokens)


class EvaluationExamples(Dataset):
    """Evaluation examples: per user, a history and the item that followed it.

    Args:
        histories: the items before each target.
        targets: int [users], rows.
        max_history: number of last items that the model reads. Exclusion from the results covers the whole history.
        user_tokens: as many as the model has: an example then has the number of its user's, 0 for an unknown one.
    """

    def __init__(self, histories: Sequences, targets: np.ndarray, max_history: int = 20, user_tokens: int = 0):
        if len(histories) != len(targets):
            raise ValueError(f"{len(histories)} histories for {len(targets)} targets")
        self.histories = histories
        self.targets = np.asarray(targets)
        self.max_history = max_history
        self.user_tokens = user_tokens
        self._users = numbers_of_users(histories, user_tokens)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict:
        """``seen``, int32, all items of the history; ``history``, its last ``max_history`` items; ``target``; and
        ``user``, where there are user tokens."""
        seen = self.histories[index]
        example = {"seen": seen, "history": seen[-self.max_history :], "target": int(self.targets[index])}
        return example | {"user": int(self._users[index])} if self.user_tokens else example

    def sample(self, count: int | None, seed: int = 0) -> EvaluationExamples:
        """``count`` users drawn without replacement; all if ``count`` is None or not smaller than their number."""
        return self if count is None or count >= len(self) else self.select(self.drawn(count, seed))

    def drawn(self, count: int | None, seed: int = 0) -> np.ndarray:
        """Which users :meth:`sample` takes: int64 [at most ``count``], ascending."""
        return sampled_rows(len(self), len(self) if count is None else count, seed)

    def select(self, users: np.ndarray) -> EvaluationExamples:
        """These users (int [n]) alone."""
        histories = self.histories.select(users)
        return EvaluationExamples(histories, self.targets[users], self.max_history, self.user_tokens)

    @property
    def history_lengths(self) -> np.ndarray:
        """Number of history items that the model reads per example, int64 [users]."""
        return np.minimum(self.histories.lengths, self.max_history)

    def by_length(self) -> np.ndarray:
        """Users ordered by the length of their histories, longest first: int64 [users].

        Of those that the model reads no more of, very long ones come first: what they have seen is as long.
        """
        return np.lexsort((-np.maximum(self.histories.lengths, _VERY_LONG), -self.history_lengths))


def examples_within(dataset: Dataset) -> list[Any]:
    """The examples that a ``Subset`` or a ``ConcatDataset`` is made of; the dataset itself where it is neither."""
    if isinstance(dataset, Subset):
        return examples_within(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [part for one in dataset.datasets for part in examples_within(one)]
    return [dataset]


def example_array(dataset: Dataset, name: str) -> np.ndarray:
    """An array with a number per example, such as ``history_lengths``, of a ``Subset`` or ``ConcatDataset`` too."""
    if isinstance(dataset, Subset):
        return example_array(dataset.dataset, name)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([example_array(part, name) for part in dataset.datasets])
    return getattr(dataset, name)


class LengthBatchSampler(torch.utils.data.Sampler):
    """Batches of examples with (nearly) equal history lengths and about the same number of targets.

    The number of batches is the same in every epoch: shuffling only exchanges examples of equal length.

    Args:
        examples: :class:`TrainingExamples`, or a ``Subset`` or ``ConcatDataset`` of them.
        targets_per_batch: maximum number of targets per batch; an example with more is a batch of its own.
        seed: seed of the shuffle, combined with the epoch.
        multiple_of: number of processes; batches are dropped until their number is a multiple of it.

    Raises:
        ValueError: there are fewer batches than processes.
    """

    def __init__(self, examples: Dataset, targets_per_batch: int, seed: int = 0, multiple_of: int = 1):
        self._lengths, self._sizes = (example_array(examples, name) for name in ("history_lengths", "num_targets"))
        self._seed, self._epoch = seed, 0
        ends = np.cumsum(self._sizes[np.lexsort((self._sizes, self._lengths))])
        cuts = [0]
        while cuts[-1] < len(ends):
            done = ends[cuts[-1] - 1] if cuts[-1] else 0
            cuts.append(max(int(np.searchsorted(ends, done + targets_per_batch, side="right")), cuts[-1] + 1))
        self._cuts = np.array(cuts)
        self._count = (len(cuts) - 1) // multiple_of * multiple_of
        if self._count == 0:
            raise ValueError(
                f"{len(self._sizes)} training examples make {len(cuts) - 1} batches for {multiple_of} processes: "
                "use smaller batches or fewer processes"
            )

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = np.lexsort((random.random(len(self._lengths)), self._sizes, self._lengths))
        for batch in random.permutation(len(self._cuts) - 1)[: self._count]:
            yield order[self._cuts[batch] : self._cuts[batch + 1]].tolist()
