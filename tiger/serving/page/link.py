"""The page's state in its address: the history and the settings, so that a link opens the same page.

Whoever made a link is not trusted: what it holds is checked and limited, and what is left out is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tiger.retriever.search_options import option_default
from tiger.serving.query import FILTER_LIMITS

MAX_ITEMS = 100  # of a history; the T5 reads fewer
MAX_ID = 256  # characters of an item's id
MAX_QUERY = 16_384  # characters of an address, more than a history of MAX_ITEMS ids of 100 characters needs
MAX_K, MAX_NUM_BEAMS, MAX_TEMPERATURE = 50, 200, 3.0
VIEWS = ("recommend", "compare", "map", "tree")


@dataclass(frozen=True)
class PageState:
    """State of the page.

    Args:
        items: the history's ids, oldest first, known or not.
        k: number of answers.
        num_beams, temperature, exclude_history: search options; a temperature of 0: the most probable items.
        rank: whether the ranker orders.
        view: the open tab, of :data:`VIEWS`.
        filter: what answers have to be, in words; empty: anything.
    """

    items: list[str] = field(default_factory=list)
    k: int = 10
    num_beams: int = option_default("num_beams")
    temperature: float = 0.0
    exclude_history: bool = option_default("exclude_history")
    rank: bool = True
    view: str = "recommend"
    filter: str = ""


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return read


def _temperature(text: str) -> float:
    value = float(text[:20])
    if not (math.isfinite(value) and 0 <= value <= MAX_TEMPERATURE):
        raise ValueError
    return value


def _view(text: str) -> str:
    if text not in VIEWS:
        raise ValueError
    return text


def _filter(text: str) -> str:
    if len(text) > FILTER_LIMITS.length:
        raise ValueError
    return text


# Parameters of an address: the field, and how its value is read.
PARAMETERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "k": ("k", _whole(1, MAX_K)),
    "beams": ("num_beams", _whole(1, MAX_NUM_BEAMS)),
    "temperature": ("temperature", _temperature),
    "exclude": ("exclude_history", lambda text: bool(_whole(0, 1)(text))),
    "rank": ("rank", lambda text: bool(_whole(0, 1)(text))),
    "view": ("view", _view),
    "filter": ("filter", _filter),
}


def clean_ids(values: Any) -> list[str]:
    """Ids as a history holds them: texts that may be ids, each once, at most :data:`MAX_ITEMS` of them."""
    given: Iterable[Any] = values if isinstance(values, (list, tuple)) else []
    kept = dict.fromkeys(one for one in given if isinstance(one, str) and 0 < len(one) <= MAX_ID)
    return list(kept)[:MAX_ITEMS]


def read_link(query: Any) -> tuple[PageState, list[str]]:
    """The state in an address's query, and what is wrong with it, a sentence each.

    Args:
        query: such as ``?item=a&item=b&k=5``.
    """
    if not isinstance(query, str) or len(query) > MAX_QUERY:
        return PageState(), ["This link is too long and was not read."]
    try:
        pairs = parse_qsl(query.removeprefix("?"), True, max_num_fields=4 * MAX_ITEMS, errors="replace")
    except ValueError:
        return PageState(), ["This link has too many parts and was not read."]
    problems, values = [], {}
    items = [value for name, value in pairs if name == "item" and value]
    kept = clean_ids(items)
    if len(set(items)) > len(kept):
        problems.append(f"This link names more than {MAX_ITEMS} items, or ids that are too long: not all were read.")
    for name, value in pairs:
        if name in PARAMETERS:
            key, read = PARAMETERS[name]
            try:
                values[key] = read(value)
            except ValueError:
                problems.append(f"{name} in this link can't be {value[:40]!r}: the default is used.")
    return PageState(items=kept, **values), problems


def write_link(state: PageState) -> str:
    """The query of a state's address: what differs from the defaults."""
    default, parts = PageState(), [("item", item) for item in state.items]
    for name, (key, _) in PARAMETERS.items():
        value = getattr(state, key)
        if value != getattr(default, key):
            parts.append((name, value if isinstance(value, str) else f"{value:g}"))
    return f"?{urlencode(parts)}" if parts else ""
