"""Rows that a search may return, prepared once for a trie: how many of them are under each of its nodes.

All of it is tensors on the trie's device. A step of the search gathers from them and never asks the device, so that a
search that was captured as a CUDA graph takes another filter by ``counts.copy_(others)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tiger.semantic_ids.trie import SemanticIdTrie


class AllowedItems:
    """One filter for all histories of a search, or several and which history has which.

    Args:
        trie: over n rows.
        counts: int32 [F, n + 1], of each filter the number of allowed leaves before each leaf, and of all.
        of: int64 [B], the filter of each history; None: all have the first.

    Raises:
        ValueError: the counts are of another number of rows.
    """

    def __init__(self, trie: SemanticIdTrie, counts: torch.Tensor, of: torch.Tensor | None = None):
        if counts.dim() != 2 or counts.shape[1] != len(trie) + 1:
            raise ValueError(f"allowed items [F, {len(trie) + 1}] are needed, got {tuple(counts.shape)}")
        self.trie, self.counts, self.of = trie, counts, of
        self._flat = counts.flatten()
        self._starts = None if of is None else of * counts.shape[1]

    @classmethod
    def from_mask(cls, trie: SemanticIdTrie, allowed: torch.Tensor) -> AllowedItems:
        """Prepare bool [n], True for the rows that may be returned."""
        allowed = allowed.to(trie.rows.device)
        counts = torch.nn.functional.pad(allowed[trie.rows.long()].cumsum(0, dtype=torch.int32), (1, 0))
        return cls(trie, counts.unsqueeze(0))

    @classmethod
    def together(cls, filters: Sequence[AllowedItems], of: torch.Tensor) -> AllowedItems:
        """Several of one filter each; ``of`` int64 [B] says which of them each history has."""
        return cls(filters[0].trie, torch.cat([one.counts for one in filters]), of)

    def select(self, users: torch.Tensor | slice) -> AllowedItems:
        """The filters of some of the histories."""
        return self if self.of is None else AllowedItems(self.trie, self.counts, self.of[users])

    @property
    def nbytes(self) -> int:
        """Bytes of the counts."""
        return self.counts.numel() * self.counts.element_size()

    def leaf_counts(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Number of allowed leaves under each node of ``level``: int32, the shape of ``nodes``.

        Args:
            nodes: int64 [B, ...]; where all histories have one filter, of any shape.
        """
        first, stop = self.trie.leaf_ranges(level, nodes)
        if self._starts is not None:
            starts = self._starts.view(-1, *[1] * (nodes.dim() - 1))
            first, stop = first + starts, stop + starts
        return self._flat[stop] - self._flat[first]

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """bool: whether each row [B, ...] is allowed."""
        return self.leaf_counts(self.trie.depth - 1, self.trie.leaves[rows].long()) > 0
