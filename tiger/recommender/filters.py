"""Filters of a catalog: which items may be recommended, by an expression over the item table, by ids or by name.

A filter is compiled once for a catalog: to a mask, and to the counts that a search reads. Both are kept, in a bounded
cache that belongs to the catalog: an update makes another catalog, with an empty one.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tiger.data.filter_syntax import FilterLimits, parse_filter
from tiger.data.filter_terms import unknown_column
from tiger.recommender.filter_cache import FilterCache
from tiger.retriever.allowed_items import AllowedItems
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError, first_line

# One filter: an expression, in words, a name, ids; or what the library made of it.
Filter: TypeAlias = "pc.Expression | str | Sequence[str] | np.ndarray | pa.Array | NamedFilter | CompiledFilter"
PARTS = ("all", "seen", "unseen")  # of a catalog: everything, what training saw, and what it did not
MAX_TOGETHER = 64  # filters that are compiled for one call at a time: they take memory. Not tuned
_GIVE = (
    "Give an expression (pyarrow.compute.field('price') < 20), the same in words ('price < 20'), the name of a filter "
    "that was added, or a list of item ids"
)


@dataclass(frozen=True, eq=False)
class NamedFilter:
    """A filter that was added to a recommender by a name.

    Args:
        name: its name.
        source: an expression, the same in words, or item ids.
    """

    name: str
    source: pc.Expression | str | tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CompiledFilter:
    """The items of one catalog that a filter allows.

    Args:
        mask: bool [n], not writable: the items that may be recommended.
        count: number of them.
        unknown: ids of the filter that the catalog lacks.
        key: by which the cache knows the filter.
        catalog: of the catalog, none other has it.
    """

    mask: np.ndarray
    count: int
    unknown: tuple[str, ...] = ()
    key: Hashable = field(default=None, repr=False)
    catalog: object = field(default=None, repr=False)


@dataclass(frozen=True)
class ChosenFilters:
    """Filters of a call.

    Args:
        filters: different ones; None: everything may be recommended.
        of: int64 [users], which of them each history has.
        per_user: whether each history came with its own.
    """

    filters: list[Filter | None]
    of: np.ndarray
    per_user: bool


class CatalogFilters:
    """Compiles filters of one catalog, and knows those with names.

    Args:
        tokenizer, items, unseen: of the catalog, see :class:`tiger.recommender.state.RecommenderState`.
        named: filters by their names.
    """

    def __init__(
        self,
        tokenizer: SemanticIdTokenizer,
        items: pa.Table | None,
        unseen: np.ndarray,
        named: Mapping[str, NamedFilter] | None = None,
    ):
        self._tokenizer, self._items, self._unseen = tokenizer, items, unseen
        self.named = dict(named or {})
        self.cache, self._catalog = FilterCache(), object()

    def of_catalog(self, tokenizer: SemanticIdTokenizer, items: pa.Table | None, unseen: np.ndarray) -> CatalogFilters:
        """The same names over a catalog; where it is this one, with what is compiled."""
        if tokenizer is self._tokenizer and items is self._items and unseen is self._unseen:
            return self
        return CatalogFilters(tokenizer, items, unseen, self.named)

    def with_named(self, named: Mapping[str, NamedFilter]) -> CatalogFilters:
        """The same catalog, and what is compiled, with these names."""
        other = CatalogFilters(self._tokenizer, self._items, self._unseen, named)
        other.cache, other._catalog = self.cache, self._catalog
        return other

    def add(self, name: str, given: Filter) -> CatalogFilters:
        """With a filter by this name, in place of one that had it.

        Raises:
            DataError: the name is empty, or the filter can't be compiled.
        """
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"a filter's name is a text that is not empty, got {name!r}.")
        if isinstance(given, (CompiledFilter, NamedFilter)):
            source = given.source if isinstance(given, NamedFilter) else tuple(self._ids_of(self.compile(given)))
        elif isinstance(given, str):
            known = self.named.get(given)
            source = given if known is None else known.source
        else:
            source = given if isinstance(given, pc.Expression) else tuple(_ids(given))
        named = NamedFilter(name, source)
        self.compile(named)
        return self.with_named(self.named | {name: named})

    def remove(self, name: str) -> CatalogFilters:
        """Without the filter of this name.

        Raises:
            DataError: there is none.
        """
        if name not in self.named:
            raise DataError(f"no filter is named {name!r}{self._names()}.")
        return self.with_named({one: filter for one, filter in self.named.items() if one != name})

    def compile(self, given: Filter, limits: FilterLimits = FilterLimits()) -> CompiledFilter:
        """Compile a filter, or take it from the cache.

        Args:
            limits: of a filter in words.

        Raises:
            DataError: it is no filter, names a column that is not there, compares what can't be, or was compiled for
                another catalog.
        """
        if isinstance(given, CompiledFilter):
            if given.catalog is not self._catalog:
                raise DataError("this filter was compiled before the catalog changed: compile it again.")
            return given
        if isinstance(given, str):
            given = self.named.get(given, given)
        source = given.source if isinstance(given, NamedFilter) else given
        if not isinstance(source, (str, pc.Expression, tuple)):
            source = tuple(_ids(source))
        key = given if isinstance(given, NamedFilter) else _key(source)
        return self.cache.get(key, lambda: self._compiled(source, key, limits))

    def _compiled(self, source: Any, key: Hashable, limits: FilterLimits) -> tuple[CompiledFilter, int]:
        unknown: tuple[str, ...] = ()
        if isinstance(source, tuple):
            rows = self._tokenizer.rows(_ids(source), missing=-1)
            unknown = tuple(dict.fromkeys(item for item, row in zip(source, rows) if row < 0))
            mask = np.zeros(len(self._tokenizer), dtype=bool)
            mask[rows[rows >= 0]] = True
        else:
            table = self._table()
            mask = evaluate(table, self._parsed(source, table.schema, limits) if isinstance(source, str) else source)
        mask.flags.writeable = False
        return CompiledFilter(mask, int(mask.sum()), unknown, key, self._catalog), mask.nbytes

    def _parsed(self, text: str, schema: pa.Schema, limits: FilterLimits) -> pc.Expression:
        try:
            return parse_filter(text, schema, limits)
        except DataError as error:
            if not self.named:
                raise
            raise DataError(f"{error} Nor is a filter named {text[:60]!r}{self._names()}.") from error

    def _names(self) -> str:
        return f": there are {', '.join(map(repr, self.named))}" if self.named else ""

    def _table(self) -> pa.Table:
        if self._items is not None:
            return self._items
        return pa.table({"item_id": pa.array(self._tokenizer.item_ids, pa.large_string())})

    def _ids_of(self, compiled: CompiledFilter) -> list[str]:
        return [self._tokenizer.item_ids[row] for row in np.flatnonzero(compiled.mask)]

    def mask(self, compiled: CompiledFilter | None, part: str = "all") -> np.ndarray | None:
        """bool [n]: what may be recommended of a part of the catalog, of :data:`PARTS`; None: everything."""
        of_part = {"all": None, "seen": ~self._unseen, "unseen": self._unseen}[part]
        if compiled is None or of_part is None:
            return of_part if compiled is None else compiled.mask
        return compiled.mask & of_part

    def allowed(
        self, compiled: CompiledFilter | None, trie: SemanticIdTrie, part: str = "all"
    ) -> tuple[AllowedItems, int]:
        """The same for a search, and the number of items; from the cache where it is there.

        Args:
            trie: of this catalog, on the device of the search.
        """

        def make() -> tuple[tuple[AllowedItems, int], int]:
            mask = self.mask(compiled, part)
            mask = np.ones(len(self._tokenizer), dtype=bool) if mask is None else mask
            found = AllowedItems.from_mask(trie, torch.from_numpy(mask.copy()))
            return (found, int(mask.sum())), found.nbytes

        key = ("allowed", None if compiled is None else compiled.key, part, str(trie.rows.device))
        return self.cache.get(key, make)

    def choose(self, given: Filter | Sequence[Filter | None] | None, users: int) -> ChosenFilters | None:
        """The filters of a call: one for all histories, or a list of one for each; None: there is none.

        Raises:
            DataError: more or fewer than histories, or one is no filter.
        """
        if given is None:
            return None
        if not is_per_user(given):
            return ChosenFilters([cast(Filter, given)], np.zeros(users, dtype=np.int64), False)
        given = list(given)
        if len(given) != users:
            raise DataError(
                f"filter: {len(given)} filters for {users} histories. Give one for all, or one, or None, for each."
            )
        by_object: dict[int, int] = {}
        by_key: dict[Hashable, int] = {}
        different: list[Any] = []
        for row, one in enumerate(given):
            if id(one) in by_object:  # the list keeps them alive, so that numbers of objects are theirs alone
                continue
            if not isinstance(one, (pc.Expression, str, CompiledFilter, NamedFilter, type(None))):
                try:
                    one = tuple(_ids(one))
                except DataError as error:
                    raise DataError(f"filter, row {row}: {str(error).removeprefix('filter: ')}") from error
            key = one if isinstance(one, (CompiledFilter, NamedFilter, type(None))) else _key(one)
            if key not in by_key:
                by_key[key] = len(different)
                different.append(one)
            by_object[id(given[row])] = by_key[key]
        return ChosenFilters(different, np.array([by_object[id(one)] for one in given], dtype=np.int64), True)


def is_per_user(given: Any) -> TypeGuard[Sequence[Filter | None]]:
    """Whether a list holds filters; a list of texts holds item ids."""
    return isinstance(given, (list, tuple)) and any(not isinstance(one, str) for one in given)


def evaluate(table: pa.Table, expression: pc.Expression) -> np.ndarray:
    """bool [n], writable: rows of a table for which an expression is true, neither false nor null.

    Raises:
        DataError: a column is not there, types don't fit, or the expression is no condition.
    """
    from pyarrow import acero

    nodes = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
        acero.Declaration("project", acero.ProjectNodeOptions([expression], ["allowed"])),
    ]
    try:
        # One thread: others would change the order of rows.
        found = acero.Declaration.from_sequence(nodes).to_table(use_threads=False)["allowed"]
    except (pa.ArrowException, TypeError, ValueError) as error:
        absent = re.search(r"FieldRef\.Name\((.*?)\) in ", str(error))
        if absent:
            raise DataError(unknown_column(table.schema, absent[1])) from error
        raise DataError(f"filter: {first_line(error)[:200]}. Compare columns with values of their types.") from error
    if not pa.types.is_boolean(found.type):
        raise DataError(f"filter: its values are {found.type}, no truth values. Compare them: price < 20.")
    return np.array(pc.fill_null(found, False).to_numpy())


def _ids(given: Any) -> list[str]:
    """Item ids of a filter as a list.

    Raises:
        DataError: it is something else.
    """
    if hasattr(given, "to_pylist"):
        given = given.to_pylist()
    elif hasattr(given, "tolist"):
        given = given.tolist()
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise DataError(f"filter: {str(given)[:60]!r} is none. {_GIVE}.")
    ids = sorted(given) if isinstance(given, (set, frozenset)) else list(given)
    wrong = next((one for one in ids if not isinstance(one, str)), "")
    if wrong != "":
        raise DataError(f"filter: {str(wrong)[:60]!r} is no item id, which is a text. {_GIVE}.")
    return ids


def _key(source: pc.Expression | str | tuple[str, ...]) -> Hashable:
    if isinstance(source, str):
        return "text", source
    if isinstance(source, tuple):
        together = "\0".join(source)
        if together.count("\0") != max(len(source) - 1, 0):  # an id holds what stands between ids
            together = json.dumps(source)
        return "ids", len(source), hashlib.sha256(together.encode("utf-8", "surrogatepass")).digest()
    # An expression has neither a hash nor a text that tells long sets apart; what Arrow would send does.
    return "expression", source.__reduce__()[1][0].to_pybytes()


def compile_aloud(filters: CatalogFilters, given: Filter) -> CompiledFilter:
    """Compile a filter and, where that is new, warn of it as if the caller's caller did, see :func:`warn_of`."""
    compiled = filters.compile(given)
    if compiled is not given:
        warn_of({0: compiled}, ChosenFilters([given], np.zeros(0, dtype=np.int64), False), stacklevel=3)
    return compiled


def warn_of(compiled: Mapping[int, CompiledFilter], chosen: ChosenFilters, stacklevel: int) -> None:
    """Warn of filters that allow nothing, and of ids that the catalog lacks.

    Args:
        compiled: by their places among the chosen ones; those compiled by the caller are left out.
        stacklevel: as of ``warnings.warn``, seen from who calls this.
    """
    unknown = list(dict.fromkeys(item for one in compiled.values() for item in one.unknown))
    if unknown:
        names = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        warnings.warn(f"items of the filter that the catalog lacks: {names}", stacklevel=stacklevel + 1)
    empty = [place for place, one in compiled.items() if one.count == 0]
    rows = np.flatnonzero(np.isin(chosen.of, empty))
    if chosen.per_user and len(rows):
        message = f"the filters of {len(rows)} of {len(chosen.of)} histories, of row {rows[0]} for one, allow no item"
        warnings.warn(f"{message} of the catalog: their answers are empty", stacklevel=stacklevel + 1)
    elif empty and not chosen.per_user:
        message = "the filter allows no item of the catalog: the answers are empty"
        warnings.warn(message, stacklevel=stacklevel + 1)
