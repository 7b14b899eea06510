"""Recency: a learned bias of the decoder's attention for how many items ago an item of the history was.

T5's cross-attention has no positions. Where every target of a user shares one causal encoding, an item's state does
not depend on the items after it, so nothing in it tells whether it was the last. With ``recent_items``, each head adds
a number to its scores for each distance from the end of what the target may see, one table for all decoder layers, as
T5's own position biases are. Before training it falls by the same step for each item further back.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from tiger.retriever.config import history_places, retriever_config

# What a score falls by for each item further back, before training: a weight falls to two thirds. Set by hand.
STEP = 0.4


class Recency(nn.Embedding):
    """The table of biases, [distances, heads].

    Args:
        distances: number of them; items further back share the last.
        heads: of the decoder's attention.
    """

    def __init__(self, distances: int, heads: int):
        super().__init__(distances, heads)
        with torch.no_grad():
            self.weight.copy_(-STEP * torch.arange(distances).unsqueeze(-1))


def recency_table(model: T5ForConditionalGeneration) -> torch.Tensor | None:
    """The biases of a model, [distances, heads]; None where it has none."""
    return model.recency.weight if retriever_config(model).recent_items else None  # type: ignore[union-attr,return-value]


def cross_attention_bias(
    num_visible_items: torch.Tensor, length: int, item_length: int, has_user: bool, table: torch.Tensor | None
) -> torch.Tensor:
    """Bias of the decoder's attention to a history: float [B, 1 or heads, T, length].

    Args:
        num_visible_items: int64 [B, T], items that a target may attend to; of the others the bias is ``-inf``.
        length: tokens of the history, int.
        item_length: tokens per item.
        has_user: whether a user token comes first.
        table: see :func:`recency_table`.
    """
    items = history_places(length, item_length, has_user, num_visible_items.device)
    masked = items >= num_visible_items.unsqueeze(-1)
    masked[..., 0] = False  # targets without a history, and padding targets, attend to the first token
    if table is None:
        bias = torch.zeros(masked.shape, device=masked.device).unsqueeze(1)
    else:
        distances = (num_visible_items.unsqueeze(-1) - 1 - items).clamp(0, len(table) - 1)
        bias = table[distances].float().masked_fill((items < 0).unsqueeze(-1), 0.0)  # a user is no item
        bias = bias.permute(0, 3, 1, 2)
    return bias.masked_fill(masked.unsqueeze(1), float("-inf"))
