"""The head of a click model that reorders the beams of a search."""

from __future__ import annotations

import torch
from torch import nn


class BeamHead(nn.Module):
    """Score of a beam: the search's own, weighted, plus what a small network makes of the beam's inputs.

    Before training the network says 0 and the weight is 1, so that the order is the search's.

    Args:
        inputs: numbers of a beam, see :func:`tiger.rankers.click.beam_inputs.beam_inputs`; the click model's logit
            comes on top.
        hidden: size of two hidden layers.
        dropout: in them.
    """

    mean: torch.Tensor
    std: torch.Tensor
    layers: nn.Sequential

    def __init__(self, inputs: int, hidden: int, dropout: float = 0.1):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(inputs + 1, hidden), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout)),
            nn.Linear(hidden, 1),
        )
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(inputs + 1))
        self.register_buffer("std", torch.ones(inputs + 1))

    def reset(self) -> None:
        """Return to the search's order."""
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(self.weight)

    def measure(self, inputs: torch.Tensor) -> None:
        """Take means and deviations of the inputs, float [n, inputs + 1], by which they are scaled from now on."""
        self.mean.copy_(inputs.mean(dim=0))
        self.std.copy_(inputs.std(dim=0, correction=0).clamp(min=1e-4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores float32 [...] from inputs float32 [..., inputs + 1], the search's score first, the logit last."""
        found = self.layers((inputs - self.mean) / self.std).squeeze(-1)
        return self.weight * inputs[..., 0] + found
