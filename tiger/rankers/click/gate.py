"""A gate on the table rows that are an item's own, by how often training has shown the item."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tiger.data.cooccurrence import COUNT_FLOOR


class CountGate(nn.Module):
    """Weights of an item's table rows: those of its own count the more, the more events the item has.

    A row of its own is learned from the item's few events, rows of codes from those of all items that share them. So
    a column of own rows has the weight ``g = 1 - (5 / count) ** s``, with a learned ``s`` above 0 for each column,
    and all else has 1. Counts below 5 count as 5: there ``g`` is 0, and an item that is rare or new is what it shares
    with others, and no more. Gates by an item's popularity are those of GateSID (arXiv 2603.22916) and H2Rec (arXiv
    2512.10388).

    Args:
        columns: of an item's rows that are its own.
    """

    def __init__(self, columns: Sequence[int]):
        super().__init__()
        self._columns = list(columns)
        self.slope = nn.Parameter(torch.empty(len(self._columns)))
        self.reset()

    def reset(self) -> None:
        """Return to ``s = 1``: an item with 10 events has half the weight of one with very many."""
        nn.init.constant_(self.slope, math.log(math.expm1(1)))  # softplus makes it 1

    def forward(self, counts: torch.Tensor, width: int) -> torch.Tensor:
        """Weights float32 [U, width] of items' rows, from their training events, float [U]."""
        rarity = torch.log(COUNT_FLOOR / counts.float().clamp(min=COUNT_FLOOR))
        own = -torch.expm1(rarity[:, None] * F.softplus(self.slope))
        weights = own.new_ones(len(counts), width)
        weights[:, self._columns] = own
        return weights
