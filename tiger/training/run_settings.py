"""Settings that make a training the run that it is, and folders that trainings may not share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from tiger.utils.errors import DataError

# Fields of TrainingArguments that don't change the model: what is written, said, pushed, and how fast it goes. All
# others do, those that later versions of transformers add among them.
_BESIDE = frozenset(
    """
    output_dir run_name project report_to disable_tqdm debug skip_memory_metrics do_train do_eval do_predict local_rank
    per_device_eval_batch_size prediction_loss_only eval_do_concat_batches eval_use_gather_object
    eval_accumulation_steps include_for_metrics batch_eval_metrics include_num_input_tokens_seen
    save_only_model save_on_each_node save_total_limit enable_jit_checkpoint resume_from_checkpoint
    restore_callback_states_from_checkpoint push_to_hub use_cpu use_cache full_determinism torch_empty_cache_steps
    gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context remove_unused_columns label_names length_column_name
    """.split()
)
_BESIDE_PREFIXES = ("logging_", "log_", "hub_", "trackio_", "ddp_")
# These choose which checkpoint is kept, or when to stop; without such a choice they change nothing.
_CHOOSING = frozenset(
    "eval_strategy eval_steps eval_delay eval_on_start metric_for_best_model greater_is_better bf16_full_eval "
    "fp16_full_eval save_strategy save_steps".split()
)
# Recorded with every model; of the others, those that differ from the defaults.
_ALWAYS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "bf16", "seed"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"),
)

# Settings that name a file or a folder, which may be called by another path and may move: what lies there is known by
# digests.
PLACES = frozenset({"dataset", "tokenizer", "embeddings", "init_from", "output_dir", "model_dir", "recommender"})


def model_settings(training: TrainingArguments, choosing: bool = False) -> dict[str, Any]:
    """The part of ``TrainingArguments`` on which the model depends, as JSON values.

    Args:
        choosing: evaluations choose when to stop, as ``load_best_model_at_end`` has them choose a checkpoint.
    """
    choosing = choosing or training.load_best_model_at_end
    values = {
        name: value
        for name, value in training.to_dict().items()
        if name not in _BESIDE
        and not name.startswith(_BESIDE_PREFIXES)
        and not name.startswith("_")
        and (choosing or name not in _CHOOSING)
    }
    return json.loads(json.dumps(values, default=str))


def recorded_settings(training: TrainingArguments) -> dict[str, Any]:
    """Settings that are recorded with a model: the main ones, and those that are no defaults."""
    defaults = {field.name: field.default for field in fields(training) if field.default is not MISSING}
    settings, accelerator = model_settings(training), AcceleratorConfig().to_dict()
    if all(accelerator.get(name) == value for name, value in settings["accelerator_config"].items()):
        del settings["accelerator_config"]  # Trainer fills in its defaults
    return {
        name: value
        for name, value in settings.items()
        if name in _ALWAYS or (value != defaults.get(name) and value is not None)
    }


def run_settings(args: Any, training: TrainingArguments, **more: Any) -> dict[str, Any]:
    """Settings that a resumed run can't change: how the model is trained, and what of.

    Args:
        args: a dataclass, :class:`tiger.training.retriever.RetrieverArguments`.
        training: the Trainer's settings.
        more: facts of the data and of the semantic IDs, JSON values by name.
    """
    settings = model_settings(training, choosing=bool(args.patience)) | asdict(args)
    del settings["model_dir"]
    return settings | more


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that a record has with another value, as ``name: before -> now``; of :data:`PLACES`, those that are
    given in one of both alone."""
    changed = {
        name: (before[name] is None) != (now[name] is None) if name in PLACES else before[name] != now[name]
        for name in now
        if name in before
    }
    return [f"{name}: {before[name]} -> {now[name]}" for name, other in changed.items() if other]


def check_folders(
    output_dir: str | os.PathLike, result: str | os.PathLike, tokenizer: str | os.PathLike, name: str
) -> None:
    """Refuse folders of which one would be lost, or stand in the way, when another is written.

    Args:
        output_dir: of checkpoints and logs.
        result: where the trained model goes, as a whole folder.
        tokenizer: that it is trained on.
        name: of the setting that ``result`` comes from.

    Raises:
        DataError: checkpoints would lie in ``result`` or the other way round where Trainer writes; or either lies in
            the tokenizer's folder, which goes when a tokenizer is fitted anew.
    """
    checkpoints, model, codes = (Path(folder).resolve() for folder in (output_dir, result, tokenizer))
    if checkpoints.is_relative_to(model):
        raise DataError(
            f"--output_dir {output_dir} lies in --{name} {result}, which is written as a whole when the training is "
            f"over: give checkpoints a folder beside it."
        )
    first = model.relative_to(checkpoints).parts[0] if model.is_relative_to(checkpoints) else ""
    if first == "runs" or first.startswith("checkpoint-"):
        raise DataError(
            f"--{name} {result} lies where checkpoints and logs of --output_dir go: give it a folder beside them."
        )
    for option, given, folder in (("output_dir", output_dir, checkpoints), (name, result, model)):
        if folder.is_relative_to(codes):
            raise DataError(
                f"--{option} {given} lies in the tokenizer's folder {tokenizer}, which goes when a tokenizer is "
                "fitted anew: give a folder beside it."
            )
