"""Ids of users and items as text."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import is_bytes, is_text
from tiger.data.importing.columns import NOTHING
from tiger.utils.errors import DataError


def id_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text without blanks around them: string [rows]; null: there is none.

    Text stays what it is (``007``, ``1e5``); whole numbers become their decimal digits, those in a column of fractions
    (which a table with gaps becomes in pandas) too, up to 2**53. Each value is read for itself: batches that differ
    give the same ids.

    Raises:
        DataError: the column is of a type that holds no ids.
    """
    kind = column.type
    if not can_be_ids(kind):
        raise DataError(f"ids can't be read from a column of {kind}: write them as text.")
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, None)
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 2.0**53))
        digits = pc.if_else(whole, column, None).cast(pa.int64()).cast(pa.string())
        column = pc.coalesce(digits, column.cast(pa.string()))
    elif is_bytes(kind):
        column = column.cast(pa.string())
    texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.is_in(texts, value_set=pa.array(NOTHING)), None, texts)


def can_be_ids(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold ids."""
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return is_text(kind) or is_bytes(kind) or numbers
