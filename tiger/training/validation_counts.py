"""Counts of validation events in a recommender whose second stage is fitted: what was held out is known by then.

The trees learn from counts that end before the event they are to find. Users who ask later ask of counts that hold all
events so far; so do those of the test, once validation's are counted too. Without them, the last item of a history is
one whose event nothing has counted, which the trees have not met.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiger.data.splits import LeaveOneOut
from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError

COUNTED = "counts_validation"  # in a recommender's record
SUFFIX = "-with-validation"  # of the names of what is measured with them


def counts_validation(training: Mapping[str, Any]) -> bool:
    """Whether a recommender's counts hold validation events, from the record of its training."""
    return bool(training.get(COUNTED))


def suffix_of(training: Mapping[str, Any]) -> str:
    """The end of the names under which a recommender is measured; empty unless it counts validation events."""
    return SUFFIX if counts_validation(training) else ""


def with_validation_counts(tiger: TigerRecommender, split: LeaveOneOut) -> None:
    """Count validation events in the memory, and record that this was done. The second stage's are the caller's."""
    if tiger.memory is not None:
        tiger.memory = tiger.memory.recounted(split.test_histories)
    tiger.training = tiger.training | {COUNTED: True}


def without_validation_counts(tiger: TigerRecommender, split: LeaveOneOut) -> None:
    """Take validation events out of the memory again, before anything learns from validation items."""
    if not counts_validation(tiger.training):
        return
    if tiger.memory is not None:
        tiger.memory = tiger.memory.recounted(split.train)
    tiger.training = {name: value for name, value in tiger.training.items() if name != COUNTED}


def check_part(training: Mapping[str, Any], part: str) -> None:
    """Refuse to measure on validation items what has counted them.

    Raises:
        DataError: it has.
    """
    if part == "valid" and counts_validation(training):
        raise DataError(
            "the counts of this recommender hold validation events (two_stage.count_validation), so they can't "
            "measure it. Measure the test part, or train the second stage with --count_validation false."
        )
