"""Training a click ranker with transformers' ``Trainer``."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from tiger.evaluation.metrics import auc, log_loss
from tiger.rankers.click.dataset import Impressions, ImpressionsCollator
from tiger.rankers.click.model import RankerConfig, SemanticIdRanker
from tiger.rankers.click.optimizer import RowwiseAdagradAdamW
from tiger.utils.errors import DataError


class RankerTrainer(Trainer):
    """``Trainer`` for rankers: row-wise Adagrad for the table, AdamW for the rest, AUC at every evaluation.

    Args:
        model: from :func:`ranker_config`.
        args: as for ``Trainer``; batch sizes count lists, and ``metric_for_best_model="auc"`` selects.
        train_dataset, eval_dataset: :class:`Impressions`.
        item_rows, dense: the catalog, from :func:`rows_and_dense`.
        table_learning_rate: of a sparse embedding table; a dense one learns at the rate of the rest.
    """

    def __init__(
        self,
        model: SemanticIdRanker,
        args: TrainingArguments,
        train_dataset: Impressions | None = None,
        eval_dataset: Impressions | None = None,
        item_rows: np.ndarray | None = None,
        dense: np.ndarray | None = None,
        table_learning_rate: float = 0.05,
        **options,
    ):
        if item_rows is None:
            raise ValueError("RankerTrainer needs item_rows, from rows_and_dense")
        for impressions in (train_dataset, eval_dataset):
            if impressions is not None:
                _check_labels(impressions, model.config)
        args = copy.copy(args)  # the caller's own stays as it is
        args.remove_unused_columns = False
        self.table_learning_rate = table_learning_rate
        self._catalog = (item_rows, dense)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=_click_metrics,
            **options,
        )
        self.label_names = ["labels"]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Row-wise Adagrad for a sparse table, AdamW for all else."""
        model = self.model if model is None else model
        if self.optimizer is not None or not model.config.sparse:
            return super().create_optimizer(model)
        args, table = self.args, model.table.weight
        groups: list[dict[str, Any]] = [
            {"params": [table], "rowwise": True, "lr": self.table_learning_rate},
            {"params": [parameter for parameter in model.parameters() if parameter is not table]},
        ]
        self.optimizer = RowwiseAdagradAdamW(
            groups,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, self.args.train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        return self._loader(self.eval_dataset if eval_dataset is None else eval_dataset, self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        return self._loader(test_dataset, self.args.eval_batch_size)

    def _loader(self, examples: Any, batch_size: int, shuffle: bool = False) -> DataLoader:
        if examples is None:
            raise ValueError("there are no impressions to read")
        max_history = cast(SemanticIdRanker, self.model).config.max_history
        collate = ImpressionsCollator(examples, *self._catalog, max_history=max_history)
        generator = torch.Generator().manual_seed(self.args.seed) if shuffle else None
        loader: DataLoader = DataLoader(examples, batch_size, shuffle=shuffle, collate_fn=collate, generator=generator)
        return self.accelerator.prepare(loader)

    def _clip_grad_norm(self, model):
        """A sparse gradient has no norm to share with the others: what is clipped is the rest."""
        table = model.table.weight if model.config.sparse else None
        rest = [parameter for parameter in model.parameters() if parameter is not table]
        return self.accelerator.clip_grad_norm_(rest, self.args.max_grad_norm)


def _check_labels(impressions: Impressions, config: RankerConfig) -> None:
    labels = impressions.labels[impressions.labels >= 0]
    if len(labels) == 0 or labels.min() == labels.max():
        found = "no labels" if len(labels) == 0 else f"only labels {labels[0]:g}"
        raise DataError(f"the impressions hold {found}: a ranker learns from clicks and from what was not clicked.")
    given = 0 if impressions.context is None else impressions.context.shape[-1]
    if given != config.num_context:
        raise DataError(f"the impressions have {given} context columns, the ranker reads {config.num_context}.")


def _click_metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    present = labels >= 0
    logits, labels = logits[present].astype(np.float64), labels[present]
    return {"auc": auc(labels, logits), "log_loss": log_loss(labels, 1 / (1 + np.exp(-logits)))}
