"""Next items by transformers' own ``generate``: the retriever's attention and softmax inside T5's forward.

``generate(prefix_allowed_tokens_fn=...)`` of a :class:`tiger.retriever.model.TigerT5` finds what
:func:`tiger.retriever.beam_search.beam_search` finds, more slowly; models that T5's forward can't compute refuse it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import (
    history_places,
    is_causal,
    item_vocabulary,
    pad_token,
    reads_users,
    retriever_config,
    sums_items,
    uses_child_softmax,
)
from tiger.retriever.hashed_prefixes import HashedPrefixes
from tiger.utils.errors import DataError


def history_mask(model: T5ForConditionalGeneration, tokens: torch.Tensor | None) -> torch.Tensor | None:
    """Which tokens of histories are no padding; an empty history keeps one, so that softmax has something to read.

    Args:
        tokens: int64 [B, S]; None: not known.

    Returns:
        bool [B, S].
    """
    if tokens is None:
        return None
    mask = tokens.ne(pad_token(model))
    mask[:, 0] = True
    return mask


class HistoryEncoder(nn.Module):
    """A T5's encoder in which an item attends to itself and to earlier items.

    Args:
        model: whose encoder it is; its modules are used, not copied.
    """

    main_input_name = "input_ids"

    def __init__(self, model: T5ForConditionalGeneration):
        super().__init__()
        self.encoder = model.encoder
        object.__setattr__(self, "_model", model)  # no submodule: the encoder is one already

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **options):
        """As of a T5's encoder; ``attention_mask`` bool or int [B, S], or [B, 1, S, S], which is taken as it is."""
        model: Any = self._model
        given = input_ids if inputs_embeds is None else inputs_embeds
        hashed = HashedPrefixes.of(model)
        depth = retriever_config(model).history_item_length if hashed is None else 1
        if hashed is not None and inputs_embeds is None:
            items, input_ids = hashed.items(input_ids), None
            given = inputs_embeds = hashed.item_vectors(model.shared, items)
            mask = history_mask(model, items[..., 0])  # one place per item
        else:
            mask = history_mask(model, input_ids) if attention_mask is None else attention_mask
        if mask is None or mask.ndim == 2:
            if depth is None:
                raise DataError("the model's config lacks history_item_length: give it, tokens per item of a history.")
            places = history_places(given.shape[1], depth, reads_users(model), given.device)
            allowed = ((places <= places[:, None]) | (not is_causal(model)))[None, None]
            if mask is not None:
                allowed = allowed & mask.bool()[:, None, None, :]
            dtype = model.shared.weight.dtype
            # As numbers to add: T5's attention adds what it is given to its position biases.
            mask = torch.zeros(allowed.shape, dtype=dtype, device=given.device)
            mask = mask.masked_fill(~allowed, torch.finfo(dtype).min)
        return self.encoder(input_ids=input_ids, attention_mask=mask, inputs_embeds=inputs_embeds, **options)


class ItemGeneration:
    """Mixin before ``T5ForConditionalGeneration``: its forward and ``generate`` with the retriever's settings."""

    def get_encoder(self: Any, *args: Any, **options: Any) -> nn.Module:
        """T5's encoder; with causal attention or hashed prefixes, the same with its mask or their vectors."""
        if is_causal(self) or HashedPrefixes.of(self) is not None:
            return HistoryEncoder(self)
        return super().get_encoder(*args, **options)  # type: ignore[misc]

    def token_forward(self: Any, input_ids=None, attention_mask=None, encoder_outputs=None, labels=None, **options):
        """T5's forward over the tokens of one target a row; padding is found where no mask is given.

        Raises:
            DataError: T5's output layer is not all that makes probabilities of tokens, see :func:`_refuse`.
        """
        _refuse(self, "T5's forward over tokens")
        if attention_mask is None:
            attention_mask = history_mask(self, input_ids)
        elif attention_mask.ndim == 2 and attention_mask.shape[1]:
            first = torch.ones_like(attention_mask[:, :1])  # of an empty history, see history_mask
            attention_mask = torch.cat([first, attention_mask[:, 1:]], dim=1)
        if encoder_outputs is None:
            embeddings = options.pop("inputs_embeds", None)
            encoder = self.get_encoder()
            encoder_outputs = encoder(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=embeddings)
        output = super().forward(  # type: ignore[misc]
            attention_mask=attention_mask, encoder_outputs=encoder_outputs, labels=labels, **options
        )
        if reads_users(self):  # users' tokens are inputs only
            output.logits[..., item_vocabulary(self) :] = float("-inf")
            if labels is not None:
                output.loss = nn.functional.cross_entropy(output.logits.flatten(0, -2), labels.flatten())
        return output

    def generate(self: Any, inputs: torch.Tensor | None = None, *args: Any, **options: Any) -> Any:
        """As of any model, with padding found where no mask is given. Where the softmax is over children, the tokens
        that may follow are normalized again.

        Raises:
            DataError: there is no ``custom_generate``, and the model needs it, see :func:`_refuse`.
        """
        if options.get("custom_generate") is None:
            _refuse(self, "generate without custom_generate")
            if uses_child_softmax(self):
                options.setdefault("renormalize_logits", True)
            histories = options.get("input_ids") if inputs is None else inputs
            if options.get("attention_mask") is None and histories is not None:
                # transformers would take all tokens for read where the end has none of its own.
                options["attention_mask"] = history_mask(self, histories)
        return super().generate(inputs, *args, **options)  # type: ignore[misc]


def lacking_in_t5(model: T5ForConditionalGeneration) -> tuple[str, str] | None:
    """A part of the model's work that T5's own layers don't do, and its setting; None: they do it all."""
    if HashedPrefixes.of(model) is not None:
        return "doesn't know which prefix a token ends", "tokens: hashed_prefixes"
    if sums_items(model):
        return "doesn't sum over the items that begin with a token", "output_softmax: items"
    if retriever_config(model).recent_items:
        return "doesn't know how many items ago an item of the history was", "recent_items"
    return None


def _refuse(model: T5ForConditionalGeneration, what: str) -> None:
    """
    Raises:
        DataError: T5's own layers don't do all that the model does.
    """
    if lacking := lacking_in_t5(model):
        raise DataError(
            f"{what} {lacking[0]} ({lacking[1]}): search by tiger.generate_items, "
            "generate(custom_generate=trie_generate, trie=...) or beam_search."
        )
