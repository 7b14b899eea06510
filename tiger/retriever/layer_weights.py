"""Weights of a T5's layers, whatever computes them: plain layers, or others that adapters or quantization put there.

An adapter (LoRA and its kin) wraps a linear layer, whose own weight then is not what is computed. The weight that is,
a wrapped layer tells when it is given the rows of an identity matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm

from tiger.utils.errors import DataError

MERGE = "Merge adapters into the weights first (model = model.merge_and_unload()), and load without quantization."
_PLAIN = (torch.Tensor, nn.Parameter)
# The names of a T5's layers with weights.
_SLOTS = frozenset("q k v o wi wi_0 wi_1 wo shared embed_tokens lm_head relative_attention_bias".split())
_NORMS = frozenset(("layer_norm", "final_layer_norm"))


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes with its ``weight``, as it stands there."""
    known = type(layer) in (nn.Linear, nn.Embedding) or isinstance(layer, T5LayerNorm)
    return known and type(layer.weight) in _PLAIN


class LayerList:
    """The layers of a T5 that have weights, to see without a walk over the model whether one is another now.

    Attributes:
        wrapped: the first that is no plain one; None: all are.
    """

    def __init__(self, model: nn.Module):
        self._places = [
            (owner._modules, name, layer, layer._parameters.get("weight"))
            for owner in model.modules()
            for name, layer in owner._modules.items()
            if layer is not None and name in _SLOTS | _NORMS
        ]
        self.wrapped: nn.Module | None = next((layer for _, _, layer, _ in self._places if not is_plain(layer)), None)

    @property
    def is_current(self) -> bool:
        return all(
            layers.get(name) is layer and layer._parameters.get("weight") is weight
            for layers, name, layer, weight in self._places
        )


def refuse_wrapped_layers(model: nn.Module, problem: str) -> None:
    """Raise an error for a model whose layers are wrapped or quantized: its weights alone are not the model.

    Raises:
        DataError: naming the kind of layer.
    """
    if (layer := LayerList(model).wrapped) is not None:
        raise DataError(f"{problem}: the model has layers of the type {type(layer).__name__}. {MERGE}")


def linear_weight(layer: nn.Module, size: int, like: torch.Tensor) -> torch.Tensor:
    """The matrix [out, in] by which a layer multiplies, without dropout.

    Args:
        layer: linear, plain or not.
        size: its number of inputs.
        like: a tensor of the dtype and on the device of its inputs.

    Raises:
        DataError: it computes nothing of the kind.
    """
    if is_plain(layer):
        return layer.weight  # type: ignore[return-value]
    with _computed(layer):
        rows = torch.cat([torch.eye(size), torch.zeros(1, size)]).to(like)
        columns = layer(rows)
        if columns[-1].any():
            raise ValueError("it adds a bias, which T5 has none of")
        return columns[:-1].T.contiguous()


def embedding_weight(layer: nn.Module, rows: int, like: torch.Tensor) -> torch.Tensor:
    """The table [rows, d] of an embedding layer, plain or not.

    Raises:
        DataError: it computes nothing of the kind.
    """
    if is_plain(layer):
        return layer.weight  # type: ignore[return-value]
    with _computed(layer):
        return layer(torch.arange(rows, device=like.device))


def norm_weight(layer: Any) -> torch.Tensor:
    """The gain of a norm.

    Raises:
        DataError: it is no norm of a T5.
    """
    if not isinstance(layer, T5LayerNorm):
        raise DataError(f"a norm of the type {type(layer).__name__} is not searched with. {MERGE}")
    return layer.weight


@contextmanager
def _computed(layer: nn.Module) -> Iterator[None]:
    """A layer asked for its weight: without dropout, and with an error that names it."""
    training = [part for part in layer.modules() if part.training]
    try:
        layer.eval()
        yield
    except Exception as error:  # whatever a quantized layer says of inputs that it was not made for
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"a layer of the type {type(layer).__name__} can't be searched with ({reason}). {MERGE}"
        ) from error
    finally:
        for part in training:
            part.training = True


def adapter_base(model: Any) -> T5ForConditionalGeneration:
    """The model within the wrapper of an adapter library, or the model itself.

    Raises:
        DataError: the adapter is a prompt, not part of the layers.
    """
    if not hasattr(model, "get_base_model"):
        return model
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise DataError(
            f"an adapter of the type {getattr(config, 'peft_type', 'prompt')} writes prompts, which the search does "
            "not read. Take one of the layers, such as LoRA."
        )
    return model.get_base_model()
