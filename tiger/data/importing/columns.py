"""Columns of foreign tables: what is in each, and what it is read as."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import is_bytes, is_list, is_number, is_text
from tiger.data.importing.prices import has_currency, parse_prices
from tiger.data.importing.texts import first_url, is_url, parse_list

# Ways in which databases, spreadsheets and pandas write that there is no value.
NOTHING = ("", "\\N", "NULL", "null", "NaN", "nan", "None", "none", "<NA>", "N/A", "n/a", "#N/A", "undefined")
_EMPTY = frozenset(NOTHING) | {"[]"}
GUESSED = "guessed from its values"
_SAMPLE = 2_000
_IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|avif|svg|bmp)\b", re.IGNORECASE)
# Written alike by every program that reads numbers as numbers; 007 and +49 are not among them.
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Reading:
    """One column of a file, as it is read.

    Args:
        source: its name in the file.
        target: its name in the dataset; empty: it is left out.
        kind: ``id``, ``text``, ``categories``, ``price``, ``number``, ``image``, ``url``, ``native`` (as it is),
            ``time``, ``rating``, ``label`` or ``nothing``.
        how: a word on how it is read, or why it is left out.
    """

    source: str
    target: str
    kind: str
    how: str = ""

    def __str__(self) -> str:
        if not self.target:
            return f"{self.source}: left out{f' ({self.how})' if self.how else ''}"
        if self.source == self.target:
            return f"{self.source}{f': {self.how}' if self.how else ''}"
        return f"{self.target} <- {self.source}{f', {self.how}' if self.how else ''}"


@dataclass(frozen=True)
class Content:
    """Content of a column.

    Args:
        kind: ``empty``, ``number``, ``url``, ``object``, ``list``, ``native`` (dates and the like) or ``text``.
        values: up to 2,000 values as text, without blanks around them.
        distinct: share of different values among them.
    """

    kind: str
    values: list[str]
    distinct: float

    @property
    def are_images(self) -> bool:
        """Whether they are URLs of images."""
        return self.share(lambda text: bool(_IMAGE.search(text) and first_url(text))) > 0.5

    @property
    def have_urls(self) -> bool:
        """Whether there is a URL in most of them."""
        return self.share(lambda text: first_url(text) is not None) > 0.5

    @property
    def are_prices(self) -> bool:
        """Whether most of them are numbers with or without a currency, and short."""
        short = [value for value in self.values if len(value) < 40]
        priced = sum(price is not None for price in parse_prices(short))
        return self.kind in ("number", "text") and priced > len(self.values) / 2

    @property
    def have_currency(self) -> bool:
        """Whether most of them name a currency."""
        return self.share(has_currency) > 0.5

    @property
    def are_paths(self) -> bool:
        """Whether most of them are lists or paths such as ``Beauty > Hair``."""
        return self.kind == "list" or self.share(lambda text: " > " in text) > 0.5

    def share(self, holds) -> float:
        """Share of the values that a test holds for."""
        return sum(map(holds, self.values)) / max(len(self.values), 1)


def content_of(column: pa.ChunkedArray) -> Content:
    """Look at the values of a column.

    Args:
        column: of any plain type.
    """
    kind = column.type
    values = _first_values(column)
    distinct = len(set(values)) / max(len(values), 1)
    if not values:
        return Content("empty", values, distinct)
    if is_number(kind):
        return Content("number", values, distinct)
    if is_list(kind):
        return Content(
            "object" if pa.types.is_nested(kind.value_type) and _holds_struct(kind) else "list", values, 1.0
        )
    if pa.types.is_nested(kind) or is_bytes(kind):
        return Content("object", values, distinct)
    if not is_text(kind):
        return Content("native", values, distinct)
    return Content(_text_kind(values), values, distinct)


def _text_kind(values: list[str]) -> str:
    def most(holds, share: float = 0.9) -> bool:
        return sum(1 for value in values if holds(value)) >= share * len(values)

    if most(is_url):
        return "url"
    if most(lambda text: text.startswith(("{", "[{"))):
        return "object"
    if most(_PLAIN_NUMBER.fullmatch, 1.0):
        return "number"
    if most(lambda text: parse_list(text) is not None, 0.5):
        return "list"
    return "text"


def _first_values(column: pa.ChunkedArray) -> list[str]:
    found: list[str] = []
    for chunk in column.chunks:
        chunk = chunk.drop_null()
        for start in range(0, len(chunk), _SAMPLE):
            part = chunk[start : start + _SAMPLE]
            if pa.types.is_floating(part.type):
                part = part.filter(pc.invert(pc.is_nan(part)))
            texts = (str(value).strip() for value in part.to_pylist())
            found += [text for text in texts if text not in _EMPTY]
            if len(found) >= _SAMPLE:
                return found[:_SAMPLE]
    return found


def _holds_struct(kind: pa.DataType) -> bool:
    while is_list(kind):
        kind = kind.value_type
    return pa.types.is_nested(kind)
