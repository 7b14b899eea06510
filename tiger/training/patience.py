"""Stop a training that no longer improves, whether it is interrupted meanwhile or not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME


class Patience(EarlyStoppingCallback):
    """Stop after some evaluations in a row without a better one; those before a resume count.

    Args:
        evaluations: how many, at least 1.
    """

    def __init__(self, evaluations: int):
        super().__init__(evaluations)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = evaluations_since_best(state.log_history, args)

    def ended_at(self, checkpoint: str | os.PathLike | None, training: TrainingArguments) -> int | None:
        """The step of a checkpoint at which the training was over, as it had run out of patience; None: it was not."""
        if checkpoint is None:
            return None
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        over = evaluations_since_best(state.log_history, training) >= self.early_stopping_patience
        return state.global_step if over else None


def evaluations_since_best(log: Iterable[Mapping[str, Any]], training: TrainingArguments) -> int:
    """Evaluations after the best one of a Trainer's log, by ``metric_for_best_model``; 0 where there is none."""
    name = f"eval_{str(training.metric_for_best_model).removeprefix('eval_')}"
    best, since = None, 0
    for found in (row[name] for row in log if name in row):
        if best is None or (found > best if training.greater_is_better else found < best):
            best, since = found, 0
        else:
            since += 1
    return since
