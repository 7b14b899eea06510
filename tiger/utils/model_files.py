"""Directories of transformers models that may come from a stranger: sizes are checked before anything is built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from tiger.utils.errors import DataError
from tiger.utils.json_files import check_regular, read_json
from tiger.utils.schema import Rule, check_fields, one_of, optional
from tiger.utils.tensor_files import FLOATS, check_tensors, read_header

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
# No training ends at weights of a million: products of a few of them are infinite.
LARGEST_WEIGHT = 1e6
_DTYPES = optional(one_of("float32", "float16", "bfloat16"))
_KINDS = {torch.bool: ("BOOL",), torch.int64: ("I64",)}
_INSTEAD = ("adapter_config.json", "model.safetensors.index.json")  # transformers would load what these name


def load_model(
    kind: type[PreTrainedModel],
    folder: str | os.PathLike,
    rules: Mapping[str, Rule],
    optional_rules: Mapping[str, Rule] | None = None,
    largest: float = LARGEST_WEIGHT,
    **options: Any,
) -> Any:
    """Read a model that ``save_pretrained`` wrote.

    Args:
        kind: the model's class.
        rules: for each field that its ``config.json`` must have.
        optional_rules: for fields that may be missing. What has no rule is left out.
        largest: that a weight may be.
        options: of ``from_pretrained``.

    Raises:
        DataError: a file is missing, no regular one, damaged, doesn't fit the config, or holds weights that are NaN,
            infinite or as good as infinite.
    """
    folder = Path(folder)
    assert kind.config_class is not None  # every model of ours names one
    config = read_config(kind.config_class, folder, rules, optional_rules or {})
    for name in _INSTEAD:
        if (folder / name).exists():
            raise DataError(f"{folder / name} is not read by this library: a model is one {WEIGHTS}. Remove it.")
    _check_weights(kind, folder / WEIGHTS, config)
    options = {"use_safetensors": True, "local_files_only": True} | options
    model = kind.from_pretrained(folder, config=config, **options)
    check_finite(model, str(folder / WEIGHTS), largest)
    return model


def read_config(
    kind: type[PreTrainedConfig],
    folder: Path,
    rules: Mapping[str, Rule],
    optional_rules: Mapping[str, Rule],
) -> PreTrainedConfig:
    """``config.json`` as a config of this kind, of the fields that have a rule.

    Raises:
        DataError: it is missing, damaged, another kind's, or breaks a rule.
    """
    file = folder / CONFIG
    content = read_json(file, max_bytes=MAX_CONFIG_BYTES)
    if content.get("model_type") not in (kind.model_type, *getattr(kind, "old_model_types", ())):
        raise DataError(f"{file} is no config of a {kind.model_type}.")
    both = {**rules, **optional_rules, "dtype": _DTYPES, "torch_dtype": _DTYPES}
    check_fields(content, rules, file, **{name: rule for name, rule in both.items() if name not in rules})
    try:
        return kind(**{name: value for name, value in content.items() if name in both})
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged ({' '.join(str(error).split())[:200]}).") from error


def _check_weights(kind: type[PreTrainedModel], file: Path, config: PreTrainedConfig) -> None:
    check_regular(file)
    header = read_header(file)
    try:
        with torch.device("meta"):  # shapes without memory
            expected = kind(config).state_dict()
    except (ValueError, TypeError, RuntimeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file.with_name(CONFIG)} can't be that of a {kind.__name__} ({reason}).") from error
    wanted = {name: (_KINDS.get(one.dtype, FLOATS), tuple(one.shape)) for name, one in expected.items()}
    tied = [name for name in wanted if name not in header.tensors and name in _tied(kind)]
    check_tensors(file, header, wanted, tied)


def _tied(kind: type[PreTrainedModel]) -> set[str]:
    """Names of weights that are others of the model and needn't be in its file."""
    return set(getattr(kind, "_tied_weights_keys", None) or ())


def check_finite(model: torch.nn.Module, source: str, largest: float = LARGEST_WEIGHT) -> None:
    """
    Raises:
        DataError: a weight is NaN, infinite, or so large that what is computed with it is infinite.
    """
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not bool((weight.abs() <= largest).all()):
            raise DataError(
                f"{source}: weights of {name} are NaN, infinite or beyond {largest:g}. The training diverged, "
                "or the file is damaged: train again with a lower learning rate."
            )
