"""The split that a model was trained on, found again in a dataset: on another one it may be asked what it has seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tiger.data.dataset import RecommendationData
from tiger.data.identity import ITEMS, TRAIN, check_same_data, differing, table_digest, train_digest
from tiger.data.sequences import Sequences
from tiger.data.splits import ALL, LeaveOneOut
from tiger.utils.errors import DataError

SEEN_ALL = "events that may be those the model was trained on: it held none back (split all)"
OTHER_LOG = "another log than the model was trained on: targets may be what it has seen"
COUNTED = "counts_validation"  # in the record of a model's training
SUFFIX = "-with-validation"  # of the names of what is measured with counts that hold validation events


def split_of_model(
    data: RecommendationData,
    rows: np.ndarray,
    training: Mapping[str, Any],
    source: object,
    allow_other_log: bool = False,
    tables: Sequence[str] = (TRAIN,),
) -> tuple[LeaveOneOut, bool | None]:
    """Split a dataset as for a model's training, and compare the training part with what the model learned from.

    Args:
        data: the dataset.
        rows: int [items], the model's rows of the dataset's items, -1 for those that it lacks.
        training: what is recorded of the model's training.
        source: where the dataset lies.
        allow_other_log: split another log all the same.
        tables: what is compared: ``train`` and, for those who read texts too, ``items``.

    Returns:
        The split, in the model's rows, which refuses its validation part where the model has counted that; and
        whether its training part is the model's: None where the model is older than digests of the data, which is told
        in a warning.

    Raises:
        DataError: the model lacks items, has held nothing back, or the data is other than it was trained on.
    """
    seen_all = training.get("split") == ALL
    if seen_all and not allow_other_log:
        raise DataError(
            f"the model was trained on all events of its log (split all): it may have seen the targets of {source}. "
            "Measure a model that was trained without --split all"
            + (", or give --allow-other-log to measure all the same." if tuple(tables) == (TRAIN,) else ".")
        )
    if (rows < 0).any():
        raise DataError(f"the model lacks {(rows < 0).sum()} items of {source}: it was trained on another dataset.")
    split = data.leave_one_out(training.get("shuffle_ties"))
    recorded, found = known_digests(training), {TRAIN: train_digest(data, split)}
    if ITEMS in tables:
        found[ITEMS] = table_digest(data.items)
    same = False if seen_all else None if TRAIN not in recorded else not differing(recorded, found)
    if same is None:
        warnings.warn(
            f"the model doesn't say what it was trained on (it is older than digests of the data): where {source} "
            "lacks events that it has seen, its metrics are too high.",
            stacklevel=2,
        )
    if not allow_other_log:
        remedy = "targets may be what the model has seen. Give the dataset that it was trained on"
        option = ", or --allow-other-log to measure all the same" if tuple(tables) == (TRAIN,) else ""
        check_same_data(recorded, found, source, "the model", remedy + option)
    return replace(_in_rows(split, rows), valid_counted=counts_validation(training)), same


def counts_validation(training: Mapping[str, Any]) -> bool:
    """Whether a model's counts hold validation events, from the record of its training."""
    return bool(training.get(COUNTED))


def suffix_of(training: Mapping[str, Any]) -> str:
    """The end of the names under which a model is measured; empty unless it counts validation events."""
    return SUFFIX if counts_validation(training) else ""


def known_digests(training: Mapping[str, Any]) -> dict[str, str]:
    """Digests of a model's data, from what is recorded of its training: none for models older than these."""
    found = training.get("data")
    return found if isinstance(found, dict) else {}


def _in_rows(split: LeaveOneOut, rows: np.ndarray) -> LeaveOneOut:
    """The same split over other rows: of a model, to which items may have been added since."""

    def moved(items: np.ndarray) -> np.ndarray:
        return rows[items].astype(items.dtype)

    def of(events: Sequences) -> Sequences:
        return replace(events, items=moved(events.items))

    return replace(
        split,
        train=of(split.train),
        valid_targets=moved(split.valid_targets),
        test_histories=of(split.test_histories),
        test_targets=moved(split.test_targets),
    )
