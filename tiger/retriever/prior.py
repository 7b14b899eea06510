"""The prior of a memory while a search goes down the trie: what is known of a prefix, before and beside the T5."""

from __future__ import annotations

import torch

from tiger.semantic_ids.trie import SemanticIdTrie


class MemoryPrior:
    """Mixes the T5's log-probabilities of prefixes with a memory's masses.

    A prefix scores ``log M + weight * log(p + F)``: ``M`` is the sum of the masses of the items beneath, ``p`` the
    prefix's probability under the T5, ``F`` the sum of the items' floors. Of a whole item this is its own score, so a
    search that keeps every beam is exact.

    Args:
        trie: of the items.
        mass: float32 [B, items], above 0; rows of the catalog.
        floors: float32 [items], what each item's probability under the T5 is raised by.
        weight: of the T5.
    """

    def __init__(self, trie: SemanticIdTrie, mass: torch.Tensor, floors: torch.Tensor, weight: float):
        self._trie, self.weight = trie, weight
        order = trie.rows.long()
        # Sums of neighbors in leaf order are differences of these; in float32, small ones would drown.
        self._mass = _running_sums(mass[:, order])
        self._floors = _running_sums(floors[order])

    def select(self, users: torch.Tensor | slice) -> MemoryPrior:
        """The prior of some of the histories."""
        some = object.__new__(MemoryPrior)
        some._trie, some.weight, some._floors = self._trie, self.weight, self._floors
        some._mass = self._mass[users]
        return some

    def mixed(self, level: int, nodes: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        """Score nodes of a level.

        Args:
            nodes: int64 [B, N, W].
            log_probs: float32 [B, N, W], of their prefixes under the T5; ``-inf`` where it gives none.

        Returns:
            float32 [B, N, W], finite.
        """
        first, stop = self._trie.leaf_ranges(level, nodes)
        flat_first, flat_stop = first.flatten(1), stop.flatten(1)
        mass = (self._mass.gather(1, flat_stop) - self._mass.gather(1, flat_first)).view(nodes.shape).float()
        floors = (self._floors[stop] - self._floors[first]).float()
        return mass.log() + self.weight * torch.log(log_probs.exp() + floors)


def _running_sums(values: torch.Tensor) -> torch.Tensor:
    """Sums of the values before each place, and of all: float64 [..., n + 1]."""
    return torch.nn.functional.pad(values.double().cumsum(-1), (1, 0))
