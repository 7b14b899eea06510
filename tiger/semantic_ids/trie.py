"""Prefix trie over tuples of tokens, as flat arrays: which tokens may follow.

The tuples are sorted, so the nodes of each level, in order, have their children side by side on the next one: a
node's children are a range of numbers, and following a trie is two gathers. No step depends on the number of tuples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from tiger.semantic_ids.items_by_first import ItemsByFirst
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically
from tiger.utils.tensor_files import check_tensors, read_header

MAX_DEPTH = 65  # 64 levels of codes and the collision token


class SemanticIdTrie:
    """A prefix tree over ``n`` distinct tuples of ``depth`` tokens.

    A *node* is a number within its level; a *leaf*, a node of the last level, is a whole tuple; a *row* is the tuple's
    place in the table that the trie was built from.

    Args:
        tokens: one int32 [nodes of the level] per level: the token that leads to each node.
        children: one int32 [nodes of the level + 1] per level but the last: the children of node ``i`` are
            ``children[i]`` up to ``children[i + 1]`` on the next level.
        rows: int32 [n], the row of each leaf.
        leaves: int32 [n], the leaf of each row.
        widths: most children that a node has, for each level; None: counted.
    """

    def __init__(
        self,
        tokens: list[torch.Tensor],
        children: list[torch.Tensor],
        rows: torch.Tensor,
        leaves: torch.Tensor,
        widths: list[int] | None = None,
    ):
        self.tokens = tokens
        self.children = children
        self.rows = rows
        self.leaves = leaves
        self.depth = len(tokens)
        # Plain integers, read once: a step needs the width of its answer without asking the device.
        self.widths = widths or [len(tokens[0])] + [int(starts.diff().max()) for starts in children]
        self._items_by_first: dict[int, ItemsByFirst] = {}  # when asked for

    @classmethod
    def build(cls, table: np.ndarray) -> SemanticIdTrie:
        """Build from an integer array [n, depth] of distinct tuples of numbers >= 0, in any order.

        Raises:
            ValueError: the table is empty or a tuple occurs twice.
        """
        if table.ndim != 2 or table.size == 0:
            raise ValueError(f"a trie needs a table [n, depth] with at least one row, got {table.shape}")
        depth = table.shape[1]
        order, opened, columns = _sort(table)
        if (opened == depth).any():
            twice = order[np.flatnonzero(opened == depth)[0]]
            raise ValueError(f"row {twice} of the table repeats another row: tuples must be distinct")
        tokens, children, parents = [], [], None
        for level in range(depth):
            # Where the nodes of this level begin; on the last one, every row is a node.
            at = np.flatnonzero(opened <= level) if level < depth - 1 else None
            column = columns(level, at)
            tokens.append(torch.from_numpy(column.astype(np.int32, copy=False)))
            if parents is not None:
                starts = np.append(parents, len(table))
                starts = starts if at is None else np.searchsorted(at, starts)
                children.append(torch.from_numpy(starts.astype(np.int32)))
            parents = at
        rows = torch.from_numpy(order.astype(np.int32))
        return cls(tokens, children, rows, _inverse(rows))

    def insert(self, table: np.ndarray) -> SemanticIdTrie:
        """A trie with more tuples, [m, depth]; their rows follow those of the present ones.

        Costs a copy of the arrays and, for each new tuple, a search among the children on its way.

        Raises:
            ValueError: a tuple is here already, or twice in the table.
        """
        if table.ndim != 2 or table.shape[1] != self.depth:
            raise ValueError(f"a table [m, {self.depth}] is needed, got {table.shape}")
        if len(table) == 0:
            return self
        if self.rows.device.type != "cpu":
            return self.to("cpu").insert(table).to(self.rows.device)
        order, opened, columns = _sort(table)
        tokens, children = [], []
        # For each new tuple, on the level above: its node's number here if it was here (``known``), else the number of
        # the node before which its own goes.
        place = parents = np.zeros(0, dtype=np.int64)
        known = fresh = parents_fresh = np.zeros(0, dtype=bool)
        for level, present in enumerate(self.tokens):
            old, column = present.numpy(), columns(level, None)
            if level == 0:
                first, stop = np.zeros(len(table), dtype=np.int64), np.full(len(table), len(old))
            else:
                starts = self.children[level - 1].numpy()
                first = starts[place].astype(np.int64)
                stop = np.where(known, starts[np.minimum(place + 1, len(starts) - 1)], first)
            above, above_known = place, known
            place = _search(old, column, first, stop)
            known = (place < stop) & (old[np.minimum(place, len(old) - 1)] == column)
            fresh = ~known & (opened <= level)
            if level > 0:
                # A parent's new number: its old one, and one more for each that went in before it.
                before = np.searchsorted(parents, above, side="right")
                before = np.where(above_known, before, np.cumsum(parents_fresh) - 1)
                added = np.bincount((above + before)[fresh], minlength=len(starts) - 1 + len(parents))
                starts = np.insert(starts, parents, starts[parents])
                starts[1:] += np.cumsum(added, dtype=np.int32)
                children.append(torch.from_numpy(starts))
            tokens.append(torch.from_numpy(np.insert(old, place[fresh], column[fresh])))
            parents, parents_fresh = place[fresh], fresh
        if not fresh.all():
            raise ValueError(f"row {order[~fresh][0]} of the table is in the trie already, or twice in the table")
        rows = torch.from_numpy(np.insert(self.rows.numpy(), place, (len(self) + order).astype(np.int32)))
        return SemanticIdTrie(tokens, children, rows, _inverse(rows))

    def keep(self, kept: np.ndarray) -> SemanticIdTrie:
        """A trie without some of the tuples.

        Args:
            kept: bool [n], by row; the rows of the others move up. At least one is kept.
        """
        if self.rows.device.type != "cpu":
            return self.to("cpu").keep(kept).to(self.rows.device)
        left = kept[self.rows.numpy()]
        rows = (np.cumsum(kept, dtype=np.int32) - 1)[self.rows.numpy()[left]]
        tokens, children = [self.tokens[-1].numpy()[left]], []
        for present, starts in zip(reversed(self.tokens[:-1]), reversed(self.children)):
            # How many nodes of the level below are left before each node's first child.
            before = np.append(np.int32(0), np.cumsum(left, dtype=np.int32))[starts.numpy()]
            left = before[1:] > before[:-1]
            children.append(np.append(before[:-1][left], before[-1]))
            tokens.append(present.numpy()[left])
        arrays = [*tokens[::-1], *children[::-1], rows]
        found = [torch.from_numpy(array) for array in arrays]
        depth = self.depth
        return SemanticIdTrie(found[:depth], found[depth:-1], found[-1], _inverse(found[-1]))

    def save(self, file: str | os.PathLike) -> None:
        """Write the arrays as safetensors."""
        arrays = {name: array.contiguous().cpu() for name, array in zip(self._names(self.depth), self._arrays())}
        write_atomically(file, save(arrays, metadata={"trie": json.dumps({"widths": self.widths})}))

    @classmethod
    def load(cls, file: str | os.PathLike) -> SemanticIdTrie:
        """Map what :meth:`save` wrote into memory: nothing is rebuilt, every link is checked.

        Raises:
            DataError: missing, damaged, or no trie: a search in it could leave it.
        """
        header = read_header(file)
        depth = sum(name.startswith("tokens.") for name in header.tensors)
        if not 1 <= depth <= MAX_DEPTH:
            raise DataError(f"{file} is damaged: a trie of {depth} levels.")
        names = cls._names(depth)
        check_tensors(file, header, {name: ("I32", (None,)) for name in names})
        with safe_open(file, "pt") as opened:
            arrays = [opened.get_tensor(name) for name in names]
        found = [array.numpy() for array in arrays]
        reason = trie_fault(found[:depth], found[depth:-2], found[-2], found[-1])
        if reason:
            raise DataError(f"{file} is damaged: {reason}. Save the recommender again.")
        return cls(arrays[:depth], arrays[depth:-2], arrays[-2], arrays[-1])

    def check_table(self, table: np.ndarray) -> None:
        """
        Raises:
            DataError: it was built from another table than this one, int [n, depth].
        """
        same = table.shape == (len(self), self.depth)
        path: np.ndarray = np.arange(len(self))
        rows = self.rows.cpu().numpy()
        for level in reversed(range(self.depth if same else 0)):
            if level < self.depth - 1:
                sizes = np.diff(self.children[level].cpu().numpy())
                # The node on this level above each node of the next one, and above each leaf.
                path = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[path]
            same = same and np.array_equal(self.tokens[level].cpu().numpy()[path], table[rows, level])
        if not same:
            raise DataError("the trie was built from other semantic IDs than the tokenizer's. Save the two together.")

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
        return self._from_arrays([array.to(device) for array in self._arrays()], self.widths)

    def follow(self, level: int, nodes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children at ``level`` of each of ``nodes``, nodes of the level before (None: of the root).

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

    def leaf_ranges(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The leaves under each node of ``level``: the first of them and the one after the last, as ``nodes``."""
        first, stop = nodes, nodes + 1
        for starts in self.children[level:]:
            first, stop = starts[first].long(), starts[stop].long()
        return first, stop

    def items_by_first(self, learned: int = 0) -> ItemsByFirst:
        """The items' last tokens, with the node of the first level that each is under.

        Args:
            learned: see :meth:`ItemsByFirst.weighed`.
        """
        if learned not in self._items_by_first:
            found = ItemsByFirst.in_a_run(*self._find_items_by_first())
            self._items_by_first[learned] = found.weighed(learned, self.widths[0])
        return self._items_by_first[learned]

    def _find_items_by_first(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Per leaf, its last token and the node of the first level that it is under: int64 [n] each."""
        nodes = torch.arange(len(self.rows), dtype=torch.int32, device=self.rows.device)
        for starts in reversed(self.children):
            nodes = torch.searchsorted(starts, nodes, right=True, out_int32=True) - 1
        return self.tokens[-1].long(), nodes.long()

    def leaf_counts(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Number of leaves under each node of ``level``: int64, the shape of ``nodes``."""
        first, stop = self.leaf_ranges(level, nodes)
        return stop - first

    def _arrays(self) -> list[torch.Tensor]:
        return [*self.tokens, *self.children, self.rows, self.leaves]

    @staticmethod
    def _names(depth: int) -> list[str]:
        tokens = [f"tokens.{level}" for level in range(depth)]
        return [*tokens, *(f"children.{level}" for level in range(depth - 1)), "rows", "leaves"]

    @classmethod
    def _from_arrays(cls, arrays: list[torch.Tensor], widths: list[int]) -> SemanticIdTrie:
        depth = len(widths)
        return cls(arrays[:depth], arrays[depth:-2], arrays[-2], arrays[-1], widths)


def _sort(
    table: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, Callable[[int, np.ndarray | None], np.ndarray]]:
    """Sort the rows of a table of numbers >= 0.

    Returns:
        The order, int64 [n]; for each row in that order the first level on which it differs from the one above it,
        uint8 [n] (0 for the first row, the depth for a repeated one); and a function of a level and places in the
        order (None: all) that gives the sorted table's column there.
    """
    depth = table.shape[1]
    bits = [int(column.max()).bit_length() for column in table.T]
    opened = np.full(len(table), depth, dtype=np.uint8)
    if sum(bits) > 64:
        order = np.lexsort(table.T[::-1])
        for level in reversed(range(depth)):
            column = table[order, level]
            opened[1:][column[1:] != column[:-1]] = level
        opened[0] = 0
        return order, opened, lambda level, at: table[order if at is None else order[at], level]
    # A row as one number, its first token highest: it sorts as the tuples do and is read faster than they are.
    key = np.zeros(len(table), dtype=np.uint64)
    shifts = [np.uint64(sum(bits[level + 1 :])) for level in range(depth)]
    for column, width in zip(table.T, bits):
        key <<= np.uint64(width)
        key |= column.astype(np.uint64)
    order = np.argsort(key)
    key = key[order]
    change = key[1:] ^ key[:-1]
    for level in reversed(range(depth)):
        opened[1:][change >= np.uint64(1) << shifts[level]] = level
    opened[0] = 0

    def column_at(level: int, at: np.ndarray | None) -> np.ndarray:
        values = (key if at is None else key[at]) >> shifts[level]
        return (values & np.uint64(2 ** bits[level] - 1)).astype(np.int32)

    return order, opened, column_at


def _search(values: np.ndarray, wanted: np.ndarray, first: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Binary search, each of the wanted in a range of its own: int64 [m], where in ``values`` it is or would go."""
    first, stop = first.copy(), stop.copy()
    while (first < stop).any():
        middle = (first + stop) // 2
        right = (first < stop) & (values[np.minimum(middle, len(values) - 1)] < wanted)
        first, stop = np.where(right, middle + 1, first), np.where(right, stop, np.minimum(middle, stop))
    return first


def trie_fault(
    tokens: list[np.ndarray], children: list[np.ndarray], rows: np.ndarray, leaves: np.ndarray
) -> str | None:
    """Why these arrays are no trie, see :class:`SemanticIdTrie`; None: they are one."""
    count = len(tokens[-1])
    if not count or len(rows) != count or len(leaves) != count:
        return f"{count} leaves, {len(rows)} rows"
    for level, values in enumerate(tokens):
        if not len(values) or values.min() < 0:
            return f"a token below 0 on level {level}"
        first = np.zeros(len(values) + 1, dtype=bool)  # where a node's children begin
        if level:
            starts = children[level - 1]
            if len(starts) != len(tokens[level - 1]) + 1 or starts[0] != 0 or starts[-1] != len(values):
                return f"children of level {level - 1} are not those of level {level}"
            if (starts[1:] <= starts[:-1]).any():
                return f"a node of level {level - 1} without children"
            first[starts] = True
        if not ((values[1:] > values[:-1]) | first[1:-1]).all():
            return f"siblings out of order on level {level}"
    if rows.min() < 0 or rows.max() >= count or not np.array_equal(leaves[rows], np.arange(count)):
        return "its rows and leaves are not each other's inverse"
    return None


def _inverse(permutation: torch.Tensor) -> torch.Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation.long()] = torch.arange(len(permutation), dtype=permutation.dtype)
    return inverse
