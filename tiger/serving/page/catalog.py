"""The catalog as the web page shows it: the tree of codes, prices and addresses of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from tiger.semantic_ids.code_tree import CodeTree
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

PRICE = "price"
# Columns that tables of shops call their pictures; the first one that a table has is read.
IMAGES = ("image", "image_url", "images", "imUrl", "img", "thumbnail", "picture", "photo")
MAX_URL = 2_000
MAX_PRICE = 40  # characters of a price that is a text


class PageCatalog(CodeTree):
    """A catalog with what its cards show.

    Args:
        tokenizer, items: see :class:`tiger.semantic_ids.code_tree.CodeTree`; ``price`` and the columns of
            :data:`IMAGES` are read where the table has them.
        show_images: give the addresses of images.
    """

    def __init__(self, tokenizer: SemanticIdTokenizer, items: pa.Table | None = None, show_images: bool = False):
        super().__init__(tokenizer, items)
        names = [] if items is None else items.column_names
        self._prices = items[PRICE] if items is not None and PRICE in names else None
        column = next((name for name in IMAGES if name in names), None) if show_images else None
        self._images = items[column] if items is not None and column else None
        self._rows = tokenizer.rows

    def price(self, row: int) -> str:
        """The price as a text; empty: unknown. The table doesn't know a currency."""
        return "" if self._prices is None else price_text(self._prices[row].as_py())

    def image(self, row: int) -> str:
        """The address of an image; empty: none, or images are not shown."""
        return "" if self._images is None else image_url(self._images[row].as_py())

    def known_rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """Rows, int64, of the known items among these."""
        rows = self._rows(item_ids, missing=-1)
        return rows[rows >= 0]


def price_text(value: Any) -> str:
    """A price as people write it: two places of a number, a text as it is, cut if it is long."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, (int, float)):
        return f"{value:,.2f}" if math.isfinite(value) else ""
    return str(value).strip()[:MAX_PRICE]


def image_url(value: Any) -> str:
    """The first http or https address of a column's value: a text or a list of texts; else nothing."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and 0 < len(one) <= MAX_URL and one.isprintable() and " " not in one:
            try:
                parts = urlsplit(one)
                if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc:
                    return one
            except ValueError:  # no address at all, such as http://[
                continue
    return ""
