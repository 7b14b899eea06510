"""Data of a training: its split, the users who are learned from, and the parent that it goes on from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from tiger.data.dataset import RecommendationData
from tiger.data.repeats import excludes_history
from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.metrics import METRICS
from tiger.training.parent import Parent
from tiger.training.retriever_arguments import RetrieverArguments
from tiger.utils.errors import DataError

# Below these there is no order to learn, nor anything that a test could tell. Not tuned.
MIN_USERS, MIN_ITEMS = 5, 3


@dataclass(frozen=True)
class Learning:
    """The data of a training, in the tokenizer's order.

    Args:
        data: all of it.
        split: of the data.
        train: the split's training part, of the users to learn from.
        parent: whose weights it goes on from; None: none.
        epochs: share of the settings' epochs.
    """

    data: RecommendationData
    split: LeaveOneOut
    train: Sequences
    parent: Parent | None
    epochs: float = 1.0

    @classmethod
    def of(cls, args: RetrieverArguments, seed: int, data: RecommendationData, parent: Parent | None) -> Learning:
        """With the users that ``args.train_share`` asks for; of these, where there is a parent, with those that
        ``args.work_share`` leaves."""
        split = data.split(args.split, args.shuffle_ties)
        if parent is None:
            if args.work_share != 1:
                raise DataError("work_share is for training that goes on (init_from): give train_share.")
            return cls(data, split, some_users(split.train, args.train_share, seed), parent)
        events, first = data.sequences, np.zeros(len(split.train), dtype=bool)
        if parent.log is not None:
            new = events.timestamps >= (parent.log["last_day"] + 1) * SECONDS_PER_DAY
            first = np.isin(split.users, np.unique(events.users[new]))
        users = drawn_users(split.train, args.train_share, seed)
        chosen, epochs = within_work(split.train, users, first, args.work_share)
        return cls(data, split, split.train.select(chosen), parent, epochs)

    def excludes_history(self, wanted: bool | None) -> bool:
        """Whether answers leave out items of the history: as wanted, else as of the parent's, else as the log says."""
        known = None if self.parent is None else self.parent.tiger.training
        return excludes_history(self.split, wanted, known)


def check_enough(data: RecommendationData, split: LeaveOneOut, source: object) -> None:
    """Refuse a log that is too small to learn from, before the first step.

    Args:
        data: all of it.
        split: of the data.
        source: where it lies.

    Raises:
        DataError: saying what is missing, and what to give.
    """
    if data.num_items < MIN_ITEMS:
        raise DataError(
            f"{source} has {data.num_items} items: there is nothing to choose from. Give {MIN_ITEMS} or more."
        )
    if not (split.train.lengths > 1).any():
        raise DataError(
            f"{source} leaves nothing to train on: a user's last two events test and validate, and of "
            f"{len(split.users)} users none has two more before them. Give a longer log."
        )
    needed = "three events or more" if split.held_out else "two events or more"
    count = len(split.users) if split.held_out else int((split.train.lengths > 1).sum())
    if count < MIN_USERS:
        raise DataError(f"{source} has {count} users with {needed}: too few to learn from. Give {MIN_USERS} or more.")


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


def check_evaluations(args: RetrieverArguments, training: TrainingArguments) -> None:
    """Refuse a choice by evaluations that there are none of, or by a metric that they lack.

    Raises:
        DataError: naming the setting.
    """
    if not (args.patience or training.load_best_model_at_end):
        return
    if args.patience and training.eval_strategy == IntervalStrategy.NO:
        raise DataError("patience counts evaluations, which eval_strategy: no leaves out: give patience: null, too.")
    metric = str(training.metric_for_best_model or "none").removeprefix("eval_")
    if metric not in (known := ("loss", *METRICS)):
        raise DataError(f"metric_for_best_model must be one of {', '.join(known)}, got {metric}.")


def some_users(train: Sequences, share: float, seed: int) -> Sequences:
    """Draw a share of the users who have something to learn from, in the order that they have.

    Args:
        train: sequences of all users; those of one item hold no target.
        share: above 0, to 1: all. With the same seed, a larger share holds a smaller one.
        seed: of the draw.

    Raises:
        DataError: ``share`` is out of range.
    """
    users = drawn_users(train, share, seed)
    return train if share == 1 else train.select(np.sort(users))


def drawn_users(train: Sequences, share: float, seed: int) -> np.ndarray:
    """int64 [n]: the users of :func:`some_users`, in the order of the draw; none without a target."""
    if not 0 < share <= 1:
        raise DataError(f"train_share must be above 0 and at most 1, got {share}.")
    useful = np.random.default_rng(seed).permutation(np.flatnonzero(train.lengths > 1))
    return useful[: math.ceil(share * len(useful))]


def within_work(train: Sequences, users: np.ndarray, first: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """Choose users to learn from and the share of the epochs, for a share of the targets that all of them have.

    Args:
        train: sequences of all users.
        users: int64 [n], rows of those to choose from, in the order in which others are taken.
        first: bool [all users], who is taken before others are, and all of them; fewer epochs make up for it.
        share: above 0, to 1: all, for all epochs.

    Returns:
        int64 [m], rows in ascending order, and a share of the epochs.

    Raises:
        DataError: ``share`` is out of range.
    """
    if not 0 < share <= 1:
        raise DataError(f"work_share must be above 0 and at most 1, got {share}.")
    users = users[np.argsort(~first[users], kind="stable")]
    targets = np.cumsum(train.lengths[users] - 1)
    work, ahead = share * targets[-1:].sum(), int(first[users].sum())
    chosen = users[: max(ahead, int(np.searchsorted(targets, work)) + 1)]
    return np.sort(chosen), min(1.0, float(work / max(targets[ahead - 1] if ahead else 0, 1)))
