"""The same history answered by each method side by side: the T5, the ranker, and popularity."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from tiger.data.sequences import Sequences
from tiger.evaluation.baselines import Popularity
from tiger.rankers.base import Ranker
from tiger.recommender.filters import CompiledFilter
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.page.cards import facts_html
from tiger.serving.page.catalog import PageCatalog
from tiger.serving.page.link import PageState

NAMES = {"T5": "T5 alone", "memory": "T5 and memory", "ranker": "T5 and ranker", "popularity": "Most popular"}


def popularity_of(ranker: Ranker | None, count: int) -> Popularity | None:
    """Popularity of ``count`` items in the log; None: the recommender doesn't know it.

    The two-stage ranker is saved with its log's counts; nothing else in a recommender has any.
    """
    from tiger.rankers.two_stage.features import DAYS
    from tiger.rankers.two_stage.ranker import TwoStageRanker

    if not isinstance(ranker, TwoStageRanker):
        return None
    return Popularity().fit(Sequences.from_rows([ranker.candidates.events // DAYS]), count)


def compare(
    recommender: TigerRecommender,
    state: PageState,
    history: np.ndarray,
    popularity: Popularity | None,
    filter: CompiledFilter | None = None,
) -> dict[str, np.ndarray]:
    """Rows of the items that each method answers, best first.

    Args:
        state: number of answers and search options.
        history: int64 [m], rows.
        popularity: of :func:`popularity_of`.
        filter: what may be answered; None: everything.
    """
    ids = [recommender.tokenizer.item_ids[row] for row in history]
    search: dict[str, Any] = {
        "num_beams": max(state.num_beams, state.k),
        "exclude_history": state.exclude_history,
        "filter": filter,
    }
    methods: dict[str, dict[str, Any]] = {"T5": {"rank": False}}
    if recommender.memory is not None:
        methods = {"T5": {"rank": False, "memory": False}, "memory": {"rank": False}}
    if recommender.ranker is not None:
        methods["ranker"] = {"rank": True}
    found = {}
    for name, method in methods.items():
        items, _ = recommender.recommend([ids], k=state.k, **method, **search)
        found[name] = recommender.tokenizer.rows(items[0])
    if popularity is not None:
        count = state.k if filter is None else len(recommender.tokenizer)
        rows = popularity.recommend(Sequences.from_rows([history]), count, state.exclude_history)[0][0]
        rows = rows[rows >= 0].astype(np.int64)
        found["popularity"] = rows if filter is None else rows[filter.mask[rows]][: state.k]
    return found


def comparison_html(catalog: PageCatalog, found: dict[str, np.ndarray], length: int) -> str:
    """A list per method, after a history of ``length`` items; each item with its places in the other lists."""
    places = {name: {int(row): place for place, row in enumerate(rows, start=1)} for name, rows in found.items()}
    columns = []
    for name, rows in found.items():
        entries = []
        for place, row in enumerate(rows.tolist(), start=1):
            others = [
                f"{NAMES[other]}: {there[row]}" for other, there in places.items() if other != name and row in there
            ]
            note = f'<div class="also">{escape(" · ".join(others))}</div>' if others else ""
            entries.append(
                f'<li><span class="place">{place}</span><div><div class="name">{escape(catalog.titles[row])}</div>'
                f"{facts_html(catalog, row)}{note}</div></li>"
            )
        columns.append(f'<div><h2>{NAMES[name]}</h2><ol class="numbered">{"".join(entries)}</ol></div>')
    after = f"After the chosen history of {length} items" if length != 1 else "After the one chosen item"
    about = f"{after if length else 'Without a history'}, with the settings of the first tab."
    if len(found) == 1:
        about += " This recommender has no ranker and no counts of its log: there is nothing to compare the T5 with."
    return f'<div class="tiger"><p class="quiet">{about}</p><div class="columns">{"".join(columns)}</div></div>'
