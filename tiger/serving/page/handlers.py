"""Event handlers of the web page: what its inputs hold becomes HTML and updates of other inputs.

Whoever sends events is not trusted: every value is checked, whatever the page's own inputs allow.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from tiger.data.filter_terms import has_comparable
from tiger.evaluation.baselines import Popularity
from tiger.recommender.filters import CompiledFilter
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.page.answers import find_answers
from tiger.serving.page.branches import branch_choices, branch_html
from tiger.serving.page.cards import answer_html, history_html, results_html
from tiger.serving.page.catalog import PageCatalog
from tiger.serving.page.comparison import compare, comparison_html, popularity_of
from tiger.serving.page.item_map import ItemMap, map_html
from tiger.serving.page.link import (
    MAX_ITEMS,
    MAX_K,
    MAX_NUM_BEAMS,
    MAX_TEMPERATURE,
    VIEWS,
    PageState,
    clean_ids,
    read_link,
    write_link,
)
from tiger.serving.page.starters import Starter, starter_histories, surprise
from tiger.serving.query import FILTER_LIMITS
from tiger.utils.errors import DataError

MAX_NAMED = 5  # unknown ids that a message names
MAX_QUERY = 20_000  # characters of the search box that are read: a hundred long ids


class PageHandlers:
    """Event handlers of the page.

    Args:
        recommender: what answers.
        show_images: show images from where the item table says.
        seed: of the surprises; None: others each time.
    """

    def __init__(self, recommender: TigerRecommender, show_images: bool = False, seed: int | None = None):
        self.recommender = recommender = copy.copy(recommender)  # of one moment, as the catalog that the page shows
        self.catalog = PageCatalog(recommender.tokenizer, recommender.items, show_images)
        self.has_ranker = recommender.ranker is not None
        schema = None if recommender.items is None else recommender.items.schema
        self.columns = schema.names if schema is not None and has_comparable(schema) else []  # to filter by
        self.levels = self.catalog.codes.shape[1]
        self.starters = starter_histories(self.catalog)
        self._random = np.random.default_rng(seed)
        self._map: ItemMap | None = None

    @cached_property
    def popularity(self) -> Popularity | None:
        """Popularity of the items, counted when it is first asked for; None: it is not known."""
        return popularity_of(self.recommender.ranker, len(self.catalog))

    def rows_of(self, item_ids: Any) -> np.ndarray:
        """Rows of the known items among these."""
        return self.catalog.known_rows(clean_ids(item_ids))

    def state(self, chosen, k, beams, temperature, exclude, rank, filter="", view="recommend") -> PageState:
        """The inputs as a state, numbers within their limits."""
        return PageState(
            [self.catalog.item_ids[row] for row in self.rows_of(chosen)],
            min(max(int(k), 1), MAX_K),
            min(max(int(beams), 1), MAX_NUM_BEAMS),
            round(min(max(float(temperature), 0.0), MAX_TEMPERATURE), 3),
            bool(exclude),
            self.has_ranker and bool(rank),
            view if view in VIEWS else VIEWS[0],
            # One character too many stays, so that a long filter is refused and not cut.
            str(filter or "").strip()[: FILTER_LIMITS.length + 1] if self.columns else "",
        )

    def allowed(self, state: PageState) -> CompiledFilter | None:
        """The items that the filter allows; None: there is no filter.

        Raises:
            DataError: it can't be read.
        """
        return self.recommender.state.filters.compile(state.filter, FILTER_LIMITS) if state.filter else None

    def find(self, query: str, chosen):
        """Search results; or, where all of several words are ids (as when pasted), the history with them."""
        query = str(query or "")[:MAX_QUERY]
        words = split_ids(query)
        if len(words) > 1 and len(self.catalog.known_rows(words)) == len(words):
            return self._paste(words, chosen)
        return results_html(self.catalog, self.catalog.search(query), query), gr.skip(), gr.skip(), gr.skip()

    def enter(self, query: str, chosen):
        """Add the ids in the search box, and name those that the catalog lacks; or else search."""
        query = str(query or "")[:MAX_QUERY]
        whole, words = query.strip(), split_ids(query)
        if len(self.catalog.known_rows([whole])):
            return self._paste([whole], chosen)
        some_known = len(self.catalog.known_rows(words)) > 0
        if words and (some_known or "," in query or "\n" in query) and len(self.catalog.search(query)) == 0:
            return self._paste(words, chosen)
        return self.find(query, chosen)

    def _paste(self, words: Sequence[str], chosen):
        ids, message = self.add(words, chosen)
        return "", ids, "", status_html(message)

    def add(self, words: Sequence[str], chosen) -> tuple[list[str], str]:
        """The history with more items, and what to say of it."""
        before = self._known_ids(chosen)
        found = self._known_ids(words)
        unknown = [word for word in dict.fromkeys(words) if not len(self.catalog.known_rows([word]))]
        together = list(dict.fromkeys([*before, *found]))
        parts = []
        if found:
            titles = [self.catalog.titles[row] for row in self.rows_of(found)]
            parts.append(f"Added: {titles[0]}." if len(titles) == 1 else f"Added {len(titles)} items.")
        if unknown:
            parts.append(f"Not in the catalog: {_named(unknown)}.")
        if len(together) > MAX_ITEMS:
            parts.append(f"A history has at most {MAX_ITEMS} items here: the rest was left out.")
        return together[:MAX_ITEMS], " ".join(parts)

    def _known_ids(self, item_ids: Any) -> list[str]:
        return [self.catalog.item_ids[row] for row in self.rows_of(item_ids)]

    def act(self, chosen, event: gr.EventData):
        """Do what a button says: the history, and a message."""
        data = event._data if isinstance(event._data, dict) else {}
        history, message = self.after(str(data.get("act", "")), str(data.get("item", "")), chosen)
        return history, status_html(message)

    def after(self, act: str, item: str, chosen) -> tuple[list[str], str]:
        """The history after a button's action, and what to say of it.

        Args:
            act: ``add``, ``remove``, ``clear``, ``starter`` or ``surprise``; anything else changes nothing.
            item: an id, or the number of an example.
        """
        known = self._known_ids(chosen)
        if act == "add":
            return self.add([item], known)
        if act == "remove":
            return [one for one in known if one != item], "Removed from the history."
        if act == "clear":
            return [], "The history is empty."
        if act == "surprise":
            return self._start(surprise(self.catalog, self._random))
        if act == "starter" and item.isascii() and item.isdigit() and int(item[:4]) < len(self.starters):
            return self._start(self.starters[int(item[:4])])
        return known, ""

    def _start(self, starter: Starter) -> tuple[list[str], str]:
        return [self.catalog.item_ids[row] for row in starter.rows], f"An example history: {starter.name}."

    def show(self, chosen) -> str:
        """The history as HTML."""
        return history_html(self.catalog, self.rows_of(chosen))

    def recommend(self, chosen, k, beams, temperature, exclude, rank, filter=""):
        """The recommended items as HTML, their ids, and a message."""
        state = self.state(chosen, k, beams, temperature, exclude, rank, filter)
        history = self.rows_of(chosen)
        try:
            allowed = self.allowed(state)
        except DataError as error:
            return "", [], status_html(str(error))
        answers = find_answers(self.recommender, state, history, allowed)
        ids = [self.catalog.item_ids[answer.row] for answer in answers]
        items = "1 item" if len(history) == 1 else f"{len(history)} items"
        unknown = [one for one in clean_ids(chosen) if not len(self.catalog.known_rows([one]))]
        message = f"{len(ids)} recommendations after a history of {items}."
        if allowed is not None:
            message += f" The filter allows {allowed.count:,} of {len(self.catalog):,} items."
        message += f" Not in the catalog: {_named(unknown)}." if unknown else ""
        return answer_html(self.catalog, answers, history.tolist()), ids, status_html(message)

    def compare(self, chosen, k, beams, temperature, exclude, rank, filter="") -> str:
        """The lists of all methods as HTML; what is wrong with the filter, where something is."""
        state = self.state(chosen, k, beams, temperature, exclude, rank, filter)
        history = self.rows_of(chosen)
        try:
            allowed = self.allowed(state)
        except DataError as error:
            return status_html(str(error))
        found = compare(self.recommender, state, history, self.popularity, allowed)
        return comparison_html(self.catalog, found, len(history))

    def draw_map(self, chosen, shown) -> str:
        """The map of items as HTML, with the history and the answers marked."""
        if self._map is None:
            self._map = ItemMap(self.recommender)
        return map_html(self.catalog, self._map, self.rows_of(chosen).tolist(), self.rows_of(shown).tolist())

    def open_view(self, chosen, shown, k, beams, temperature, exclude, rank, filter, event: gr.SelectData):
        """Of the tab that was opened: its name, and what it shows, which nobody computed before."""
        place = event.index if isinstance(event.index, int) and 0 <= event.index < len(VIEWS) else 0
        view = VIEWS[place]
        settings = k, beams, temperature, exclude, rank, filter
        comparison = self.compare(chosen, *settings) if view == "compare" else gr.skip()
        return view, comparison, self.draw_map(chosen, shown) if view == "map" else gr.skip()

    def link(self, chosen, k, beams, temperature, exclude, rank, filter, view) -> str:
        """The query of the page's address for what it shows."""
        state = self.state(chosen, k, beams, temperature, exclude, rank, filter, view)
        # Without a ranker its switch is hidden: an address says nothing of it.
        return write_link(state if self.has_ranker else replace(state, rank=True))

    def open_link(self, query):
        """Read the page's address: the history, the settings, the tab and a message; nothing that it omits.

        Somebody may have chosen items before this answer comes: an address that names none leaves them alone.
        """
        state, problems = read_link(query)
        if state == PageState() and not problems:
            return [gr.skip()] * 9
        unknown = [one for one in state.items if not len(self.catalog.known_rows([one]))]
        if unknown:
            problems = [*problems, f"Not in the catalog: {_named(unknown)}."]
        if state.filter and not self.columns:
            problems = [*problems, "This recommender has no columns to filter by: the link's filter was left out."]
        settings: list[Any] = [state.k, state.num_beams, state.temperature, state.exclude_history]
        settings.append(state.rank and self.has_ranker)
        settings.append(state.filter if self.columns else "")
        chosen = self._known_ids(state.items) if state.items else gr.skip()
        return [chosen, *settings, gr.Tabs(selected=state.view), status_html(" ".join(problems))]

    def reopen(self, chosen, k, beams, temperature, exclude, rank, filter=""):
        """Answers of a page that a link with a history has opened; none where it had no history."""
        if not self._known_ids(chosen):
            return gr.skip(), gr.skip()
        return self.recommend(chosen, k, beams, temperature, exclude, rank, filter)[:2]

    def browse(self, *codes):
        """Choices of every level after the first, and the items under the chosen prefix."""
        prefix: list[int] = []
        for code in codes:
            if code is None:
                break
            prefix.append(code)
        updates = []
        for level in range(1, self.levels):
            known = level <= len(prefix)
            choices = branch_choices(self.catalog, prefix[:level]) if known else []
            value = prefix[level] if len(prefix) > level and prefix[level] in dict(choices).values() else None
            if value is None:
                prefix = prefix[:level] if known else prefix
            updates.append(gr.update(choices=choices, value=value, interactive=known))
        return [*updates, branch_html(self.catalog, prefix)]


def split_ids(text: str) -> list[str]:
    """Pasted ids, split at spaces, commas, semicolons and new lines; quotes around them are left out."""
    words = (word.strip("\"'[]") for word in re.split(r"[\s,;]+", text))
    return [word for word in words if word]


def status_html(message: str) -> str:
    """A message as HTML; empty where there is nothing to say."""
    return f'<div class="tiger status">{escape(message)}</div>' if message else ""


def _named(ids: Sequence[str]) -> str:
    """Ids as a message names them: the first few, cut where they are long, and how many more."""
    shown = ", ".join(repr(one if len(one) <= 60 else f"{one[:60]}...") for one in ids[:MAX_NAMED])
    return shown + (f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else "")
