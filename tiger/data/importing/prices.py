"""Prices as people write them, to numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

# A mark before it belongs to it in $.99, but not in Rs.500.
_NUMBER = re.compile(r"(?:(?<![\w.])[.,])?\d[\d.,'’\s\u00a0\u202f]*")
_AFTER_CURRENCY = re.compile(r"[$€£¥₹₽₩₺]\s*(?=[.,]?\d)")
_FREE = re.compile(r"free\b|gratis|kostenlos|gratuit", re.IGNORECASE)
_CURRENCY = re.compile(r"[$€£¥₹₽₩₺]|\b(?:USD|EUR|GBP|JPY|CHF|CAD|AUD|INR|SEK|NOK|DKK|PLN|BRL|CNY|RUB)\b|\bR\$")


def parse_prices(values: Iterable[str | None]) -> list[float | None]:
    """Numbers of a column of prices: ``$9.99``, ``9,99 EUR``, ``1,299.00``, ``1.299,-``, ``Free``.

    Which mark is the decimal one is read from each price; where it can be either (``1,299``), from the other prices of
    the column, and where these say nothing, a comma groups thousands and a point is decimal. Of a range, the lower
    end. None: no price, or a negative one.
    """
    texts = list(values)
    commas = sum(_decimal_mark(text) == "," for text in set(texts) if text)
    points = sum(_decimal_mark(text) == "." for text in set(texts) if text)
    known = {text: _price(text, comma_decimal=commas > points) for text in set(texts) if text is not None}
    return [None if text is None else known[text] for text in texts]


def has_currency(text: str) -> bool:
    """Whether a text is short and names a currency beside a number."""
    return len(text) < 30 and bool(_CURRENCY.search(text) and _NUMBER.search(text))


def currencies(values: Iterable[str | None]) -> set[str]:
    """Currencies that a column names."""
    return {match[0] for text in set(values) if text and (match := _CURRENCY.search(text))}


def _match(text: str) -> re.Match[str] | None:
    """Place of the number: the one after a sign of currency, else the first (``2 for $5`` is 5)."""
    sign = _AFTER_CURRENCY.search(text)
    return _NUMBER.search(text, sign.end() if sign else 0)


def _digits(text: str) -> str:
    match = _match(text)
    return re.sub(r"[\s'’\u00a0\u202f]", "", match[0]).rstrip(".,") if match else ""


def _decimal_mark(text: str) -> str:
    """The mark that must be the decimal one in a price, or an empty text."""
    digits = _digits(text)
    marks = [char for char in digits if char in ".,"]
    if not marks:
        return ""
    if len(set(marks)) == 2:
        return marks[-1]
    if len(marks) > 1:  # 1.299.000: this one groups thousands
        return "," if marks[0] == "." else "."
    whole, _, rest = digits.partition(marks[0])
    return marks[0] if len(rest) != 3 or whole in ("", "0") or len(whole) > 3 else ""


def _price(text: str, comma_decimal: bool) -> float | None:
    match = _match(text)
    if not match:
        return 0.0 if _FREE.match(text.strip()) else None
    digits = _digits(text)
    if text[: match.start()].strip(" $€£¥₹").endswith(("-", "−", "(")):
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?[eE][-+]?\d+\s*", text):
        digits = repr(float(text))
    mark = _decimal_mark(digits) or ("," if comma_decimal else ".")
    digits = digits.replace("." if mark == "," else ",", "").replace(mark, ".")
    try:
        value = float(digits)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
