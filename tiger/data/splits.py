"""Splits of a log into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiger.data.sequences import Sequences
from tiger.utils.errors import DataError

# Values of the setting ``split``.
LEAVE_ONE_OUT, ALL = "leave_one_out", "all"
SPLITS = (LEAVE_ONE_OUT, ALL)
SPLIT_HELP = "leave_one_out, or all: nothing is held back, for deployment; the model can't be evaluated on this log"


@dataclass(frozen=True)
class LeaveOneOut:
    """Next-item splits (TIGER, arXiv 2305.05065): the last item tests, the one before validates, the rest trains.

    Args:
        users: int64 [n], rows of the data set's users that are in, those with three events or more.
        train: what training may see: all but the last two events.
        valid_targets: int32 [n].
        test_histories: ``train`` followed by the validation target.
        test_targets: int32 [n].
        num_left_out: users with fewer than three events.
        held_out: False: ``train`` is all events of all users, and nothing validates or tests.
        valid_counted: the model whose split this is has counted its validation events, so that ``valid`` is refused.
    """

    users: np.ndarray
    train: Sequences
    valid_targets: np.ndarray
    test_histories: Sequences
    test_targets: np.ndarray
    num_left_out: int
    held_out: bool = True
    valid_counted: bool = False

    @property
    def next_items(self) -> tuple[Sequences, np.ndarray]:
        """Histories and targets that say how users go on: those of validation, or where none is held out, the last
        item of each user after those before it. For facts of the log, such as how much of it repeats."""
        if self.held_out:
            return self.valid_histories, self.valid_targets
        return self.train.drop_last(1), self.train.items[self.train.offsets[1:] - 1]

    @property
    def valid_histories(self) -> Sequences:
        """Histories before the validation target: the training part itself."""
        return self.train

    def part(self, name: str) -> tuple[Sequences, np.ndarray]:
        """Histories and targets of ``valid`` or ``test``.

        Raises:
            DataError: there is no such part, or it can't measure the model whose split this is.
        """
        if name not in ("valid", "test"):
            raise DataError(f"part must be valid or test, got {name!r}.")
        if not self.held_out:
            raise DataError("nothing of this log is held out (split all): there is no part to validate or test on.")
        if name == "valid" and self.valid_counted:
            raise DataError(
                "the counts of this recommender hold validation events (two_stage.count_validation), so they can't "
                "measure it. Measure the test part, or train the second stage with --count_validation false."
            )
        if name == "valid":
            return self.valid_histories, self.valid_targets
        return self.test_histories, self.test_targets


@dataclass(frozen=True)
class TemporalSplit:
    """Events before, between and after two days (the protocol of Singh et al., arXiv 2306.08121).

    ``train``, ``valid`` and ``test`` are int64 arrays of event rows of the data set's ``sequences``; ``valid_from``
    and ``test_from`` are the first seconds of validation and test.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    valid_from: int
    test_from: int
