"""Which tokens may follow: a prefix tree over token tuples, as flat arrays.

The tuples are sorted, so the nodes of each level, in order, have their children side by side on the next one: a
node's children are a range of numbers, and following a trie is two gathers. No step depends on the number of tuples.
"""

from __future__ import annotations

import numpy as np
import torch


class SemanticIdTrie:
    """A prefix tree over ``n`` distinct tuples of ``depth`` tokens.

    A *node* is a number within its level; a *leaf*, a node of the last level, is a whole tuple; a *row* is the tuple's
    place in the table that the trie was built from.

    Args:
        tokens: one int32 [nodes of the level] a level: the token that leads to each node.
        children: one int32 [nodes of the level + 1] a level but the last: node ``i``'s children on the next level are
            ``children[i]`` up to ``children[i + 1]``.
        rows: int32 [n], the row of each leaf.
        leaves: int32 [n], the leaf of each row.
    """

    def __init__(
        self, tokens: list[torch.Tensor], children: list[torch.Tensor], rows: torch.Tensor, leaves: torch.Tensor
    ):
        self.tokens = tokens
        self.children = children
        self.rows = rows
        self.leaves = leaves
        self.depth = len(tokens)
        # Plain integers, read once: a step needs the width of its answer without asking the device.
        self.widths = [len(tokens[0])] + [int(starts.diff().max()) for starts in children]

    @classmethod
    def build(cls, table: np.ndarray) -> SemanticIdTrie:
        """Build from an integer array [n, depth] of distinct tuples, in any order.

        Raises:
            ValueError: the table is empty or a tuple occurs twice.
        """
        table = np.ascontiguousarray(table)
        if table.ndim != 2 or table.size == 0:
            raise ValueError(f"a trie needs a table [n, depth] with at least one row, got {table.shape}")
        order = _lexicographic_order(table)
        table = table[order]
        # A row opens a node on a level when it differs from the row above there or on any level before.
        opens = np.zeros(len(table), dtype=bool)
        opens[0] = True
        tokens, children, parents_at = [], [], None
        for level in range(table.shape[1]):
            opens[1:] |= table[1:, level] != table[:-1, level]
            at = np.flatnonzero(opens)
            tokens.append(torch.from_numpy(table[at, level].astype(np.int32)))
            if parents_at is not None:
                starts = np.searchsorted(at, np.append(parents_at, len(table)))
                children.append(torch.from_numpy(starts.astype(np.int32)))
            parents_at = at
        if len(parents_at) < len(table):
            twice = order[np.flatnonzero(~opens)[0]]
            raise ValueError(f"row {twice} of the table repeats another row: tuples must be distinct")
        leaves = np.empty(len(order), dtype=np.int32)
        leaves[order] = np.arange(len(order), dtype=np.int32)
        return cls(tokens, children, torch.from_numpy(order.astype(np.int32)), torch.from_numpy(leaves))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.numel() * array.element_size() for array in self._arrays())

    def to(self, device: torch.device | str) -> SemanticIdTrie:
        """The same trie with its arrays on ``device``."""
        if self.rows.device == torch.device(device):
            return self
        move = [array.to(device) for array in self._arrays()]
        split = self.depth
        return SemanticIdTrie(move[:split], move[split:-2], move[-2], move[-1])

    def follow(self, level: int, nodes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What may come at ``level`` after each of ``nodes``, nodes of the level before (None: after the root).

        Returns:
            ``(children, tokens, allowed)``, each [..., width] with ``width`` fixed by the level: int64 nodes, int64
            tokens, and a bool that is False where a node has fewer children than ``width`` (the first two then name
            some other node and token).
        """
        if nodes is None:
            children = torch.arange(self.widths[0], device=self.rows.device)
            return children, self.tokens[0].long(), torch.ones_like(children, dtype=torch.bool)
        starts = self.children[level - 1]
        first, stop = starts[nodes].long(), starts[nodes + 1].long()
        children = first.unsqueeze(-1) + torch.arange(self.widths[level], device=nodes.device)
        allowed = children < stop.unsqueeze(-1)
        children = children.clamp(max=len(self.tokens[level]) - 1)
        return children, self.tokens[level][children].long(), allowed

    def paths(self, rows: torch.Tensor) -> torch.Tensor:
        """The node on each level that leads to each row: int64 [..., depth]."""
        nodes = self.leaves[rows].long()
        path = [nodes]
        for starts in reversed(self.children):
            nodes = torch.searchsorted(starts, nodes.int(), right=True) - 1
            path.append(nodes)
        return torch.stack(path[::-1], dim=-1)

    def leaf_counts(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """How many leaves lie under each node of ``level``: int64, the shape of ``nodes``."""
        first, stop = nodes, nodes + 1
        for starts in self.children[level:]:
            first, stop = starts[first].long(), starts[stop].long()
        return stop - first

    def _arrays(self) -> list[torch.Tensor]:
        return [*self.tokens, *self.children, self.rows, self.leaves]


def _lexicographic_order(table: np.ndarray) -> np.ndarray:
    """int64 [n]: the order that sorts the rows of a non-negative integer table."""
    bits = [int(column.max()).bit_length() for column in table.T]
    if sum(bits) > 64:
        return np.lexsort(table.T[::-1])
    key = np.zeros(len(table), dtype=np.uint64)
    for column, width in zip(table.T, bits):
        key = (key << np.uint64(width)) | column.astype(np.uint64)
    return np.argsort(key)
