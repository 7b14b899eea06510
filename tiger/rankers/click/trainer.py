"""Training a click ranker with transformers' ``Trainer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import EvalPrediction

from tiger.evaluation.metrics import auc, log_loss
from tiger.rankers.click.dataset import Impressions, ImpressionsCollator
from tiger.rankers.click.model import RankerConfig, SemanticIdRanker
from tiger.rankers.click.optimizer import RowwiseAdagradAdamW
from tiger.utils.errors import DataError
from tiger.utils.trainer import REFUSED, CheckedTrainer, Refusal, loader_options, refuse_optimizer

RANKER_REFUSED: Sequence[Refusal] = (
    *REFUSED,
    Refusal(
        "train_sampling_strategy",
        lambda args: getattr(args, "train_sampling_strategy", "random") != "random",
        "lists are drawn anew in every epoch; leave it at random",
    ),
    Refusal(
        "batch_eval_metrics",
        lambda args: args.batch_eval_metrics,
        "the AUC is one of all lists together; leave it out",
    ),
)


class RankerTrainer(CheckedTrainer):
    """``Trainer`` for rankers: row-wise Adagrad for the table, AdamW for the rest, AUC at every evaluation.

    Args:
        model: from :func:`ranker_config`.
        args: as for ``Trainer``, copied; batch sizes count lists, and ``metric_for_best_model="auc"`` selects.
        train_dataset: :class:`Impressions`.
        eval_dataset: :class:`Impressions`, or a dictionary of several by name.
        item_rows, dense: the catalog, from :func:`rows_and_dense`.
        table_learning_rate: of a sparse embedding table; a dense one learns at the rate of the rest.
        counts: float [items], training events of each item, where the ranker has a gate.
        compute_metrics: of an ``EvalPrediction`` with logits and labels, float [lists, candidates], labels below 0
            where there is no candidate; default: AUC and log loss.
        options: other arguments of ``Trainer``.

    Raises:
        DataError: an option is not supported; the message has the reason and the remedy.
    """

    refused = RANKER_REFUSED

    def __init__(
        self,
        model: SemanticIdRanker,
        args: TrainingArguments,
        train_dataset: Impressions | None = None,
        eval_dataset: Impressions | Mapping[str, Impressions] | None = None,
        item_rows: np.ndarray | None = None,
        dense: np.ndarray | None = None,
        table_learning_rate: float = 0.05,
        compute_metrics: Callable[..., dict] | None = None,
        counts: np.ndarray | None = None,
        **options,
    ):
        if item_rows is None:
            raise ValueError("RankerTrainer needs item_rows, from rows_and_dense")
        if model.gate is not None and counts is None:
            raise DataError("this ranker weighs rows by their items' training events: give RankerTrainer counts.")
        for name in ("data_collator", "model_init"):
            if options.get(name) is not None:
                raise DataError(
                    f"RankerTrainer does not take {name}: a batch is made of this catalog's rows, for a ranker of "
                    "their size; leave it out."
                )
        evaluation = eval_dataset.values() if isinstance(eval_dataset, Mapping) else [eval_dataset]
        for impressions in (train_dataset, *evaluation):
            if impressions is not None:
                _check_labels(impressions, model.config)
        _check_devices(args, model.config)
        if model.config.sparse:
            table = "a sparse table, which row-wise Adagrad steps (make the ranker with sparse=False)"
            refuse_optimizer("RankerTrainer", table, args, options)
        self.table_learning_rate = table_learning_rate
        self._collator = partial(ImpressionsCollator, rows=item_rows, dense=dense, counts=counts)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics or _click_metrics,
            **options,
        )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Row-wise Adagrad for a sparse table, AdamW for all else."""
        own = cast(SemanticIdRanker, self.accelerator.unwrap_model(self.model if model is None else model))
        if self.optimizer is not None or not own.config.sparse:
            return super().create_optimizer(model)
        args, table = self.args, own.table.weight
        groups: list[dict[str, Any]] = [
            {"params": [table], "rowwise": True, "lr": self.table_learning_rate},
            {"params": [parameter for parameter in own.parameters() if parameter is not table]},
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
        return self._loader(self.train_dataset, self._train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        if isinstance(eval_dataset, str):
            eval_dataset = cast(Any, self.eval_dataset)[eval_dataset]
        return self._loader(self.eval_dataset if eval_dataset is None else eval_dataset, self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        return self._loader(test_dataset, self.args.eval_batch_size)

    def _loader(self, examples: Any, batch_size: int, shuffle: bool = False) -> DataLoader:
        if examples is None:
            raise ValueError("there are no impressions to read")
        if not isinstance(examples, Impressions):
            raise DataError(
                f"RankerTrainer reads Impressions, not a {type(examples).__name__}: take part of them by select."
            )
        max_history = cast(SemanticIdRanker, self.accelerator.unwrap_model(self.model)).config.max_history
        collate = self._collator(examples, max_history=max_history)
        options = loader_options(self.args)
        if shuffle:
            options["generator"] = torch.Generator().manual_seed(self.args.seed)
            options["drop_last"] = self.args.dataloader_drop_last
        # Workers of an evaluation end with it: every call makes a loader.
        options["persistent_workers"] = options["persistent_workers"] and shuffle
        dataset = cast(Dataset, examples)
        loader: DataLoader = DataLoader(dataset, batch_size, shuffle=shuffle, collate_fn=collate, **options)
        return self.accelerator.prepare(loader)

    def _clip_grad_norm(self, model):
        return self.accelerator.clip_grad_norm_(self._dense_parameters(model), self.args.max_grad_norm)

    def _get_grad_norm(self, model, grad_norm=None):
        if grad_norm is None:  # measured, not clipped
            grad_norm = self.accelerator.clip_grad_norm_(self._dense_parameters(model), float("inf"))
        return grad_norm

    def _dense_parameters(self, model) -> list[torch.nn.Parameter]:
        """All parameters but a sparse table: its gradient has no norm to share with the others."""
        own = cast(SemanticIdRanker, self.accelerator.unwrap_model(model))  # of what several processes wrap it in
        table = own.table.weight if own.config.sparse else None
        return [parameter for parameter in own.parameters() if parameter is not table]


def _check_devices(args: TrainingArguments, config: RankerConfig) -> None:
    """Raises DataError: several devices that can't share the work."""
    if args.n_gpu > 1:
        raise DataError(
            "RankerTrainer does not spread a batch over several GPUs of one process, for its lists share their items: "
            "use accelerate launch, or one GPU (CUDA_VISIBLE_DEVICES=0)."
        )
    several = args.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized()
    if config.sparse and several and torch.distributed.get_backend() == "nccl":
        raise DataError(
            "RankerTrainer does not share sparse gradients between GPUs, for NCCL sums dense ones alone: make the "
            "ranker with sparse=False (--sparse false), or train it in one process."
        )


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
