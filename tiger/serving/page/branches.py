"""The tree of codes as HTML: what items under a prefix have in common, and where it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from tiger.semantic_ids.code_tree import Shared
from tiger.serving.page.cards import code_chips, item_card
from tiger.serving.page.catalog import PageCatalog

COLUMNS = {"categories": "Categories", "brand": "Brands", "title": "Words of the titles"}


def shares_html(found: list[Shared], count: int) -> str:
    """Common properties of ``count`` items: how many of them have each, and its lift."""
    return "".join(
        f'<div class="share"><span>{escape(one.value)}</span><span class="quiet">{one.count} of {count} · '
        f"{one.lift:,.{0 if one.lift >= 10 else 1}f}×</span>"
        f'<div class="bar"><i style="width: {100 * one.count / count:.0f}%"></i></div></div>'
        for one in found
    )


def branch_html(catalog: PageCatalog, prefix: Sequence[int], examples: int = 8) -> str:
    """The items under a prefix: how many, what they have in common, and some of them."""
    rows = catalog.under(prefix)
    name = ", ".join([*map(str, prefix), *["*"] * (catalog.codes.shape[1] - len(prefix))])
    parts = [
        f'<div class="tiger"><h2>({name}): {len(rows):,} of {len(catalog):,} items</h2>'
        '<div class="quiet">Properties that are more frequent here than in the whole catalog: in how many '
        'items, and how many times as often</div><div class="groups">'
    ]
    for column, found in catalog.shared(prefix).items():
        if found:
            parts.append(f"<div><h3>{COLUMNS[column]}</h3>{shares_html(found, len(rows))}</div>")
    parts.append("</div><h3>Some of them</h3><ol>")
    chosen = rows[np.linspace(0, len(rows) - 1, min(examples, len(rows))).astype(int)]
    parts += [
        item_card(catalog, row, chips=code_chips(catalog.semantic_ids[row], len(prefix))) for row in chosen.tolist()
    ]
    return "".join([*parts, "</ol></div>"])


def branch_choices(catalog: PageCatalog, prefix: Sequence[int]) -> list[tuple[str, int]]:
    """Codes that may follow a prefix, as ``(label, code)``; labels name the items' number and main property."""
    choices = []
    for code, count in catalog.children(prefix):
        shared = catalog.shared([*prefix, code], limit=1)
        properties = [*shared.get("categories", []), *shared.get("title", [])]
        items = "1 item" if count == 1 else f"{count} items"
        choices.append((f"{code}: {items}" + (f", {properties[0].value}" if properties else ""), code))
    return choices
