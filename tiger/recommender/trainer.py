"""The ``Trainer`` of a recommender's T5: what it saves and pushes is a whole recommender."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from huggingface_hub import CommitInfo
from torch.utils.data import Dataset
from transformers import T5ForConditionalGeneration, TrainingArguments

from tiger.embeddings.base import ItemEncoder
from tiger.embeddings.item_text import item_texts
from tiger.recommender.checkpoint import check_weights
from tiger.recommender.hub import PushOptions
from tiger.recommender.manifest import MODEL
from tiger.recommender.recommender import TigerRecommender
from tiger.recommender.state import RecommenderState
from tiger.retriever.layer_weights import MERGE, adapter_base
from tiger.retriever.trainer import RetrieverTrainer
from tiger.retriever.trainer_options import RETRIEVER_REFUSED, max_history_of
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.utils.errors import DataError
from tiger.utils.hub import create_repository
from tiger.utils.trainer import Refusal

logger = logging.getLogger(__name__)


REFUSED: Sequence[Refusal] = (
    *RETRIEVER_REFUSED,
    Refusal(
        "hub_strategy",
        lambda args: args.push_to_hub and args.hub_strategy in ("checkpoint", "all_checkpoints"),
        "what is pushed is a recommender, without the optimizer's state; set it to every_save or end",
    ),
)


class TigerTrainer(RetrieverTrainer):
    """``Trainer`` for next-item generation; ``save_model`` and ``push_to_hub`` write whole recommenders.

    Training batches hold examples of one length, and about ``per_device_train_batch_size`` *targets* each. Evaluation
    decodes under the prefix trie and reports ``recall@5``, ``ndcg@5``, ``recall@10`` and ``ndcg@10`` of items beside
    the loss. A recommender needs the model and the tokenizer, which every trainer has; with an encoder it takes new
    items by their texts, with an item table it knows titles.

    Args:
        model: a :class:`tiger.TigerT5` made from :func:`tiger.t5_config`, or a plain ``T5ForConditionalGeneration``,
            which is wrapped; None: ``model_init`` makes one, for every call of ``train``.
        args: as for ``Trainer``, copied; docs/training.md says which options work.
        train_dataset: :class:`tiger.TrainingExamples`, or a ``Subset`` or ``ConcatDataset`` of them.
        eval_dataset: :class:`tiger.EvaluationExamples` likewise, or a dictionary of several by name.
        processing_class: the tokenizer, saved with every checkpoint.
        items: the item table, a row per item in the tokenizer's order; None: none is saved.
        encoder: of the items' texts; None: none is saved.
        template: columns that make an item's text, see :func:`tiger.item_texts`.
        options: ``num_beams``, ``muon_learning_rate`` and the other arguments of
            :class:`tiger.retriever.trainer.RetrieverTrainer` and of ``Trainer``.

    Raises:
        TypeError: the model is neither a ``TigerT5`` nor a plain T5.
        ValueError: model and tokenizer, model and examples, or tokenizer and items don't belong together.
        DataError: an option is not supported; the message has the reason and the remedy.
    """

    refused = REFUSED

    def __init__(
        self,
        model: T5ForConditionalGeneration | None = None,
        args: TrainingArguments | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        processing_class: SemanticIdTokenizer | None = None,
        *,
        items: pa.Table | None = None,
        encoder: ItemEncoder | None = None,
        template: str | None = None,
        **options: Any,
    ):
        self._items, self._encoder, self._template = items, encoder, template
        if args is not None and args.push_to_hub and model is not None and adapter_base(model) is not model:
            raise DataError(f"TigerTrainer does not take push_to_hub with adapters. {MERGE}")
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **options)
        self._checked_state()  # parts that don't belong together are told before the training
        if items is not None and template is not None:
            item_texts(items.slice(0, 1), template, required=False)

    def recommender(self) -> TigerRecommender:
        """The recommender with the weights as they are now."""
        recommender = TigerRecommender.from_state(self._checked_state())
        recommender.model.eval()
        return recommender

    def _checked_state(self) -> RecommenderState:
        trained = self.state
        record = {
            "seed": self.args.seed,
            "processes": self.args.world_size,
            "epochs": round(trained.epoch or 0.0, 2),
            "steps": trained.global_step,
            "best_step": trained.best_global_step,
            "exclude_history": self.exclude_history,
        }
        if self._template is not None:
            record["template"] = self._template
        given, evaluated = self._known_examples
        model: Any = adapter_base(self._own_model())
        max_history = max_history_of(given, *evaluated) or 20
        state = RecommenderState(
            model, self._tokenizer, self._encoder, self._items, max_history=max_history, training=record
        )
        state.check()
        return state

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what :meth:`tiger.TigerRecommender.from_pretrained` opens.

        Args:
            output_dir: None, or ``args.output_dir``, where checkpoints are: the folder ``model`` in it. Either
                name opens it.
            _internal_call: of ``Trainer``'s own, for a checkpoint: the T5 and the tokenizer.

        Of a model within adapters, the adapters are written and the tokenizer, as ``Trainer`` does; merged into the
        model (``merge_and_unload``), they make a recommender.

        Raises:
            DataError: weights are NaN or infinite.
            FileExistsError: the folder holds something else.
        """
        own_model = self._own_model()
        if _internal_call or adapter_base(cast(Any, own_model)) is not own_model:
            super().save_model(output_dir, _internal_call=True)
            return
        self._stop_if_diverged()
        own = Path(str(self.args.output_dir))
        folder = own if output_dir is None else Path(output_dir)
        if self.args.should_save:
            self.recommender().save_pretrained(folder / MODEL if folder.resolve() == own.resolve() else folder)
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save")

    def push_to_hub(  # type: ignore[override]  # nothing is left to wait for
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **options: Any,
    ) -> CommitInfo | None:
        """Publish what :meth:`tiger.TigerRecommender.from_pretrained` opens, with a model card.

        Args:
            commit_message: the commit's.
            blocking: has to be true.
            token, revision, private: None: ``hub_token``, ``hub_revision`` and ``hub_private_repo`` of ``args``.
            options: other fields of :class:`tiger.recommender.hub.PushOptions`, such as ``include_items``.

        Returns:
            The commit; None in processes other than the first.

        Raises:
            DataError: see :meth:`tiger.TigerRecommender.push_to_hub`; weights are NaN or infinite; or an option that
                there is not.
        """
        if not blocking:
            raise DataError("TigerTrainer.push_to_hub does not take blocking=False: push in a thread of your own.")
        if unknown := options.keys() - PushOptions.__dataclass_fields__.keys():
            known = ", ".join(sorted(PushOptions.__dataclass_fields__))
            raise DataError(f"TigerTrainer.push_to_hub does not take {', '.join(sorted(unknown))}: give {known}.")
        self._stop_if_diverged()
        check_weights(self._own_model(), "nothing is pushed")
        args = self.args
        self.callback_handler.on_push_begin(args, self.state, self.control)
        if not self.is_world_process_zero():
            return None
        return self.recommender().push_to_hub(
            self.hub_model_id or self._repository_name(),
            commit_message=commit_message or "Upload a tiger recommender",
            token=token if token is not None else args.hub_token,
            revision=revision if revision is not None else args.hub_revision,
            private=private if private is not None else args.hub_private_repo,
            **options,
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make sure, before the training, that there is a repository to push to.

        Raises:
            DataError: there is no right to write, no token or no connection.
        """
        if self.is_world_process_zero():
            private = self.args.hub_private_repo if private is None else private
            made: Any = create_repository(self._repository_name(), private, token or self.args.hub_token)
            self.hub_model_id = made  # ``Trainer`` starts it as None and leaves its type at that

    def _repository_name(self) -> str:
        return self.args.hub_model_id or Path(str(self.args.output_dir)).resolve().name

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the recommender whenever a checkpoint is saved, where ``hub_strategy`` says so."""
        if self.args.hub_strategy != "every_save" or not self.is_world_process_zero():
            return
        try:
            self.push_to_hub(commit_message=f"Training in progress, step {self.state.global_step}")
        except DataError as error:  # the training is worth more than one push of many
            logger.warning("step %d is not pushed: %s", self.state.global_step, error)
