"""Item texts from rows of the item table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from tiger.data.columns import is_list, is_text, makes_text, plain_table, plain_type
from tiger.utils.errors import DataError

_FIRST_COLUMNS = ("title", "price", "brand", "categories")
MAX_TEXT = 100_000  # characters; encoders read a few thousand at most


def item_texts(items: pa.Table, template: str | None = None, required: bool = True) -> list[str]:
    """Return one text per item: ``Title: Rose soap; Price: 4.99; Brand: Acme``; missing values are left out.

    Args:
        items: the item table, with ``item_id``.
        template: the columns to write, in order, separated by commas (``"title,brand"``). None: title, price, brand
            and categories as far as there are any, then every other column of text in the order of the file, but
            those named ``url`` or ``..._url`` (``image_url``): their words say nothing of the item.
        required: False: an item without text has an empty one, and so have all where no column is of text.

    Nulls, blank text and NaN are left out together with their label; lists of words are joined by commas.

    Raises:
        DataError: the template names a column that the table lacks, a column is of a type that makes no text, or an
            item has no text at all.
    """
    items = plain_table(items, "the item table")
    names = _template_columns(items.schema) if template is None else [name.strip() for name in template.split(",")]
    for name in names:
        if name not in items.column_names or name == "item_id":
            others = ", ".join(column for column in items.column_names if column != "item_id")
            raise DataError(
                f"the text template names column {name!r}; the items have {others or 'no columns but ids'}."
            )
        if not makes_text(kind := items.schema.field(name).type):
            raise DataError(f"no text can be made of column {name!r}, which is {kind}. Convert, rename or drop it.")
    if not names and not required:
        return [""] * items.num_rows
    if not names:
        raise DataError("items have no column of text. Add one, `title` for example.")
    parts: list[list[str]] = [[] for _ in range(items.num_rows)]
    for name in names:
        label = name.replace("_", " ").strip().capitalize()
        for row, value in enumerate(_column_texts(items[name])):
            if value:
                parts[row].append(f"{label}: {value}")
    for row, part in enumerate(parts):
        if not part and required:
            raise DataError(
                f"item {items['item_id'][row].as_py()!r} (row {row}) has no text in {', '.join(names)}. "
                "Fill in one of these columns or drop the item."
            )
    return ["; ".join(part) for part in parts]


def has_words(text: str) -> bool:
    """Whether a text holds a letter or a digit."""
    return any(map(str.isalnum, text))


def check_texts(item_ids: Sequence[str], texts: Sequence[str]) -> None:
    """Raise an error for texts that can't be embedded.

    Raises:
        DataError: naming the item whose text is no text, blank, of more than ``MAX_TEXT`` characters or no Unicode.
    """
    for item, text in zip(item_ids, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"item {item!r} has no text. Give it one, or leave the item out.")
        if len(text) > MAX_TEXT:
            raise DataError(f"item {item!r} has a text of {len(text):,} characters, more than {MAX_TEXT:,}. Cut it.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"item {item!r} has half a character in its text ({text[error.start]!r}).") from error


def _template_columns(schema: pa.Schema) -> list[str]:
    def has_words(kind: pa.DataType) -> bool:
        kind = plain_type(kind)
        return is_text(kind.value_type if is_list(kind) else kind)

    first = [name for name in _FIRST_COLUMNS if name in schema.names]
    others = [field.name for field in schema if field.name not in (*first, "item_id") and has_words(field.type)]
    return first + [name for name in others if not name.lower().endswith("_url") and name.lower() != "url"]


def _column_texts(column: pa.ChunkedArray) -> Iterator[str]:
    if pa.types.is_floating(column.type):
        # As NumPy scalars, so that a float32 price reads 5.04 and not 5.039999961853027; 5.0 reads 5.
        for value in column.to_numpy():
            yield np.format_float_positional(value, trim="-") if math.isfinite(value) else ""
    else:
        for value in column.to_pylist():
            yield _value_text(value)


def _value_text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(text for text in map(_value_text, value) if text)
    return " ".join(str(value).split())
