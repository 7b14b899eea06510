"""Columns of tables in plain types: what other programs write in views, dictionaries or bytes is text as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from tiger.utils.errors import DataError

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries, run ends and views, for which Arrow lacks functions; else the same."""
    if kind in _VIEWS:
        return _VIEWS[kind]
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if not is_list(kind):
        return kind
    value = plain_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind) and not is_text(value):
        return kind
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    plain = pa.large_list(value) if large else pa.list_(value)
    return kind if plain.equals(kind) else plain


def plain_table(table: pa.Table, source: object = "the table") -> pa.Table:
    """The table with its columns in plain types, bytes that are UTF-8 as text.

    Args:
        source: what error messages call it.

    Raises:
        DataError: a column occurs twice.
    """
    refuse_twice(table.column_names, source)
    for index, field in enumerate(table.schema):
        column = table[field.name]
        kind = plain_type(field.type)
        if kind != field.type:
            column = _cast(column, kind)
        if is_bytes(kind):  # how some versions of Spark and Hive write text
            try:
                column = column.cast(pa.large_string() if pa.types.is_large_binary(kind) else pa.string())
            except pa.ArrowInvalid:
                pass  # no text
        if column is not table[field.name] and column.type != field.type:
            table = table.set_column(index, field.name, column)
    return table


def refuse_twice(names: Sequence[str], source: object) -> None:
    """
    Raises:
        DataError: a name occurs twice.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{source} has the column {twice[0]!r} twice. Drop or rename one of them.")


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type, or of a type that is plainly this one, holds text."""
    kind = plain_type(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this plain type holds bytes of any length."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this plain type holds numbers, booleans, decimals or nothing."""
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return numbers or pa.types.is_decimal(kind) or pa.types.is_null(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists, of one length or of any."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def makes_text(kind: pa.DataType) -> bool:
    """Whether an item's text can be made of a column of this type: text, numbers, times, or lists of these."""
    kind = plain_type(kind)
    while is_list(kind):
        kind = kind.value_type
    return is_text(kind) or is_number(kind) or pa.types.is_primitive(kind)


def _has_list_view(kind: pa.DataType) -> bool:
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return True
    return is_list(kind) and _has_list_view(kind.value_type)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if not _has_list_view(column.type):  # Arrow's cast of list views loses values (26.0, seen in a test of two rows)
        try:
            return column.cast(kind)
        except pa.ArrowNotImplementedError:  # run ends, or views within others
            pass
    return pa.chunked_array([pa.array(column.to_pylist(), kind)])
