"""Options of the retriever's trainer: what it refuses, and checks that model, examples and settings fit together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch.utils.data import Dataset
from transformers import T5ForConditionalGeneration, TrainingArguments

from tiger.retriever.config import is_causal, retriever_config
from tiger.retriever.dataset import EvaluationExamples, TrainingExamples, example_array, examples_within
from tiger.retriever.layer_weights import adapter_base
from tiger.retriever.model import TigerT5
from tiger.semantic_ids.vocabulary import PREFIX_KINDS
from tiger.utils.errors import DataError
from tiger.utils.trainer import REFUSED, Refusal

logger = logging.getLogger(__name__)

RETRIEVER_REFUSED: Sequence[Refusal] = (
    *REFUSED,
    Refusal(
        "dataloader_drop_last",
        lambda args: args.dataloader_drop_last,
        "the last batch holds the longest histories, which would never be trained on or measured; leave it out",
    ),
    Refusal(
        "eval_use_gather_object",
        lambda args: args.eval_use_gather_object,
        "answers are tensors of one width; leave it out",
    ),
)


def check_graphs(args: TrainingArguments, tokens: str) -> None:
    """Check that CUDA graphs can replay the training steps.

    Args:
        tokens: the tokenizer's kind.

    Raises:
        DataError: a setting that they can't replay.
    """
    if tokens in PREFIX_KINDS:
        raise DataError(f"cuda_graphs needs batches of few shapes, which tokens: {tokens} don't make: turn it off.")
    several = args.world_size > 1 or args.n_gpu > 1 or args.gradient_accumulation_steps > 1
    if several or args.fp16 or args.torch_compile or args.auto_find_batch_size:
        raise DataError(
            "cuda_graphs works on one GPU, without gradient accumulation, fp16 (use bf16), torch_compile and "
            "auto_find_batch_size: turn it or them off."
        )


def check_examples(dataset: Dataset | None, kind: type, name: str) -> None:
    """Check that a dataset holds examples of the library's.

    Args:
        dataset: examples, a ``Subset`` of them, or a ``ConcatDataset``; None: there is none.
        kind: :class:`TrainingExamples` or :class:`EvaluationExamples`.
        name: of the argument.

    Raises:
        DataError: it holds something else.
    """
    for part in () if dataset is None else examples_within(dataset):
        if not isinstance(part, kind):
            raise DataError(
                f"{name} is of a {type(part).__name__}, TigerTrainer reads {kind.__name__}: make them from Sequences, "
                "and take part of them by torch.utils.data.Subset."
            )


def check_model(model: TigerT5, train: Dataset | None, evaluation: list[Dataset]) -> None:
    """Check that a model and examples belong together.

    Raises:
        ValueError: examples share histories that the model reads as a whole, or are for another number of user tokens.
    """
    if train is not None and example_array(train, "num_targets").max(initial=0) > 1 and not is_causal(model):
        raise ValueError(
            "this model's history_attention is 'full', so examples can't share a history: "
            "use TrainingExamples(..., shared=False) or t5_config(..., history_attention='causal')"
        )
    wanted = retriever_config(model).user_tokens
    for dataset in evaluation if train is None else [train, *evaluation]:
        for examples in examples_within(dataset):
            if examples.user_tokens != wanted:
                raise ValueError(
                    f"the model has {wanted} user tokens, the {type(examples).__name__} are for "
                    f"{examples.user_tokens}: make them with user_tokens={wanted}"
                )


def tiger_t5(model: T5ForConditionalGeneration) -> tuple[T5ForConditionalGeneration, TigerT5]:
    """The model and, where it is wrapped by adapters, the TigerT5 within; a TigerT5 over a plain T5's weights.

    A step has to pass through ``forward``: wrappers such as DistributedDataParallel see no other gradients.

    Raises:
        TypeError: it is neither.
        DataError: the adapter is a prompt.
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


def max_history_of(*datasets: Dataset | None) -> int | None:
    """Number of history items that the first of these examples give the model; None where there are none."""
    for dataset in datasets:
        for examples in () if dataset is None else examples_within(dataset):
            if isinstance(examples, TrainingExamples | EvaluationExamples):
                return examples.max_history
    return None
