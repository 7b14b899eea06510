"""Example histories, made from the catalog: items that begin with the same code, named by what they share.

A recommender's directory holds nobody's history. Items under one code are alike, so that a few of them look like the
history of somebody with one interest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiger.semantic_ids.code_tree import CodeTree

LENGTH = 4  # items of an example: enough for the retriever to see an interest, few enough to read. Not tuned.


@dataclass(frozen=True)
class Starter:
    """An example history.

    Args:
        name: what its items have in common.
        rows: of the items, oldest first.
    """

    name: str
    rows: tuple[int, ...]


def starter_histories(tree: CodeTree, count: int = 4) -> list[Starter]:
    """Examples of the first codes with the most items, each of another name; the same each time.

    The last one is of somebody with two interests, half of the first example and half of the second.
    """
    found: dict[str, Starter] = {}
    for code, _ in tree.children([]):
        if len(found) == count - 1:
            break
        starter = starter_of(tree, code, np.random.default_rng(code))
        found.setdefault(starter.name, starter)
    singles = list(found.values())
    if len(singles) < 2:
        return singles
    first, second = singles[:2]
    half = LENGTH // 2
    return [*singles, Starter(f"{first.name}, then {second.name}", first.rows[:half] + second.rows[:half])]


def surprise(tree: CodeTree, random: np.random.Generator) -> Starter:
    """A history at random: a first code, each as often as it has items, and some of its items."""
    return starter_of(tree, int(tree.codes[random.integers(len(tree)), 0]), random)


def starter_of(tree: CodeTree, code: int, random: np.random.Generator) -> Starter:
    """Some items that begin with a code."""
    rows = tree.under([code])
    chosen = random.choice(rows, min(LENGTH, len(rows)), replace=False)
    return Starter(_name(tree, code), tuple(int(row) for row in chosen))


def _name(tree: CodeTree, code: int) -> str:
    """The most special category, title word or brand of the items under a code; else the code."""
    shared = tree.shared([code], limit=1)
    for column in ("categories", "title", "brand"):
        for one in shared.get(column, []):
            return one.value
    return f"code {code}"
