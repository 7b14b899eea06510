"""Items as HTML: cards with semantic IDs, the history, search results and answers.

Texts of items are not trusted: all are escaped. Buttons say in ``data-act`` and ``data-item`` what they do; the page's
script passes both on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from tiger.semantic_ids.code_tree import shared_prefixes
from tiger.serving.page.catalog import PageCatalog


@dataclass(frozen=True)
class Answer:
    """A recommended item.

    Args:
        row: of the item.
        score: relative to the best answer's, from 0 to 1.
        numbers: names and values of what lies behind the score.
        because: row of the item of the history that stands out as its reason; -1: none.
        how: how the reason was found.
    """

    row: int
    score: float
    numbers: tuple[tuple[str, str], ...] = ()
    because: int = -1
    how: str = ""


def code_chips(semantic_id: Sequence[int], shared: int = 0, note: str = "") -> str:
    """A semantic ID as HTML, its first ``shared`` codes highlighted; ``note`` says why."""
    chips = "".join(
        f'<span class="code{" shared" if level < shared else ""}">{int(code)}</span>'
        for level, code in enumerate(semantic_id)
    )
    why = f'<b class="quiet">{escape(note)}</b>' if note else ""
    return f'<div class="codes">{chips}{why}</div>'


def button_html(text: str, act: str, item: str, what: str = "") -> str:
    """A button of the page's script; ``what``: of which item, for who doesn't see the card around it."""
    hidden = f'<span class="unseen"> {escape(what)}</span>' if what else ""
    return (
        f'<button type="button" class="act" data-act="{escape(act)}" data-item="{escape(item)}">'
        f"{escape(text)}{hidden}</button>"
    )


def facts_html(catalog: PageCatalog, row: int) -> str:
    """Brand, categories and price of an item, those that are known."""
    price = catalog.price(row)
    parts = [
        catalog.brands[row] if catalog.brands else "",
        catalog.categories[row] if catalog.categories else "",
        f"price {price}" if price else "",
    ]
    return f'<div class="quiet">{escape(" · ".join(part for part in parts if part))}</div>'


def image_html(catalog: PageCatalog, row: int) -> str:
    """The image of an item, where there is one and images are shown."""
    address = catalog.image(row)
    if not address:
        return ""
    return (
        f'<img class="image" src="{escape(address)}" alt="Image of {escape(catalog.titles[row])}" width="64" '
        'height="64" loading="lazy" decoding="async" referrerpolicy="no-referrer">'
    )


def item_card(
    catalog: PageCatalog,
    row: int,
    place: str = "",
    below: str = "",
    aside: str = "",
    chips: str | None = None,
    facts: bool = True,
) -> str:
    """An item as an entry of a list.

    Args:
        row: row of the item.
        place: text before it; left out if empty.
        below, aside: HTML under its codes and beside it.
        chips: its codes as HTML; None: none of them highlighted.
        facts: whether brand, categories and price are shown.
    """
    chips = code_chips(catalog.semantic_ids[row]) if chips is None else chips
    known = facts_html(catalog, row) if facts else ""
    before = f'<span class="place">{escape(place)}</span>' if place else ""
    after = f'<div class="aside">{aside}</div>' if aside else ""
    return (
        f'<li>{before}<div class="about">{image_html(catalog, row)}<div><div class="name">'
        f"{escape(catalog.titles[row])}</div>{known}{chips}{below}</div></div>{after}</li>"
    )


def history_html(catalog: PageCatalog, rows: Sequence[int] | np.ndarray) -> str:
    """The chosen items with their semantic IDs, and buttons that remove them."""
    if len(rows) == 0:
        return (
            '<div class="tiger quiet">Nothing chosen yet: what is recommended now is what anybody may like. Search, '
            "or choose an example.</div>"
        )
    cards = []
    for place, row in enumerate(rows, start=1):
        remove = button_html("Remove", "remove", catalog.item_ids[row], catalog.titles[row])
        cards.append(item_card(catalog, int(row), str(place), aside=remove, facts=False))
    clear = button_html("Clear the history", "clear", "")
    return f'<div class="tiger"><ol class="numbered">{"".join(cards)}</ol>{clear}</div>'


def results_html(catalog: PageCatalog, rows: Sequence[int] | np.ndarray, query: str) -> str:
    """Items that a search found, as buttons that add them to the history."""
    if not query.strip():
        return ""
    if len(rows) == 0:
        return '<div class="tiger quiet">No title or id has all of these words.</div>'
    entries = "".join(
        f"<li>{button_html(catalog.titles[row], 'add', catalog.item_ids[row])}</li>" for row in map(int, rows)
    )
    return f'<div class="tiger"><ul class="results" aria-label="Search results: choose one">{entries}</ul></div>'


def meter_html(share: float, what: str) -> str:
    """A bar of a share from 0 to 1, and what it says in words."""
    percent = round(100 * min(max(share, 0.0), 1.0))
    label = escape(f"{what}: {percent}%")
    return (
        f'<div class="meter" role="img" aria-label="{label}" title="{label}"><i style="width: {percent}%"></i></div>'
    )


def numbers_html(answer: Answer, title: str) -> str:
    """The numbers behind a score, folded up."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in answer.numbers)
    how = f'<p class="quiet">{escape(answer.how)}</p>' if answer.how else ""
    unseen = f'<span class="unseen"> of {escape(title)}</span>'
    return f"<details><summary>Numbers{unseen}</summary><dl>{rows}</dl>{how}</details>" if rows or how else ""


def answer_html(catalog: PageCatalog, answers: Sequence[Answer], history: Sequence[int]) -> str:
    """Recommended items, best first: reasons, bars, numbers, and the codes that they share with the history."""
    if len(answers) == 0:
        return '<div class="tiger quiet">There is nothing left to recommend.</div>'
    rows = [answer.row for answer in answers]
    lengths, who = shared_prefixes(catalog.semantic_ids[rows], catalog.semantic_ids[list(history)])
    cards = []
    for place, (answer, length, one) in enumerate(zip(answers, lengths, who), start=1):
        title = catalog.titles[answer.row]
        # The item that is the reason is named below: no need to name it twice.
        note = "" if one < 0 or history[one] == answer.because else f"as {catalog.titles[int(history[one])]}"
        below = ""
        if answer.because >= 0:
            seen = escape(catalog.titles[answer.because])
            below = f'<div class="because" title="{escape(answer.how)}">because you viewed <b>{seen}</b></div>'
        below += numbers_html(answer, title)
        aside = meter_html(answer.score, "Score, relative to the best answer's")
        aside += button_html("Add to history", "add", catalog.item_ids[answer.row], title)
        chips = code_chips(catalog.semantic_ids[answer.row], int(length), note)
        cards.append(item_card(catalog, answer.row, str(place), below, aside, chips))
    return f'<div class="tiger"><ol id="answers" class="numbered">{"".join(cards)}</ol></div>'
