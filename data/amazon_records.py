"""One line of an Amazon dump of 2014: a review, or a product's metadata."""

from __future__ import annotations

import ast
import html
import json
import math
import warnings
from typing import Any


def parse_review(line: bytes) -> tuple[str, str, int, float]:
    """User id, item id, seconds since 1970 and rating (NaN where there is none) of one line.

    Raises:
        ValueError: not a JSON object, or a field is missing or of the wrong type.
    """
    record = json.loads(line.decode())
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    user, item = _required_text(record, "reviewerID"), _required_text(record, "asin")
    timestamp = record.get("unixReviewTime")
    if isinstance(timestamp, bool) or not isinstance(timestamp, int) or not -(2**63) <= timestamp < 2**63:
        raise ValueError(f"'unixReviewTime' must be whole seconds, got {timestamp!r}")
    rating = record.get("overall")
    if rating is None:
        return user, item, timestamp, math.nan
    if isinstance(rating, bool) or not isinstance(rating, (int, float)):
        raise ValueError(f"'overall' must be a number, got {rating!r}")
    return user, item, timestamp, float(rating)


def parse_metadata(line: bytes) -> dict[str, Any]:
    """``asin``, ``title``, ``brand``, ``categories``, ``price`` and ``description`` of one line; None where absent.

    Text is cleaned (:func:`clean_text`), categories become ``"A > B > C"``, the price a float in dollars.

    Raises:
        ValueError: neither JSON nor a Python literal, not an object, or without ``asin``.
    """
    record = parse_literal(line.decode())
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    return {
        "asin": _required_text(record, "asin"),
        "title": clean_text(record.get("title")),
        "brand": clean_text(record.get("brand")),
        "categories": _category_path(record.get("categories")),
        "price": _price(record.get("price")),
        "description": clean_text(record.get("description")),
    }


def clean_text(value: Any) -> str | None:
    """Text with HTML entities decoded (also those escaped twice or more) and runs of blanks made one; None if empty.

    A list of texts is joined by blanks; a number is written out.
    """
    if isinstance(value, (list, tuple)):
        value = " ".join(text for text in map(clean_text, value) if text)
    if value is None:
        return None
    text = str(value)
    while (decoded := html.unescape(text)) != text:  # ends: each round shortens the text
        text = decoded
    # A Python literal can hold halves of a surrogate pair, which no UTF-8 file can: join pairs, replace lone halves.
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(text.split()) or None


def _required_text(record: dict, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name!r} must be a text, got {value!r}")
    value.encode()  # a lone surrogate is a UnicodeEncodeError, a ValueError
    return value


def parse_literal(text: str) -> Any:
    """The value of a JSON text or a Python literal. JSON first: a literal's single quotes fail it at once."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in product texts
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deep"
        raise ValueError(f"neither JSON nor a Python literal ({reason})") from error


def _category_path(value: Any) -> str | None:
    """The longest of a product's category paths, the first of equals, as ``"A > B > C"``."""
    if not isinstance(value, (list, tuple)):
        return clean_text(value)
    paths = value if any(isinstance(path, (list, tuple)) for path in value) else [value]
    cleaned = [
        [name for name in map(clean_text, path if isinstance(path, (list, tuple)) else [path]) if name]
        for path in paths
    ]
    return " > ".join(max(cleaned, key=len, default=[])) or None


def _price(value: Any) -> float | None:
    """Dollars as a float; None for what isn't a price."""
    try:
        price = float(str(value).replace("$", "").replace(",", ""))
    except ValueError:
        return None
    return price if math.isfinite(price) and price >= 0 else None
