"""A prefix trie in arrays of fixed sizes, with room for more tuples."""

from __future__ import annotations

import torch

from tiger.semantic_ids.items_by_first import ItemsByFirst
from tiger.semantic_ids.trie import SemanticIdTrie


class StaticTrie(SemanticIdTrie):
    """A copy of a trie in larger arrays, into which its successors are written: addresses and shapes stay.

    A CUDA graph of a search reads addresses: so items can be added without recording it anew. Unused places hold 0,
    and no node leads to them; ``len`` is the number of tuples that there is room for.

    Args:
        trie: copied, on its device.
        spare: share by which each array and each width is larger, at least 8.
        max_width: largest width that a level but the last can have; None: not known.
    """

    def __init__(self, trie: SemanticIdTrie, spare: float = 0.25, max_width: int | None = None):
        def roomy(size: int) -> int:
            return size + max(8, int(size * spare))

        def empty(size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.int32, device=trie.rows.device)

        widths = [roomy(width) for width in trie.widths]
        if max_width is not None:
            widths[:-1] = [min(wide, max(max_width, width)) for wide, width in zip(widths[:-1], trie.widths)]
        nodes = [widths[0], *(roomy(len(tokens)) for tokens in trie.tokens[1:])]
        super().__init__(
            [empty(size) for size in nodes],
            [empty(size + 1) for size in nodes[:-1]],
            empty(nodes[-1]),
            empty(nodes[-1]),
            widths,
        )
        self._first_level = torch.zeros((), dtype=torch.int64, device=trie.rows.device)
        self.overwrite(trie)

    def overwrite(self, trie: SemanticIdTrie) -> bool:
        """Write another trie over this one, without waiting for the device; False: it doesn't fit, nothing changed."""
        own, other = self._arrays(), trie._arrays()
        fits = trie.depth == self.depth and trie.rows.device == self.rows.device
        if not fits or any(len(new) > len(old) for old, new in zip(own, other)):
            return False
        if any(new > old for old, new in zip(self.widths, trie.widths)):
            return False
        starts = {id(array) for array in self.children}
        for old, new in zip(own, other):
            old[: len(new)].copy_(new)
            # Nodes that there are not have no children: the last start, again and again.
            old[len(new) :] = new[-1] if id(old) in starts else 0
        self._first_level.fill_(len(trie.tokens[0]))
        return True

    def follow(self, level: int, nodes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :meth:`SemanticIdTrie.follow`."""
        children, tokens, allowed = super().follow(level, nodes)
        return children, tokens, children < self._first_level if nodes is None else allowed

    def items_by_first(self, learned: int = 0) -> ItemsByFirst:
        """See :meth:`SemanticIdTrie.items_by_first`; unused places have token 0, and some node."""
        tokens, nodes = self._find_items_by_first()  # not kept: the next trie may be written over this one
        return ItemsByFirst(tokens, nodes.clamp(max=self.widths[0] - 1)).weighed(learned, self.widths[0])
