"""Plain T5s over a retriever's weights: where one computes the same, and where it does not."""

from __future__ import annotations

import copy
import os
from typing import TypeVar

import torch
from transformers import T5Config, T5ForConditionalGeneration

from tiger.retriever.config import is_causal, reads_users, retriever_config, sums_items, uses_child_softmax
from tiger.retriever.layer_weights import refuse_wrapped_layers
from tiger.retriever.recency import recency_table
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError

T = TypeVar("T", bound=T5ForConditionalGeneration)


def over_modules_of(model: T5ForConditionalGeneration, kind: type[T], config: T5Config) -> T:
    """A T5 of another class over the same modules."""
    with torch.device("meta"):  # no memory for weights that are dropped at once
        shared = kind(config)
    for name, module in model.named_children():
        setattr(shared, name, module)
    shared.generation_config = model.generation_config
    return shared.train(model.training)


def unlike_t5(model: T5ForConditionalGeneration) -> list[str]:
    """Why a plain T5 with these weights gives other probabilities; empty: it gives the same."""
    hashed = retriever_config(model).hashed_rows > 0
    reasons = {
        "an item of the history attends to earlier items only (history_attention: causal)": is_causal(model),
        "its tokens are prefixes, each normalized among its siblings (tokens: prefixes)": uses_child_softmax(model)
        and not hashed,
        "the probability of a first token is the sum over its items (output_softmax: items)": sums_items(model),
        "a token's vector has hashed rows of the prefix that it ends (tokens: hashed_prefixes)": hashed,
        "attention to the history has a bias for the last items (recent_items)": recency_table(model) is not None,
        "users have tokens, which are inputs only (user_tokens)": reads_users(model),
    }
    return [reason for reason, applies in reasons.items() if applies]


def export_t5(model: T5ForConditionalGeneration, folder: str | os.PathLike) -> None:
    """Write a plain T5, see :meth:`tiger.retriever.model.TigerT5.export_t5`."""
    if reasons := unlike_t5(model):
        raise DataError(
            f"{folder} is not written: a plain T5 computes other probabilities from these weights, for "
            f"{'; '.join(reasons)}. Import tiger and load the model with AutoModelForSeq2SeqLM, or train one with "
            "history_attention: full, tokens: codes, recent_items: 0 and no user_tokens."
        )
    refuse_wrapped_layers(model, f"{folder} is not written")
    config = copy.deepcopy(model.config)
    config.__class__ = T5Config  # its own config has no fields beside a T5's
    config.__dict__.pop("tiger_config", None)
    config.use_cache = True
    with disk_errors(folder, sum(weight.nbytes for weight in model.parameters())):
        over_modules_of(model, T5ForConditionalGeneration, config).save_pretrained(folder)
