"""Search items by words, and describe the items under a prefix of codes by their common properties.

Knows no model and no page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse

from tiger.semantic_ids.text_search import WORD, TextSearch
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer


@dataclass(frozen=True)
class Shared:
    """A property that items have in common.

    Args:
        value: what they share.
        count: how many have it.
        lift: how many times its share in the whole catalog that is.
    """

    value: str
    count: int
    lift: float


class CodeTree:
    """A catalog as a tree of codes.

    Args:
        tokenizer: items and their codes.
        items: the item table in the tokenizer's order; its ``title``, ``brand`` and ``categories`` are read where it
            has them. None: there are only ids.

    Example:
        >>> tokenizer = SemanticIdTokenizer(np.array([[1, 2], [1, 3], [0, 3]]), ["a", "b", "c"], codebook_size=4)
        >>> tree = CodeTree(tokenizer, pa.table({"item_id": ["a", "b", "c"], "title": ["red tent", "tent", "lamp"]}))
        >>> tree.children([1]), tree.search("tent").tolist(), tree.shared([1])["title"][0].value
        ([(2, 1), (3, 1)], [1, 0], 'tent')
    """

    def __init__(self, tokenizer: SemanticIdTokenizer, items: pa.Table | None = None):
        self.item_ids = tokenizer.item_ids
        self.codes = tokenizer.codes
        self.semantic_ids = tokenizer.semantic_ids
        read = (
            [] if items is None else [name for name in ("title", "brand", "categories") if name in items.column_names]
        )
        columns = {name: items[name].to_pylist() for name in read}  # type: ignore[index]
        ids = self.item_ids.to_arrow().to_pylist()
        self._has_titles = "title" in columns
        self.titles = [str(title) if title else item for title, item in zip(columns.get("title", ids), ids)]
        self.brands = [_text(brand) for brand in columns.get("brand", [])]
        self.categories = [_text(categories) for categories in columns.get("categories", [])]
        self._search = TextSearch([f"{title} {item}".lower() for title, item in zip(self.titles, ids)])
        self._lengths = np.fromiter(map(len, self.titles), np.int32, len(ids))
        # One sparse 0/1 matrix per column: which item has which property.
        self._has = {}
        for name, values, split in (
            ("categories", self.categories, _categories),
            ("brand", self.brands, _whole),
            ("title", self.titles, _words),
        ):
            names, matrix = _properties(values, split)
            if len(names):
                self._has[name] = (names, matrix, np.asarray(matrix.sum(0)).ravel())

    def __len__(self) -> int:
        return len(self.item_ids)

    def search(self, query: str, limit: int = 10) -> np.ndarray:
        """Rows of items in whose title or id every word of the query occurs, int64 [at most ``limit``].

        First those that have most of them as words of their own, then the shorter titles.
        """
        words = query.lower().split()
        if not words:
            return np.empty(0, dtype=np.int64)
        rows, own = self._search.find(words)
        return rows[np.lexsort((self._lengths[rows], -own))[:limit]]

    def example_query(self) -> str:
        """Words of a title that finds several items: of the first title that has any, the two that most titles have.

        Words of the brand, and of more than a tenth of the titles, are left out where others are left. Without
        titles, an id.
        """
        if not self._has_titles or "title" not in self._has:
            return self.item_ids[0]
        names, matrix, totals = self._has["title"]
        for row in range(len(self)):
            own = matrix[row].indices
            brand = _words(self.brands[row]) if self.brands else []
            rare = own[(totals[own] <= len(self) / 10) & (totals[own] > 1) & ~np.isin(names[own], brand)]
            chosen = rare if len(rare) else own
            if len(chosen):
                best = sorted(chosen[np.argsort(-totals[chosen], kind="stable")[:2]])
                lower = self._search.texts[row].as_py()
                return " ".join(sorted((str(names[place]) for place in best), key=lower.find))
        return self.item_ids[0]

    def under(self, prefix: Sequence[int]) -> np.ndarray:
        """Rows of the items whose codes begin with these, int64."""
        return np.flatnonzero((self.codes[:, : len(prefix)] == np.asarray(prefix, dtype=np.int64)).all(axis=1))

    def children(self, prefix: Sequence[int]) -> list[tuple[int, int]]:
        """Codes that follow a prefix and the items under each, most items first; none after a whole tuple."""
        if len(prefix) >= self.codes.shape[1]:
            return []
        values, counts = np.unique(self.codes[self.under(prefix), len(prefix)], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(values[place]), int(counts[place])) for place in order]

    def shared(self, prefix: Sequence[int], limit: int = 6) -> dict[str, list[Shared]]:
        """Values that the items under a prefix have in common, one list per column.

        Only what they have more often than the catalog does; what is both frequent and peculiar to them first (by
        count times the logarithm of the lift).
        """
        rows, found = self.under(prefix), {}
        for name, (values, matrix, totals) in self._has.items():
            counts = np.asarray(matrix[rows].sum(0)).ravel()
            lifts = (counts / max(len(rows), 1)) / (totals / len(self))
            weight = counts * np.log(np.maximum(lifts, 1))
            weight[(counts < 2) & (len(rows) > 1)] = 0
            order = [place for place in np.argsort(-weight, kind="stable")[:limit] if weight[place] > 0]
            found[name] = [Shared(str(values[place]), int(counts[place]), float(lifts[place])) for place in order]
        return found


def categories_at(items: pa.Table, level: int) -> np.ndarray:
    """Name of each item's category at a level of its path (``Beauty > Hair Care > Shampoos``): string [n].

    Args:
        items: the item table; without a column ``categories``, nothing has one.
        level: 1 for the first part of the path; empty where it is shorter.
    """
    if "categories" not in items.column_names:
        return np.full(items.num_rows, "")
    paths = [[part.strip() for part in _text(value).split(">")] for value in items["categories"].to_pylist()]
    return np.array([path[level - 1] if len(path) >= level else "" for path in paths], dtype=str)


def shared_prefixes(semantic_ids: np.ndarray, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length of the prefix that each semantic ID shares with some item of a history.

    Args:
        semantic_ids: int [n, depth].
        history: int [m, depth].

    Returns:
        int64 [n], codes of the longest common prefix, and int64 [n], the first item of the history that has it; -1
        where none shares even the first code.
    """
    if len(history) == 0:
        return np.zeros(len(semantic_ids), dtype=np.int64), np.full(len(semantic_ids), -1)
    equal = semantic_ids[:, None, :] == history[None, :, :]
    lengths = np.cumprod(equal, axis=2).sum(axis=2)
    best = lengths.argmax(axis=1)
    longest = lengths[np.arange(len(lengths)), best]
    return longest, np.where(longest > 0, best, -1)


def _properties(values: list[str], split: Callable[[str], list[str]]) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Properties of items, by the value of a column.

    Args:
        values: one per item.
        split: gives the properties that a value names.

    Returns:
        Their names, ascending, and which item has which: int32 [items, names], 0 or 1.
    """
    numbers: dict[str, int] = {}
    known: dict[str, list[int]] = {}  # of values that many items have, each is split once
    for value in values:
        if value not in known:
            known[value] = _numbered(split(value), numbers)
    found = [known[value] for value in values]
    names = np.array(list(numbers), dtype=object)
    order = np.argsort(names)
    place = np.argsort(order).astype(np.int32)
    starts = np.cumsum([0, *map(len, found)])
    columns = place[np.fromiter((number for row in found for number in row), np.int64, starts[-1])]
    matrix = sparse.csr_matrix(
        (np.ones(len(columns), dtype=np.int32), columns, starts), shape=(len(found), len(names))
    )
    matrix.sort_indices()
    return names[order], matrix


def _numbered(names: list[str], numbers: dict[str, int]) -> list[int]:
    """Numbers of the distinct names, new ones from the count of the known on."""
    return [numbers.setdefault(name, len(numbers)) for name in dict.fromkeys(names)]


def _text(value: object) -> str:
    if isinstance(value, list):
        return " > ".join(map(str, value))
    return "" if value is None else str(value)


def _categories(path: str) -> list[str]:
    return [part.strip() for part in re.split(r"[>|;]", path) if part.strip()]


def _whole(value: str) -> list[str]:
    return [value] if value else []


def _words(title: str) -> list[str]:
    return [word for word in WORD.findall(title.lower()) if len(word) > 2 and not word.isdigit()]
