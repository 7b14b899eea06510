"""HSTU, a peer with pointwise attention, as large as SASRec's: is it the block that makes the difference?

    python recipes/experiments/hstu.py --dataset datasets/beauty --out runs/beauty/hstu \
        --start_from log:3,words:3,texts:2 --content true --embeddings datasets/beauty/embeddings.minilm.safetensors

The block of Zhai et al. (arXiv 2402.17152): one layer makes gate, values, queries and keys; the attention is SiLU in
the place of softmax, with a bias by distance and by time between events; its result is normed, gated, and projected.
There is no second layer of a transformer. The paper's bias may read the time of the event that is to be predicted;
here it reads the times of the history alone, since nobody who recommends knows when the next event will be. Trained
and measured as every peer is (``peer.py``). Writes ``hstu.json``;
``hstu-ids.json`` where the table starts from random numbers and no text is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from peer import PeerArguments
from peer_training import run_peer
from torch import nn
from torch.nn import functional as F

from tiger.cli.common import friendly_errors

TIME_BUCKETS = 64  # e^(64 * .301) seconds are seven years
BUCKET_WIDTH = 0.301  # of the logarithm of seconds, as in the paper's code
EPSILON = 1e-6  # of the norms, as in the paper's code: sums of SiLU are smaller than means by softmax


@dataclass
class HSTUArguments(PeerArguments):
    """Settings of HSTU."""

    time_bias: bool = field(default=True, metadata={"help": "a bias of attention by the time between events"})

    @property
    def name(self) -> str:
        return "hstu" if self.encoder or self.start_from else "hstu-ids"

    def block(self) -> HSTUBlock:
        return HSTUBlock(self.d_model, self.num_heads, self.dropout, self.max_history, self.time_bias)


class HSTUBlock(nn.Module):
    """Pointwise attention to earlier items, normed and gated.

    Args:
        size: of states; heads share it.
        heads: of the attention.
        dropout: before the projection.
        longest: items of the longest history; sums over items are divided by it.
        time_bias: whether attention has a bias by the time between two events.
    """

    def __init__(self, size: int, heads: int, dropout: float, longest: int, time_bias: bool = True):
        super().__init__()
        self.heads, self.dropout, self.longest = heads, dropout, longest
        self.norm, self.second_norm = nn.LayerNorm(size, EPSILON), nn.LayerNorm(size, EPSILON)
        self.into, self.out = nn.Linear(size, 4 * size, bias=False), nn.Linear(size, size, bias=False)
        self.distances = nn.Parameter(torch.empty(longest).normal_(std=0.02))
        self.times = nn.Parameter(torch.empty(TIME_BUCKETS).normal_(std=0.02)) if time_bias else None

    def pass_on(self) -> None:
        """Add nothing to the states, until trained."""
        nn.init.zeros_(self.out.weight)

    def bias(self, times: torch.Tensor) -> torch.Tensor:
        """Of attention from each item (rows) to each earlier one: [B or 1, 1, S, S]; later ones are of no account."""
        places = torch.arange(times.shape[1], device=times.device)
        bias = self.distances[(places[:, None] - places).clamp(min=0)][None]
        if self.times is not None:
            between = (times[:, :, None] - times[:, None, :]).abs().clamp(min=1)
            buckets = (between.float().log() / BUCKET_WIDTH).long().clamp(max=TIME_BUCKETS - 1)
            bias = bias + self.times[buckets]
        return bias[:, None]

    def forward(self, states: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """States [B, S, d] and seconds of their events, int64 [B, S], to states."""
        gate, v, q, k = F.silu(self.into(self.norm(states))).chunk(4, dim=-1)
        v, q, k = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (v, q, k))
        weights = F.silu(q @ k.transpose(-1, -2) + self.bias(times)) / self.longest
        seen = (weights.tril() @ v.to(weights.dtype)).transpose(1, 2).flatten(2)
        return states + self.out(F.dropout(self.second_norm(seen) * gate, self.dropout, self.training))


def main() -> None:
    run_peer(HSTUArguments)


if __name__ == "__main__":
    with friendly_errors():
        main()
