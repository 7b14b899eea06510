"""Items by their first token: what sums probabilities of items to those of first tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from tiger.semantic_ids.vocabulary import PAD_TOKEN


@dataclass(frozen=True)
class ItemsByFirst:
    """The items' last tokens, with the first tokens that they are under.

    Args:
        tokens: int64 [W], :data:`PAD_TOKEN` where there is no item.
        nodes: int64 [W], of the first level; of no meaning where there is no item.
        start: where ``tokens`` are this one and those that follow it, so that their rows of a table are a slice of it;
            None: in any order.
    """

    tokens: torch.Tensor
    nodes: torch.Tensor
    start: int | None = None

    @classmethod
    def in_a_run(cls, tokens: torch.Tensor, nodes: torch.Tensor) -> ItemsByFirst:
        """Sort different tokens, with places for those between them that no item ends with."""
        if not len(tokens):
            return cls(tokens, nodes)
        start, stop = int(tokens.min()), int(tokens.max()) + 1
        if stop - start > 2 * len(tokens):  # most places would be empty
            return cls(tokens, nodes)
        places = tokens - start
        run = tokens.new_full((stop - start,), PAD_TOKEN).index_copy_(0, places, tokens)
        return cls(run, torch.zeros_like(run).index_copy_(0, places, nodes), start)

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """The tokens' rows of a table [tokens, d]: [W, d], without a copy where they follow one another."""
        if self.start is None:
            return F.embedding(self.tokens, table)
        return table[self.start : self.start + len(self.tokens)]
