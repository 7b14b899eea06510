"""The base of this library's trainers: options are refused by name, and training stops at numbers that are none."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from tiger.utils.errors import DataError
from tiger.utils.model_files import check_finite


@dataclass(frozen=True)
class Refusal:
    """An option of ``TrainingArguments`` that a trainer refuses.

    Args:
        option: its name; ``accelerator_config.split_batches`` is a field of an option.
        is_set: whether arguments ask for it.
        reason: why it is refused, and the remedy.
    """

    option: str
    is_set: Callable[[TrainingArguments], Any]
    reason: str


def _environment(name: str) -> bool:
    """Whether ``accelerate launch`` has set a switch."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def _accelerator(field: str) -> Callable[[TrainingArguments], Any]:
    return lambda args: getattr(args.accelerator_config, field, None)


# What no trainer of this library takes.
REFUSED: Sequence[Refusal] = (
    Refusal(
        "fsdp",
        lambda args: args.fsdp or _environment("ACCELERATE_USE_FSDP"),
        "evaluation and saving read all weights of a model, and these models fit on one device; start one process per "
        "device by accelerate launch --multi_gpu",
    ),
    Refusal(
        "deepspeed",
        lambda args: args.deepspeed or getattr(args, "deepspeed_plugin", None),
        "ZeRO splits weights that evaluation and saving read whole, and these models fit on one device; start one "
        "process per device by accelerate launch --multi_gpu",
    ),
    Refusal(
        "parallelism_config",
        lambda args: getattr(args, "parallelism_config", None),
        "a model is not split over devices; start one process per device by accelerate launch --multi_gpu",
    ),
    Refusal(
        "accelerator_config.split_batches",
        _accelerator("split_batches"),
        "each process makes batches of its own; leave it out, and divide per_device_train_batch_size by the number of "
        "processes",
    ),
    Refusal(
        "accelerator_config.dispatch_batches",
        _accelerator("dispatch_batches"),
        "each process reads the examples for itself, and batches of several shapes can't be sent; leave it out",
    ),
    Refusal(
        "accelerator_config.even_batches",
        lambda args: getattr(args.accelerator_config, "even_batches", True) is False,
        "processes with unequal numbers of batches would wait for each other for ever; leave it at true",
    ),
    Refusal(
        "label_smoothing_factor",
        lambda args: args.label_smoothing_factor,
        "the model computes the loss of its own targets; leave it out, dropout regularizes",
    ),
    Refusal(
        "gradient_checkpointing",
        lambda args: args.gradient_checkpointing or getattr(args, "activation_checkpointing", False),
        "the model's forward has no checkpoints in it; leave it out (activation_checkpointing too), and use smaller "
        "batches with gradient_accumulation_steps",
    ),
    Refusal(
        "use_liger_kernel",
        lambda args: args.use_liger_kernel,
        "there are no such kernels for this model's forward; leave it out",
    ),
    Refusal(
        "neftune_noise_alpha",
        lambda args: args.neftune_noise_alpha,
        "its noise expects one padded batch of input embeddings, and this model embeds tokens without padding and "
        "targets as well; leave it out",
    ),
    Refusal(
        "label_names",
        lambda args: args.label_names not in (None, ["labels"]),
        "batches name their targets labels; leave it out",
    ),
    Refusal(
        "train_sampling_strategy",
        lambda args: getattr(args, "train_sampling_strategy", "random") not in ("random", "group_by_length"),
        "batches are drawn anew in every epoch; leave it at random",
    ),
    Refusal(
        "dataloader_persistent_workers",
        lambda args: args.dataloader_persistent_workers and args.dataloader_num_workers == 0,
        "there are no workers to keep; set dataloader_num_workers as well, or leave it out",
    ),
    Refusal(
        "include_num_input_tokens_seen",
        lambda args: args.include_num_input_tokens_seen == "non_padding",
        "padding is not told from other tokens; set it to all",
    ),
)


def refuse(trainer: str, args: TrainingArguments, refusals: Sequence[Refusal]) -> None:
    """Raise an error for the first option that is asked for and not there.

    Raises:
        DataError: naming it, with the reason and the remedy.
    """
    for refusal in refusals:
        if refusal.is_set(args):
            raise DataError(f"{trainer} does not take {refusal.option}: {refusal.reason}.")


def refuse_optimizer(trainer: str, beside: str, args: TrainingArguments, options: Mapping[str, Any]) -> None:
    """Raise an error where something else chooses the optimizer beside what makes one of the library's own.

    Args:
        beside: what makes it, and what is made.
        options: arguments of ``Trainer`` beside ``args``.

    Raises:
        DataError: naming what chooses another.
    """
    optim = str(getattr(args.optim, "value", args.optim))
    chosen = {
        "optimizers": (options.get("optimizers") or (None, None))[0] is not None,
        "optimizer_cls_and_kwargs": options.get("optimizer_cls_and_kwargs") is not None,
        f"optim={optim}": optim not in ("adamw_torch", "adamw_torch_fused"),
        "optim_args": bool(args.optim_args),
    }
    for name in (name for name, is_set in chosen.items() if is_set):
        raise DataError(f"{trainer} does not take {name} beside {beside}: leave out the one or the other.")


def loader_options(args: TrainingArguments) -> dict[str, Any]:
    """Options of a ``DataLoader`` that ``TrainingArguments`` set: workers, pinned memory, prefetching."""
    options = {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
    }
    # Younger than the oldest transformers that the library takes.
    for name in ("multiprocessing_context", "in_order"):
        if (value := getattr(args, f"dataloader_{name}", None)) is not None:
            options[name] = value
    return options


class CheckedTrainer(Trainer):
    """``Trainer`` that refuses options by name, and NaN and infinite losses and weights.

    A loss that is no number ends the training with its step. Weights that are none are neither evaluated nor saved.

    Args:
        args: copied; None: ``Trainer``'s defaults. Examples here have no columns to remove, and a filter that hides
            losses which are no numbers would hide a divergence: ``remove_unused_columns`` and
            ``logging_nan_inf_filter`` are off in the copy.
        options: as for ``Trainer``.

    Raises:
        DataError: an option is refused.
    """

    refused: ClassVar[Sequence[Refusal]] = REFUSED
    remedy: ClassVar[str] = "Lower --learning_rate and start again."
    searched: ClassVar[Sequence[str]] = ()  # settings beside ``args`` that a hyperparameter search may set

    def __init__(self, args: TrainingArguments | None = None, **options: Any):
        args = TrainingArguments("tmp_trainer") if args is None else copy.copy(args)
        self.check_options(args)
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False
        self._first_bad: torch.Tensor | None = None  # float32 [2]: the first loss that is no number, and its step
        self._reads_every_step = args.device.type == "cpu"
        super().__init__(args=args, **options)
        self.label_names = ["labels"]

    def check_options(self, args: TrainingArguments) -> None:
        """Raise an error for an option that is asked for and not there: of a new trainer, and of a search's trial.

        Raises:
            DataError: naming it.
        """
        refuse(type(self).__name__, args, self.refused)

    def _hp_search_setup(self, trial: Any) -> None:
        """Set a trial's options, which are checked as those of a new trainer are."""
        if self.hp_search_backend is None or trial is None:
            super()._hp_search_setup(trial)
            return
        space = self.hp_space
        is_optuna = self.hp_search_backend == HPSearchBackend.OPTUNA
        values = dict(space(trial) if is_optuna else trial)
        for name in values.keys() & set(self.searched):
            setattr(self, name, values.pop(name))
        try:
            self.hp_space = lambda _: values
            super()._hp_search_setup(trial if is_optuna else values)
        finally:
            self.hp_space, self._trial = space, trial
        self.check_options(self.args)

    def train(self, *args: Any, **options: Any):
        self._first_bad = None
        return super().train(*args, **options)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """``Trainer``'s own; notes the first loss that is no number, and stops there.

        On an accelerator the note stays on the device until the next log or save: to read it after every step would
        make the host wait for each.

        Raises:
            DataError: naming the step.
        """
        loss = self.plain_step(model, inputs, num_items_in_batch)
        noted = torch.stack([loss.float(), torch.full_like(loss, self.state.global_step + 1, dtype=torch.float32)])
        if self._first_bad is None:
            self._first_bad = torch.zeros_like(noted)
        is_first = ~torch.isfinite(noted[0]) & (self._first_bad[1] == 0)
        self._first_bad = torch.where(is_first, noted, self._first_bad)
        if self._reads_every_step:
            self._stop_if_diverged()
        return loss

    def plain_step(self, model, inputs, num_items_in_batch) -> torch.Tensor:
        """Forward and backward of a batch: the loss, float []."""
        return super().training_step(model, inputs, num_items_in_batch).detach()

    def log(self, *args: Any, **options: Any) -> None:
        self._stop_if_diverged()
        super().log(*args, **options)

    def evaluation_loop(self, *args: Any, **options: Any):
        self._stop_if_diverged()
        check_finite(self._own_model(), "nothing is evaluated")
        return super().evaluation_loop(*args, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self._stop_if_diverged()
        check_finite(self._own_model(), f"{output_dir or self.args.output_dir} is not written")
        super().save_model(output_dir, _internal_call)

    def _own_model(self) -> torch.nn.Module:
        """The model without what training has wrapped around it."""
        assert self.model is not None
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _stop_if_diverged(self) -> None:
        if self._first_bad is None:
            return
        loss, step = self._first_bad.tolist()
        if step:
            raise DataError(f"the loss is {loss} at step {int(step)}: the training diverged. {self.remedy}")
