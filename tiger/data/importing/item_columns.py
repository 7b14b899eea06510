"""Columns of an item table: what each is read as."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa

from tiger.data.importing.columns import GUESSED, Content, Reading, content_of
from tiger.data.importing.keys import Keys
from tiger.data.importing.names import ITEM_NAMES, named

_KINDS = {
    "item_id": "id",
    "title": "text",
    "description": "text",
    "brand": "text",
    "categories": "categories",
    "price": "price",
    "image_url": "image",
}
_PAGE = "kept for the page, left out of the text"


def read_item_columns(table: pa.Table, keys: Keys, given: Mapping[str, str]) -> list[Reading]:
    """Decide what each column of an item table is, by its name and by what is in it.

    Args:
        table: the item table as it was read.
        keys: the column of item ids.
        given: column by target (``title``, ``price``, ...), where the caller knows.

    Returns:
        One reading per column, in the order of the table.
    """
    key = keys.item
    contents = {name: content_of(table[name]) for name in table.column_names if name != key}
    taken = {target: name for target, name in given.items() if target in _KINDS and target != "item_id"}
    guessed: set[str] = set()
    for target in ("image_url", "price", "title", "categories", "brand", "description"):
        free = [name for name in contents if name not in taken.values()]
        if target in taken:
            continue
        fitting = [name for name in named(free, ITEM_NAMES[target]) if _fits(target, contents[name])]
        if not fitting:
            fitting = [name for name in free if _looks_like(target, contents[name])]
            fitting = sorted(fitting, key=lambda name: -contents[name].distinct) if target == "title" else fitting
            guessed |= set(fitting[:1])
        if fitting:
            taken[target] = fitting[0]
    roles = {name: target for target, name in taken.items()}
    names = {"item_id", *taken}
    readings = []
    for name in table.column_names:
        if name == key:
            readings.append(Reading(name, "item_id", "id", GUESSED if key in keys.guessed else ""))
        elif name in roles:
            target = roles[name]
            how = _how(target, contents[name], name in guessed)
            readings.append(Reading(name, target, _KINDS[target], how))
        else:
            readings.append(_other(name, contents[name], names))
            names.add(readings[-1].target)
    return readings


def _fits(target: str, content: Content) -> bool:
    """Whether a column of the right name holds what it says."""
    if target == "price":
        return content.kind == "number" or (content.kind == "text" and content.are_prices)
    if target == "image_url":
        return content.have_urls
    return (
        content.kind
        in {
            "title": ("text",),
            "brand": ("text", "list"),
            "categories": ("text", "list", "number"),
            "description": ("text", "list"),
        }[target]
    )


def _looks_like(target: str, content: Content) -> bool:
    """Whether a column of another name can be nothing else."""
    if target == "price":
        return content.kind == "text" and content.have_currency
    if target == "image_url":
        return content.are_images
    if target == "categories":
        return content.are_paths and content.kind in ("text", "list")
    if target == "title":
        length = sum(map(len, content.values)) / max(len(content.values), 1)
        return content.kind == "text" and content.distinct > 0.5 and 4 <= length <= 200
    return False


def _how(target: str, content: Content, guessed: bool) -> str:
    parts = [GUESSED] if guessed else []
    if target == "price" and content.kind == "text":
        parts.append("parsed")
    if target == "image_url":
        parts.append(f"{'a URL' if content.kind == 'url' else 'its first URL'}, {_PAGE}")
    if content.kind == "list":
        parts.append("lists joined")
    return ", ".join(parts)


def _other(name: str, content: Content, names: set[str]) -> Reading:
    """A column that stands for none of ours: kept by its name, if it can be of use."""
    if content.kind == "empty":
        return Reading(name, "", "nothing", "empty")
    if content.kind == "object":
        return Reading(name, "", "nothing", "objects, not text or numbers")
    target = re.sub(r"\s+", "_", name.strip())
    if content.kind == "url" or content.are_images:
        target = target if re.search(r"(?:^|_)url$", target) else f"{target}_url"
        return Reading(name, _free(target, names), "url", f"{'a URL' if content.kind == 'url' else 'URLs'}, {_PAGE}")
    target = _free(target, names)
    if content.kind == "number":
        return Reading(name, target, "number", "numbers")
    if content.kind == "native":
        return Reading(name, target, "native", "kept as it is")
    return Reading(name, target, "text", "text" if content.kind == "text" else "lists joined")


def _free(name: str, names: set[str]) -> str:
    number = 2
    free = name
    while free in names:
        free, number = f"{name}_{number}", number + 1
    return free
