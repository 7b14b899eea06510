"""SASRec, a model over item ids, as a control: does a T5 over semantic IDs do what an item table can't?

    python recipes/experiments/sasrec.py --dataset datasets/beauty --out runs/beauty/sasrec [--start_from log:1]

The transformer of SASRec (arXiv 1808.09781), trained and measured as every peer is (``peer.py``). Writes
``sasrec.json``; ``sasrec-init.json`` where the table starts from vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peer import PeerArguments
from peer_training import run_peer
from torch import nn
from torch.nn import functional as F

from tiger.cli.common import friendly_errors


@dataclass
class SASRecArguments(PeerArguments):
    """Settings of SASRec."""

    @property
    def name(self) -> str:
        return "sasrec" + ("-init" if self.start_from else "") + ("-content" if self.content else "")

    def block(self) -> SASRecBlock:
        return SASRecBlock(self.d_model, self.num_heads, self.dropout)


class SASRecBlock(nn.Module):
    """Attention to earlier items, then a layer of two matrices; norms come first.

    Args:
        size: of states.
        heads: of the attention.
        dropout: within a block and of what it adds.
    """

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.second_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.into, self.out = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)
        self.inner, self.outer = nn.Linear(size, size), nn.Linear(size, size, bias=False)

    def pass_on(self) -> None:
        """Add nothing to the states, until trained."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.outer.weight)

    def forward(self, states: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """States [B, S, d]; the times are not read."""
        q, k, v = self.into(self.norm(states)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        states = states + F.dropout(self.out(seen.transpose(1, 2).flatten(2)), self.dropout, self.training)
        inner = F.dropout(F.relu(self.inner(self.second_norm(states))), self.dropout, self.training)
        return states + F.dropout(self.outer(inner), self.dropout, self.training)


def main() -> None:
    run_peer(SASRecArguments)


if __name__ == "__main__":
    with friendly_errors():
        main()
