"""Counts of validation events in a recommender whose second stage is fitted: what was held out is known by then.

The trees learn from counts that end before the event they are to find. Users who ask later ask of counts that hold all
events so far; so do those of the test, once validation's are counted too. Without them, the last item of a history is
one whose event nothing has counted, which the trees have not met.

Who learns from validation items, or measures on them, takes the counts out first: the split of such a recommender, see
:func:`tiger.evaluation.training_split.split_of_model`, refuses its validation part until then.
"""

from __future__ import annotations

from dataclasses import replace

from tiger.data.splits import LeaveOneOut
from tiger.evaluation.training_split import COUNTED, counts_validation
from tiger.recommender.recommender import TigerRecommender


def with_validation_counts(tiger: TigerRecommender, split: LeaveOneOut) -> None:
    """Count validation events in the memory, and record that this was done. The second stage's are the caller's."""
    if tiger.memory is not None:
        tiger.memory = tiger.memory.recounted(split.test_histories)
    tiger.training = tiger.training | {COUNTED: True}
    print("validation events are counted from now on")


def without_validation_counts(tiger: TigerRecommender, split: LeaveOneOut) -> LeaveOneOut:
    """Take validation events out of the memory again; a second stage keeps its own, and is not to be asked.

    Returns:
        The split, whose validation part can be read now.
    """
    if counts_validation(tiger.training):
        if tiger.memory is not None:
            tiger.memory = tiger.memory.recounted(split.train)
        tiger.training = {name: value for name, value in tiger.training.items() if name != COUNTED}
    return replace(split, valid_counted=False)
