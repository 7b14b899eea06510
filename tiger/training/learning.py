"""Data of a training: its split, the users who are learned from, and the parent that it goes on from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from transformers import TrainingArguments

from tiger.data.dataset import RecommendationData
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.data.splits import LeaveOneOut
from tiger.training.parent import Parent
from tiger.training.retriever_arguments import RetrieverArguments
from tiger.utils.errors import DataError


@dataclass(frozen=True)
class Learning:
    """The data of a training, in the tokenizer's order.

    Args:
        data: all of it.
        split: of the data.
        train: the split's training part, of the users to learn from.
        parent: whose weights it goes on from; None: none.
    """

    data: RecommendationData
    split: LeaveOneOut
    train: Sequences
    parent: Parent | None

    @classmethod
    def of(cls, args: RetrieverArguments, seed: int, data: RecommendationData, parent: Parent | None) -> Learning:
        """With the users that ``args.train_share`` asks for; those with events since the parent's log come first."""
        split = data.split(args.split, args.shuffle_ties)
        first = np.zeros(len(split.train), dtype=bool)
        if parent is not None and parent.log is not None:
            events = data.sequences
            new = events.timestamps >= (parent.log["last_day"] + 1) * SECONDS_PER_DAY
            first = np.isin(split.users, np.unique(events.users[new]))
        return cls(data, split, some_users(split.train, args.train_share, seed, first), parent)


def check_no_validation(args: RetrieverArguments, training: TrainingArguments) -> None:
    """Refuse settings that ask for validation where nothing is held out.

    Raises:
        DataError: naming them.
    """
    asked = {
        "eval_strategy": getattr(training.eval_strategy, "value", training.eval_strategy) != "no",
        "load_best_model_at_end": training.load_best_model_at_end,
        "patience": args.patience,
    }
    if wrong := [name for name, value in asked.items() if value]:
        raise DataError(
            f"split all leaves nothing to validate on: leave out {', '.join(wrong)}. It trains for num_train_epochs, "
            "as chosen without it."
        )


def some_users(train: Sequences, share: float, seed: int, first: np.ndarray | None = None) -> Sequences:
    """Draw a share of the users who have something to learn from, in the order that they have.

    Args:
        train: sequences of all users; those of one item hold no target.
        share: above 0, to 1: all. With the same seed, a larger share holds a smaller one.
        seed: of the draw.
        first: bool [users], who is taken before others are drawn, and even where they are more than the share; None:
            nobody.

    Raises:
        DataError: ``share`` is out of range.
    """
    if not 0 < share <= 1:
        raise DataError(f"train_share must be above 0 and at most 1, got {share}.")
    if share == 1:
        return train
    useful = np.random.default_rng(seed).permutation(np.flatnonzero(train.lengths > 1))
    ahead = np.zeros(len(useful), dtype=bool) if first is None else first[useful]
    useful = useful[np.argsort(~ahead, kind="stable")]
    return train.select(np.sort(useful[: max(math.ceil(share * len(useful)), int(ahead.sum()))]))
