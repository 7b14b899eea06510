"""Texts of items as shops export them: HTML stripped, lists joined, URLs found."""

from __future__ import annotations

import html
import json
import re
from typing import Any

_IN_LINE = r"(?:a|abbr|b|big|bdi|code|em|font|i|mark|s|small|span|strong|sub|sup|u)"
_HIDDEN = re.compile(r"<(script|style)\b[^>]*>.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_WITHIN_WORDS = re.compile(rf"</?{_IN_LINE}(?:\s[^<>]*)?/?>", re.IGNORECASE)
_TAG = re.compile(r"<(?:/?[a-zA-Z][\w:-]*(?:\s[^<>]*)?/?|![A-Z][^<>]*)>")
# Elements of ['a', "b"] or of a printed array: quoted, else up to the next comma.
_ELEMENT = re.compile(r"""u?'((?:[^'\\]|\\.)*)'|u?"((?:[^"\\]|\\.)*)"|([^,\[\]\s"'][^,\[\]"']*)""")
_URL = re.compile(r"(?:https?:)?//[^\s\"'\]\}|,<>\\]+", re.IGNORECASE)
_LARGE = re.compile(r"""["'](?:hi_res|large|url|src)["']\s*:\s*["'](https?://[^"'\s]+)""")
MAX_LIST = 1 << 20  # characters; longer ones stay text


def clean_text(text: str) -> str:
    """A text without HTML tags, its entities decoded (also those escaped twice), runs of blanks made one."""
    if "&" in text:
        while (decoded := html.unescape(text)) != text:  # ends: each round shortens the text
            text = decoded
    if "<" in text:
        text = _TAG.sub(" ", _WITHIN_WORDS.sub("", _HIDDEN.sub(" ", text)))
    if "\x00" in text:
        text = text.replace("\x00", "")
    return " ".join(text.split())


def parse_list(text: str) -> list[Any] | None:
    """Elements of a JSON array or of a list that Python or NumPy printed; None: the text is no list."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > MAX_LIST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    inner = text[1:-1].strip()
    if inner.startswith("["):
        return [_elements(part) for part in re.split(r"\]\s*,?\s*\[", inner[1:-1])]
    return _elements(inner)


def _elements(text: str) -> list[str]:
    found = _ELEMENT.findall(text)
    return [re.sub(r"\\(.)", r"\1", single or double) or bare.strip() for single, double, bare in found]


def join_list(value: Any, separator: str) -> str:
    """Texts of a list, cleaned and joined; of a list of lists the longest, the first of equals."""
    if isinstance(value, (list, tuple)) and any(isinstance(part, (list, tuple)) for part in value):
        paths = [part if isinstance(part, (list, tuple)) else [part] for part in value]
        value = max(paths, key=len)
    if not isinstance(value, (list, tuple)):
        value = [value]
    parts = [clean_text(str(part)) for part in value if part is not None and not isinstance(part, dict)]
    return separator.join(part for part in parts if part)


def is_url(text: str) -> bool:
    """Whether a text is one URL and nothing else."""
    return bool(re.fullmatch(r"(?:https?:)?//[^\s/]+\.[^\s]+", text.strip(), re.IGNORECASE))


def first_url(text: str) -> str | None:
    """The first URL of a text, in a list or an object too, where the larger of several sizes is taken."""
    match = _LARGE.search(text)
    if match:
        return match[1]
    match = _URL.search(text)
    if not match:
        return None
    return f"https:{match[0]}" if match[0].startswith("//") else match[0]
