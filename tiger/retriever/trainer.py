"""The ``Trainer`` of the retriever; its evaluation decodes items."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import T5ForConditionalGeneration, Trainer, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from tiger.evaluation.metrics import next_item_metrics
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import check_pair, is_causal, reads_users, retriever_config, uses_child_softmax
from tiger.retriever.data_collator import EvaluationCollator, TrainingCollator, child_targets
from tiger.retriever.dataset import EvaluationExamples, LengthBatchSampler, TrainingExamples
from tiger.retriever.layer_weights import adapter_base
from tiger.retriever.model import TigerT5, next_item_loss
from tiger.retriever.optimizer import MuonAdamW
from tiger.retriever.training_graph import TrainingGraphs
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.semantic_ids.vocabulary import PAD_TOKEN
from tiger.utils.errors import DataError

logger = logging.getLogger(__name__)


class TigerTrainer(Trainer):
    """``Trainer`` for next-item generation.

    Training batches hold examples of one length, and about ``per_device_train_batch_size`` *targets* each. Evaluation
    decodes under the prefix trie and reports ``recall@5``, ``ndcg@5``, ``recall@10`` and ``ndcg@10`` of items beside
    the loss.

    Args:
        model: a :class:`tiger.retriever.model.TigerT5` made from :func:`t5_config`. A plain
            ``T5ForConditionalGeneration`` is wrapped by ``TigerT5.from_t5``, which shares its weights; this is logged.
            One within adapters of PEFT's layers (``get_peft_model``) is trained and evaluated with them.
        args: as for ``Trainer``, copied; ``metric_for_best_model="ndcg@10"`` selects the best checkpoint by decoding.
        train_dataset: :class:`TrainingExamples`.
        eval_dataset: :class:`EvaluationExamples`.
        processing_class: the tokenizer, saved with every checkpoint.
        num_beams: beams in evaluation.
        exclude_history: whether evaluation leaves out items of the history.
        embedding_learning_rate: learning rate of the token embeddings; None: ``args.learning_rate``. T5's embeddings
            start with unit variance: steps of the size that suits its matrices hardly move them.
        muon_learning_rate: learning rate of the matrices, trained by Muon (:class:`MuonAdamW`); None: AdamW for all
            weights.
        cuda_graphs: replay forward and backward as CUDA graphs (:class:`TrainingGraphs`), several times faster where
            the model is small; ignored on other devices.
        options: other arguments of ``Trainer``.

    Raises:
        TypeError: the model is neither a ``TigerT5`` nor a plain T5.
        ValueError: model and tokenizer, or model and examples, don't belong together.
        DataError: a setting is not supported.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        args: TrainingArguments,
        train_dataset: TrainingExamples | None = None,
        eval_dataset: EvaluationExamples | None = None,
        processing_class: SemanticIdTokenizer | None = None,
        num_beams: int = 20,
        exclude_history: bool = True,
        embedding_learning_rate: float | None = None,
        muon_learning_rate: float | None = None,
        cuda_graphs: bool = False,
        **options,
    ):
        if processing_class is None:
            raise ValueError("TigerTrainer needs the SemanticIdTokenizer as processing_class")
        model, base = _tiger_t5(model)
        check_pair(base, processing_class)
        if train_dataset is not None and train_dataset.num_targets.max() > 1 and not is_causal(base):
            raise ValueError(
                "this model's history_attention is 'full', so examples can't share a history: "
                "use TrainingExamples(..., shared=False) or t5_config(..., history_attention='causal')"
            )
        _check_users(base, train_dataset, eval_dataset)
        _check_settings(base, args)
        if cuda_graphs:
            _check_graphs(base, args)
        # Trainer would drop columns of the examples that are not arguments of forward; the collators need them.
        args = copy.copy(args)
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False  # it would hide a loss that is no number, and ask for it after every step
        self.num_beams = num_beams
        self.exclude_history = exclude_history
        self.embedding_learning_rate = embedding_learning_rate
        self.muon_learning_rate = muon_learning_rate
        trie = SemanticIdTrie.build(processing_class.token_table)
        self._trie = trie.to(args.device)
        self._eval_collator = EvaluationCollator(processing_class)
        self._first_bad: torch.Tensor | None = None  # float32 [2]: the first loss that is no number, and its step
        self._reads_every_step = args.device.type == "cpu"
        self._uses_graphs = cuda_graphs and args.device.type == "cuda"
        self._graphs: TrainingGraphs | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=TrainingCollator(processing_class, trie if uses_child_softmax(base) else None),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,  # type: ignore[arg-type]  # needs save_pretrained alone
            compute_metrics=_item_metrics,
            **options,
        )
        self.label_names = ["labels"]

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """``Trainer``'s own, or a CUDA graph's; notes the first loss that is no number, and stops there.

        On an accelerator the note stays on the device until the next log or save: to read it after every step would
        make the host wait for each.

        Raises:
            DataError: naming the step.
        """
        if self._uses_graphs:
            loss = self._graph_step(model, inputs, num_items_in_batch)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch).detach()
        noted = torch.stack([loss.float(), torch.full_like(loss, self.state.global_step + 1, dtype=torch.float32)])
        if self._first_bad is None:
            self._first_bad = torch.zeros_like(noted)
        is_first = ~torch.isfinite(noted[0]) & (self._first_bad[1] == 0)
        self._first_bad = torch.where(is_first, noted, self._first_bad)
        if self._reads_every_step:
            self._stop_if_diverged()
        return loss

    def _graph_step(self, model, inputs, num_items_in_batch) -> torch.Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        if num_items_in_batch is not None:
            inputs["num_items_in_batch"] = torch.as_tensor(num_items_in_batch, device=self.args.device)
        if self._graphs is None:
            own = adapter_base(self.accelerator.unwrap_model(model))
            enabled, dtype = self.args.bf16, torch.bfloat16

            def loss_of(**batch):
                with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
                    return next_item_loss(own, **batch)

            self._graphs = TrainingGraphs(own, loss_of)
        return self._graphs.step(inputs)

    def log(self, *args, **kwargs) -> None:
        self._stop_if_diverged()
        super().log(*args, **kwargs)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        self._stop_if_diverged()
        super()._save_checkpoint(*args, **kwargs)

    def _issue_warnings_after_load(self, load_result) -> None:
        """``Trainer``'s own, but not of tied weights, which a checkpoint holds once."""
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

    def _stop_if_diverged(self) -> None:
        if self._first_bad is None:
            return
        loss, step = self._first_bad.tolist()
        if step:
            raise DataError(
                f"the loss is {loss} at step {int(step)}: the training diverged. Lower "
                "--learning_rate / --muon_learning_rate and start again."
            )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """``Trainer``'s own, unless the embeddings or the matrices have their own learning rate."""
        if self.optimizer is not None or (self.embedding_learning_rate is None and self.muon_learning_rate is None):
            return super().create_optimizer(model)
        args, model = self.args, self.model if model is None else model
        decaying = set(self.get_decay_parameter_names(model))
        embeddings, matrices, rest = [], [], []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # below adapters
                continue
            if parameter is model.shared.weight:
                embeddings.append(parameter)
            elif name in decaying and "relative_attention_bias" not in name:
                matrices.append(parameter)
            else:
                rest.append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": embeddings, "lr": self.embedding_learning_rate or args.learning_rate},
            {"params": matrices},
            {"params": rest, "weight_decay": 0.0},
        ]
        if self.muon_learning_rate is not None:
            groups[1] |= {"lr": self.muon_learning_rate, "muon": True}
        self.optimizer = MuonAdamW(
            groups,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
            fused=True,
        )
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        sampler = LengthBatchSampler(
            cast(TrainingExamples, self.train_dataset),
            self.args.train_batch_size,
            seed=seed,
            multiple_of=self.args.world_size,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers and self.args.dataloader_num_workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        # The sampler already gives all processes the same number of batches; in evaluation, accelerate does.
        self.accelerator.even_batches = False
        prepared = self.accelerator.prepare(loader)
        self.accelerator.even_batches = True
        # A resumed epoch wraps the loader once more, and Trainer's set_epoch would then not reach the sampler.
        prepared.batch_sampler.set_epoch = sampler.set_epoch
        return prepared

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        examples = self.eval_dataset if eval_dataset is None else eval_dataset
        if examples is None:
            raise ValueError("evaluation needs an eval_dataset")
        examples = cast(EvaluationExamples, examples)
        # Metrics don't depend on the order: take the one with the least padding.
        return self._evaluation_loader(examples, examples.by_length().tolist())

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        examples = cast(EvaluationExamples, test_dataset)
        return self._evaluation_loader(examples, range(len(examples)))

    def _evaluation_loader(self, examples: EvaluationExamples, order: Sequence[int]) -> DataLoader:
        loader = DataLoader(
            examples,
            batch_size=self.args.eval_batch_size,
            sampler=order,
            collate_fn=self._eval_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluate one batch: its loss, the recommended rows [B, 10] and the target rows [B]."""
        inputs = self._prepare_inputs(inputs)
        model = adapter_base(self.accelerator.unwrap_model(model))
        targets = inputs["labels"]
        tokenizer = cast(SemanticIdTokenizer, self.processing_class)
        labels = torch.from_numpy(tokenizer.encode(targets.cpu().numpy())).to(targets.device)
        items = inputs["input_ids"][:, int(reads_users(model)) :]
        num_visible_items = items.ne(PAD_TOKEN).sum(-1, keepdim=True) // tokenizer.history_depth
        children = child_targets(self._trie, targets) if uses_child_softmax(model) else None
        with torch.no_grad(), self.accelerator.autocast():
            loss = next_item_loss(
                model, inputs["input_ids"], num_visible_items, labels.unsqueeze(1), children=children
            )
            beams = beam_search(
                model,
                self._trie,
                inputs["input_ids"],
                num_beams=self.num_beams,
                k=10,
                excluded=inputs["seen"] if self.exclude_history else None,
            )
        return loss, beams.rows.clone(), targets


def _check_users(model: TigerT5, *datasets: TrainingExamples | EvaluationExamples | None) -> None:
    """Raises ValueError: examples for another number of user tokens than the model has."""
    wanted = retriever_config(model).user_tokens
    for examples in datasets:
        if examples is not None and examples.user_tokens != wanted:
            raise ValueError(
                f"the model has {wanted} user tokens, the {type(examples).__name__} are for {examples.user_tokens}: "
                f"make them with user_tokens={wanted}"
            )


def _check_settings(model: TigerT5, args: TrainingArguments) -> None:
    """Raises DataError: a setting of ``Trainer`` that this one lacks."""
    if args.n_gpu > 1 and uses_child_softmax(model):
        raise DataError(
            "a model with prefix tokens can't be spread over GPUs within one process: use accelerate launch."
        )
    if args.label_smoothing_factor or args.gradient_checkpointing:
        raise DataError(
            "TigerTrainer has no label smoothing and no gradient checkpointing: leave out label_smoothing_factor "
            "and gradient_checkpointing."
        )


def _check_graphs(model: TigerT5, args: TrainingArguments) -> None:
    """Raises DataError: a setting that CUDA graphs can't replay."""
    if uses_child_softmax(model):
        raise DataError("cuda_graphs needs batches of few shapes, which prefix tokens don't make: turn it off.")
    several = args.world_size > 1 or args.n_gpu > 1 or args.gradient_accumulation_steps > 1
    if several or args.fp16 or args.torch_compile:
        raise DataError(
            "cuda_graphs works on one GPU, without gradient accumulation, fp16 (use bf16) and torch_compile: turn it "
            "or them off."
        )


def _tiger_t5(model: T5ForConditionalGeneration) -> tuple[T5ForConditionalGeneration, TigerT5]:
    """The model and, where it is wrapped by adapters, the TigerT5 within; a TigerT5 over a plain T5's weights.

    A step has to pass through ``forward``: wrappers such as DistributedDataParallel see no other gradients.
    """
    base = adapter_base(model)
    if isinstance(base, TigerT5):
        return model, base
    if type(model) is T5ForConditionalGeneration:
        logger.warning(
            "TigerTrainer wraps this T5ForConditionalGeneration in a TigerT5 that shares its weights; "
            "TigerT5(t5_config(tokenizer)) makes one directly."
        )
        base = TigerT5.from_t5(model)
        return base, base
    raise TypeError(
        f"TigerTrainer trains a TigerT5, not a {type(model).__name__}: make one by TigerT5(t5_config(tokenizer)), or "
        "from a plain T5 by TigerT5.from_t5(model)"
    )


def _item_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return next_item_metrics(np.asarray(prediction.predictions), np.asarray(prediction.label_ids))
