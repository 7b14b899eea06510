"""Items by their first token: what sums probabilities of items to those of first tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from tiger.semantic_ids.vocabulary import PAD_TOKEN
from tiger.utils import devices


@dataclass(frozen=True)
class ItemsByFirst:
    """The items' last tokens, with the first tokens that they are under.

    Args:
        tokens: int64 [W], :data:`PAD_TOKEN` where there is no item.
        nodes: int64 [W], of the first level; of no meaning where there is no item.
        start: where ``tokens`` are this one and those that follow it, so that their rows of a table are a slice of it;
            None: in any order.
        log_weights: float32 [W], of the items in the sums of their first tokens; None: all count alike.
    """

    tokens: torch.Tensor
    nodes: torch.Tensor
    start: int | None = None
    log_weights: torch.Tensor | None = None

    @classmethod
    def in_a_run(cls, tokens: torch.Tensor, nodes: torch.Tensor) -> ItemsByFirst:
        """Sort different tokens, with places for those between them that no item ends with.

        In the host's memory alone: to read the ends of a run would wait for another device, where rows that are copied
        cost little.
        """
        if not len(tokens) or not devices.is_host(tokens.device):
            return cls(tokens, nodes)
        start, stop = int(tokens.min()), int(tokens.max()) + 1
        if stop - start > 2 * len(tokens):  # most places would be empty
            return cls(tokens, nodes)
        places = tokens - start
        run = tokens.new_full((stop - start,), PAD_TOKEN).index_copy_(0, places, tokens)
        return cls(run, torch.zeros_like(run).index_copy_(0, places, nodes), start)

    def weighed(self, learned: int, first_tokens: int) -> ItemsByFirst:
        """With the weights of items that came after training.

        A new item has the vector of its parent. So many of them under one first token would raise it by as many times
        what is known of the parent: they count for nothing beside others, and all together as one where there is no
        other.

        Args:
            learned: the tokens of training were those below it; 0: all.
            first_tokens: number of nodes of the first level.
        """
        if not learned:
            return self
        items = self.tokens != PAD_TOKEN
        old = items & (self.tokens < learned)
        counts = torch.zeros(2, first_tokens, device=self.tokens.device)
        counts.index_add_(1, self.nodes, torch.stack([old, items & ~old]).float())
        among = counts[:, self.nodes]
        weights = torch.where(old, 1.0, (among[0] == 0) / among[1].clamp(min=1))
        return replace(self, log_weights=weights.log())

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """The tokens' rows of a table [tokens, d]: [W, d], without a copy where they follow one another."""
        if self.start is None:
            return F.embedding(self.tokens, table)
        return table[self.start : self.start + len(self.tokens)]
