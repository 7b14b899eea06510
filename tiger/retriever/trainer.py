"""The ``Trainer`` of the retriever; its evaluation decodes items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import T5ForConditionalGeneration, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from tiger._moved import old_names
from tiger.evaluation.metrics import next_item_metrics
from tiger.retriever.beam_search import beam_search
from tiger.retriever.config import check_pair, note_learned_tokens, reads_users, sums_items, uses_child_softmax
from tiger.retriever.data_collator import EvaluationCollator, TrainingCollator, child_targets
from tiger.retriever.dataset import EvaluationExamples, LengthBatchSampler, TrainingExamples, example_array
from tiger.retriever.layer_weights import adapter_base
from tiger.retriever.model import next_item_loss
from tiger.retriever.optimizer import MuonAdamW
from tiger.retriever.trainer_options import (
    RETRIEVER_REFUSED,
    check_examples,
    check_graphs,
    check_model,
    tiger_t5,
)
from tiger.retriever.training_graph import TrainingGraphs
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.semantic_ids.vocabulary import PAD_TOKEN, PREFIX_KINDS
from tiger.utils.errors import DataError
from tiger.utils.trainer import CheckedTrainer, loader_options, refuse_optimizer


class RetrieverTrainer(CheckedTrainer):
    """``Trainer`` for next-item generation; :class:`tiger.TigerTrainer` saves whole recommenders as well.

    Training batches hold examples of one length, and about ``per_device_train_batch_size`` *targets* each. Evaluation
    decodes under the prefix trie and reports ``recall@5``, ``ndcg@5``, ``recall@10`` and ``ndcg@10`` of items beside
    the loss.

    Args:
        model: a :class:`tiger.retriever.model.TigerT5` made from :func:`t5_config`. A plain
            ``T5ForConditionalGeneration`` is wrapped by ``TigerT5.from_t5``, which shares its weights; this is logged.
            One within adapters of PEFT's layers (``get_peft_model``) is trained and evaluated with them.
            None: ``model_init`` makes one, for every call of ``train``.
        args: as for ``Trainer``, copied; ``metric_for_best_model="ndcg@10"`` selects the best checkpoint by decoding.
        train_dataset: :class:`TrainingExamples`, or a ``Subset`` or ``ConcatDataset`` of them.
        eval_dataset: :class:`EvaluationExamples` likewise, or a dictionary of several by name.
        processing_class: the tokenizer, saved with every checkpoint.
        num_beams: beams in evaluation.
        exclude_history: whether evaluation leaves out items of the history.
        embedding_learning_rate: learning rate of the token embeddings; None: ``args.learning_rate``. T5's embeddings
            start with unit variance: steps of the size that suits its matrices hardly move them.
        muon_learning_rate: learning rate of the matrices, trained by Muon (:class:`MuonAdamW`); None: AdamW for all
            weights.
        cuda_graphs: replay forward and backward as CUDA graphs (:class:`TrainingGraphs`), several times faster where
            the model is small; ignored on other devices.
        data_collator: makes training batches, the arguments of :func:`next_item_loss`; default:
            :class:`TrainingCollator`. Evaluation has a collator of its own.
        compute_metrics: of an ``EvalPrediction`` with the recommended rows, int64 [users, 10], -1 where there is none,
            and the target rows, int64 [users]; default: recall and NDCG.
        options: other arguments of ``Trainer``.

    Raises:
        TypeError: the model is neither a ``TigerT5`` nor a plain T5.
        ValueError: model and tokenizer, or model and examples, don't belong together.
        DataError: an option is not supported; the message has the reason and the remedy.
    """

    refused = RETRIEVER_REFUSED
    remedy = "Lower --learning_rate / --muon_learning_rate and start again."
    searched = ("embedding_learning_rate", "muon_learning_rate")

    def __init__(
        self,
        model: T5ForConditionalGeneration | None = None,
        args: TrainingArguments | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        processing_class: SemanticIdTokenizer | None = None,
        num_beams: int = 20,
        exclude_history: bool = True,
        embedding_learning_rate: float | None = None,
        muon_learning_rate: float | None = None,
        cuda_graphs: bool = False,
        data_collator: Callable[[list[dict]], dict] | None = None,
        compute_metrics: Callable[..., dict] | None = None,
        **options,
    ):
        if processing_class is None:
            raise ValueError("TigerTrainer needs the SemanticIdTokenizer as processing_class")
        if options.get("compute_loss_func") is not None:
            raise DataError(
                "TigerTrainer does not take compute_loss_func: the model computes its own loss; leave it out."
            )
        args = TrainingArguments("tmp_trainer") if args is None else args
        self._chosen_optimizer = {name: options.get(name) for name in ("optimizers", "optimizer_cls_and_kwargs")}
        self._wants_graphs = cuda_graphs
        prefixes = processing_class.tokens in PREFIX_KINDS
        evaluation = list(eval_dataset.values()) if isinstance(eval_dataset, Mapping) else [eval_dataset]
        check_examples(train_dataset, TrainingExamples, "train_dataset")
        for examples in evaluation:
            check_examples(examples, EvaluationExamples, "eval_dataset")
        self._tokenizer = processing_class
        self._known_examples = (train_dataset, [examples for examples in evaluation if examples is not None])
        self.num_beams = num_beams
        self.exclude_history = exclude_history
        self.embedding_learning_rate = embedding_learning_rate
        self.muon_learning_rate = muon_learning_rate
        trie = SemanticIdTrie.build(processing_class.token_table)
        self._trie = trie.to(args.device)
        self._collator = TrainingCollator(processing_class, trie if prefixes else None)
        self._eval_collator = EvaluationCollator(processing_class)
        self._eval_loaders: dict[str, DataLoader] = {}  # with the workers that are kept
        self._uses_graphs = cuda_graphs and args.device.type == "cuda"
        self._graphs: TrainingGraphs | None = None
        super().__init__(
            model=None if model is None else self._checked(model),
            args=args,
            data_collator=data_collator or self._collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics or ItemMetrics(),
            **options,
        )

    def check_options(self, args: TrainingArguments) -> None:
        """:meth:`CheckedTrainer.check_options`, and what makes the optimizer, CUDA graphs and several GPUs."""
        super().check_options(args)
        if self.embedding_learning_rate is not None or self.muon_learning_rate is not None:
            rates = "embedding_learning_rate or muon_learning_rate, which make an optimizer (AdamW, Muon for matrices)"
            refuse_optimizer("TigerTrainer", rates, args, self._chosen_optimizer)
        if self._wants_graphs:
            check_graphs(args, self._tokenizer.tokens)
        if args.n_gpu > 1 and self._tokenizer.tokens in PREFIX_KINDS:
            raise DataError(
                "a model with prefix tokens can't be spread over GPUs within one process: use accelerate launch."
            )

    def _checked(self, model: T5ForConditionalGeneration) -> T5ForConditionalGeneration:
        model, base = tiger_t5(model)
        check_pair(base, self._tokenizer)
        check_model(base, *self._known_examples)
        self._collator.sums_items = sums_items(base)
        return model

    def call_model_init(self, trial=None) -> T5ForConditionalGeneration:
        """The model that ``model_init`` makes, checked as a given one is."""
        return self._checked(cast(T5ForConditionalGeneration, super().call_model_init(trial)))

    def train(self, *args: Any, **options: Any):
        self._graphs = None  # of a model that may be another one now
        note_learned_tokens(adapter_base(self.accelerator.unwrap_model(self.model)))
        return super().train(*args, **options)

    def plain_step(self, model, inputs, num_items_in_batch) -> torch.Tensor:
        """``Trainer``'s own, or a CUDA graph's."""
        if self._uses_graphs:
            return self._graph_step(model, inputs, num_items_in_batch)
        return super().plain_step(model, inputs, num_items_in_batch)

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

    def _issue_warnings_after_load(self, load_result) -> None:
        """``Trainer``'s own, but not of tied weights, which a checkpoint holds once."""
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """``Trainer``'s own, unless the embeddings or the matrices have their own learning rate."""
        if self.optimizer is not None or (self.embedding_learning_rate is None and self.muon_learning_rate is None):
            return super().create_optimizer(model)
        args = self.args
        model = self.accelerator.unwrap_model(self.model if model is None else model)  # of several processes' wrapper
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
        rate = self.embedding_learning_rate  # 0 is a rate too: the embeddings stay
        groups: list[dict[str, Any]] = [
            {"params": embeddings, "lr": args.learning_rate if rate is None else rate},
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
        # Not args.train_batch_size: auto_find_batch_size and a search change this one.
        batch_size = self._train_batch_size
        dataset = cast(Dataset, self.train_dataset)
        sampler = LengthBatchSampler(dataset, batch_size, seed=seed, multiple_of=self.args.world_size)
        loader: DataLoader = DataLoader(
            dataset, batch_sampler=sampler, collate_fn=self.data_collator, **loader_options(self.args)
        )
        # The sampler already gives all processes the same number of batches; in evaluation, accelerate does.
        self.accelerator.even_batches = False
        prepared = self.accelerator.prepare(loader)
        self.accelerator.even_batches = True
        # A resumed epoch wraps the loader once more, and Trainer's set_epoch would then not reach the sampler.
        prepared.batch_sampler.set_epoch = sampler.set_epoch
        return prepared

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        name = eval_dataset if isinstance(eval_dataset, str) else ""
        own = eval_dataset is None or isinstance(eval_dataset, str)
        if own and name in self._eval_loaders:
            return self._eval_loaders[name]
        examples: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            examples = cast(Any, self.eval_dataset)[eval_dataset]
        if examples is None:
            raise ValueError("evaluation needs an eval_dataset")
        check_examples(examples, EvaluationExamples, "eval_dataset")
        # Metrics don't depend on the order: take the one with the least padding.
        order = np.argsort(-example_array(examples, "history_lengths"), kind="stable")
        loader = self._evaluation_loader(examples, order.tolist(), keeps_workers=own)
        if own and self.args.dataloader_persistent_workers:
            self._eval_loaders[name] = loader
        return loader

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        check_examples(test_dataset, EvaluationExamples, "test_dataset")
        return self._evaluation_loader(test_dataset, range(len(cast(Any, test_dataset))))

    def _evaluation_loader(self, examples: Dataset, order: Sequence[int], keeps_workers: bool = False) -> DataLoader:
        options = loader_options(self.args)
        options["persistent_workers"] = options["persistent_workers"] and keeps_workers
        loader: DataLoader = DataLoader(
            examples, batch_size=self.args.eval_batch_size, sampler=order, collate_fn=self._eval_collator, **options
        )
        return self.accelerator.prepare(loader)

    def evaluation_loop(self, *args: Any, **options: Any):
        if isinstance(self.compute_metrics, ItemMetrics):
            self.compute_metrics.forget()  # what an evaluation that was cut short has left
        return super().evaluation_loop(*args, **options)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluate one batch: its loss, the recommended rows [B, 10] and the target rows [B]; the loss alone where
        nothing else is asked for."""
        inputs = self._prepare_inputs(inputs)
        model = adapter_base(self.accelerator.unwrap_model(model))
        targets = inputs["labels"]
        tokenizer = self._tokenizer
        labels = torch.from_numpy(tokenizer.encode(targets.cpu().numpy())).to(targets.device)
        items = inputs["input_ids"][:, int(reads_users(model)) :]
        num_visible_items = items.ne(PAD_TOKEN).sum(-1, keepdim=True) // tokenizer.history_depth
        children = child_targets(self._trie, targets, sums_items(model)) if uses_child_softmax(model) else None
        with torch.no_grad(), self.accelerator.autocast():
            loss = next_item_loss(
                model, inputs["input_ids"], num_visible_items, labels.unsqueeze(1), children=children
            )
            if prediction_loss_only:
                return loss, None, None
            beams = beam_search(
                model,
                self._trie,
                inputs["input_ids"],
                num_beams=self.num_beams,
                k=10,
                excluded=inputs["seen"] if self.exclude_history else None,
            )
        return loss, beams.rows.clone(), targets


class ItemMetrics:
    """Recall and NDCG of an evaluation's answers, which come at once or batch by batch (``batch_eval_metrics``)."""

    def __init__(self) -> None:
        self._batches: list[tuple[np.ndarray, np.ndarray]] = []

    def forget(self) -> None:
        """Begin anew."""
        self._batches = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Metrics of all batches since the last result; none before ``compute_result``."""
        self._batches.append((_joined(prediction.predictions), _joined(prediction.label_ids)))
        if not compute_result:
            return {}
        rows, targets = (np.concatenate(parts) for parts in zip(*self._batches))
        self.forget()
        return next_item_metrics(rows, targets)


def _joined(values: Any) -> np.ndarray:
    """Tensors or arrays, or a list of one per batch (``eval_do_concat_batches=False``), as one array."""
    if isinstance(values, list | tuple):
        return np.concatenate([_joined(part) for part in values])
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
