"""The prior of a memory while a search goes down the trie: the best that is known of a prefix, beside the T5."""

from __future__ import annotations

import torch

from tiger.semantic_ids.trie import SemanticIdTrie


class MemoryPrior:
    """Mixes the T5's log-probabilities of prefixes with a memory's masses.

    A prefix scores ``log M + weight * log(p + F)``: ``M`` is the largest mass of the items beneath, ``p`` the prefix's
    probability under the T5, ``F`` the largest of the items' floors. Of a whole item this is its own score, and of a
    prefix no less than that of any item beneath: so an item is not given up because its neighbors are not asked for,
    and a search that keeps every beam is exact.

    Args:
        trie: of the items.
        mass: float32 [B, items], above 0; rows of the catalog.
        floors: float32 [items], what each item's probability under the T5 is raised by.
        weight: of the T5.
    """

    def __init__(self, trie: SemanticIdTrie, mass: torch.Tensor, floors: torch.Tensor, weight: float):
        self.weight = weight
        order = trie.rows.long()
        above = [(nodes, len(tokens)) for nodes, tokens in zip(_parents(trie), trie.tokens)]
        self._log_mass = _largest_beneath(above, mass[:, order].log())
        self._floors = _largest_beneath(above, floors[order])

    def select(self, users: torch.Tensor | slice) -> MemoryPrior:
        """The prior of some of the histories."""
        some = object.__new__(MemoryPrior)
        some.weight, some._floors = self.weight, self._floors
        some._log_mass = [values[users] for values in self._log_mass]
        return some

    def mixed(self, level: int, nodes: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        """Score nodes of a level.

        Args:
            nodes: int64 [B, N, W].
            log_probs: float32 [B, N, W], of their prefixes under the T5; ``-inf`` where it gives none.

        Returns:
            float32 [B, N, W], finite.
        """
        mass = self._log_mass[level].gather(1, nodes.flatten(1)).view(nodes.shape)
        return mass + self.weight * torch.log(log_probs.exp() + self._floors[level][nodes])


def _parents(trie: SemanticIdTrie) -> list[torch.Tensor]:
    """For each level but the last: of each node of the next one, the node above it, int64 [nodes of the next]."""
    parents = []
    for starts, tokens in zip(trie.children, trie.tokens[1:]):
        nodes = torch.arange(len(starts) - 1, device=starts.device)
        parents.append(torch.repeat_interleave(nodes, starts.diff(), output_size=len(tokens)))
    return parents


def _largest_beneath(above: list[tuple[torch.Tensor, int]], values: torch.Tensor) -> list[torch.Tensor]:
    """The largest value of the leaves under each node.

    Args:
        above: for each level but the last, the parents of the next one's nodes, and its number of nodes.
        values: [..., leaves].

    Returns:
        For each level, [..., nodes].
    """
    levels = [values]
    for parents, count in reversed(above):
        largest = values.new_full((*values.shape[:-1], count), float("-inf"))
        levels.insert(0, largest.scatter_reduce_(-1, parents.expand(levels[0].shape), levels[0], "amax"))
    return levels
