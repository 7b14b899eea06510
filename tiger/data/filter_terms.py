"""Terms of a filter: columns compared with values or with each other, as Arrow expressions."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import is_number, is_text, plain_type
from tiger.utils.errors import DataError, first_line

MAX_NAMES = 20  # columns that an error message lists
_OPERATORS = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True)
class Column:
    """A column of the item table: its name and Arrow type."""

    name: str
    type: pa.DataType

    @property
    def kind(self) -> str:
        """``text``, ``number``, ``truth value``, ``time``, ``nothing``, or ``other``: what can't be compared."""
        kind = plain_type(self.type)
        if pa.types.is_null(kind):
            return "nothing"
        if pa.types.is_boolean(kind):
            return "truth value"
        if is_text(kind):
            return "text"
        if is_number(kind):
            return "number"
        return "time" if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else "other"

    @property
    def values(self) -> pc.Expression:
        """The column in a type that Arrow compares."""
        field = pc.field(self.name)
        if pa.types.is_decimal(self.type):
            return field.cast(pa.float64())
        return field.cast(pa.float32()) if pa.types.is_float16(self.type) else field


@dataclass(frozen=True)
class Value:
    """A text, number or truth value as it is written in a filter."""

    value: str | int | float | bool

    @property
    def kind(self) -> str:
        """As of :class:`Column`."""
        if isinstance(self.value, bool):
            return "truth value"
        return "text" if isinstance(self.value, str) else "number"

    def __str__(self) -> str:
        return repr(self.value) if isinstance(self.value, str) else str(self.value).lower()


def column_of(schema: pa.Schema, name: str) -> Column:
    """The column of this name.

    Raises:
        DataError: there is none; the message names the nearest and those that there are.
    """
    if name in schema.names:
        return Column(name, schema.field(name).type)
    raise DataError(unknown_column(schema, name))


def unknown_column(schema: pa.Schema, name: str) -> str:
    """Message for a column that is not there: the nearest name, and those that there are."""
    by_lower = {one.lower(): one for one in schema.names}
    near = [by_lower[one] for one in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    meant = f" (is {' or '.join(map(repr, near))} meant?)" if near else ""
    there = ", ".join(schema.names[:MAX_NAMES]) + (", ..." if len(schema.names) > MAX_NAMES else "")
    return f"filter: there is no column {name[:100]!r}{meant}. There are {there}; text needs quotes."


def compared(left: Column | Value, operator: str, right: Column | Value) -> pc.Expression:
    """A comparison, null where a value is missing.

    Args:
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.

    Raises:
        DataError: neither side is a column, or the two are of different kinds.
    """
    if isinstance(left, Value):
        if isinstance(right, Value):
            raise DataError(f"filter: {left} {operator} {right} compares no column.")
        left, right, operator = right, left, _MIRRORED.get(operator, operator)
    _check_kinds(left, right)
    if left.kind == "truth value" and operator not in ("=", "!="):
        raise DataError(f"filter: column {left.name!r} holds truth values: compare it by = or !=.")
    return _OPERATORS[operator](*_operands(left, right))


def _check_kinds(left: Column, right: Column | Value) -> None:
    for side in (left, right):
        if isinstance(side, Column) and side.kind == "other":
            raise DataError(
                f"filter: column {side.name!r} is of type {side.type}: only text, numbers, times and truth values "
                "are compared; is null works with any column."
            )
    kinds = (left.kind, right.kind)
    dated = left.kind == "time" and isinstance(right, Value) and right.kind == "text"
    if left.kind != right.kind and not dated and "nothing" not in kinds:
        remedy = f". Put {right} in quotes" if left.kind == "text" and isinstance(right, Value) else ""
        raise DataError(f"filter: {_told(left)}, {_told(right)}{remedy}.")


def _told(side: Column | Value) -> str:
    if isinstance(side, Column):
        return f"column {side.name!r} holds {side.kind}{'' if side.kind == 'text' else 's'} ({side.type})"
    return f"{str(side)[:60]} is a {side.kind}"


def _operands(left: Column, right: Column | Value) -> tuple[pc.Expression, pc.Expression | pa.Scalar]:
    if isinstance(right, Value):
        if left.kind == "nothing":
            value = pa.scalar(right.value)
            return left.values.cast(value.type), value
        return left.values, _scalar(left, right)
    if "nothing" in (left.kind, right.kind):
        some = pa.string() if left.kind == right.kind else (right if left.kind == "nothing" else left).type
        return left.values.cast(some), right.values.cast(some)
    return left.values, right.values if left.kind == "number" else right.values.cast(left.type)


def _scalar(column: Column, value: Value) -> pa.Scalar:
    """The value in the column's type, so that 19.99 equals what a column of 32 bits holds as 19.99."""
    if column.kind == "time":
        return _time(column, str(value.value))
    if column.kind == "text":
        return pa.scalar(value.value, column.type)
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        return pa.scalar(float(value.value), column.type).cast(pa.float32())
    return pa.scalar(value.value)


def _time(column: Column, text: str) -> pa.Scalar:
    kind = column.type
    try:
        return pa.scalar(text).cast(kind)
    except pa.ArrowException as error:
        try:
            if pa.types.is_timestamp(kind):  # a zone is not named: UTC. The day of an hour is read, too
                return pa.scalar(text).cast(pa.timestamp(kind.unit)).cast(kind)
            return pa.scalar(text).cast(pa.timestamp("s")).cast(kind)
        except pa.ArrowException:
            raise DataError(
                f"filter: column {column.name!r} holds times ({kind}), {text[:60]!r} is none "
                f"({first_line(error)[:100]}). Write '2026-01-31' or '2026-01-31 12:00:00'."
            ) from error


def one_of(column: Column, values: Sequence[Value]) -> pc.Expression:
    """Whether a column holds one of the values; null where it holds none at all.

    Raises:
        DataError: a value is of another kind.
    """
    for value in values:
        _check_kinds(column, value)
    if column.kind == "nothing":
        return column.values.cast(pa.bool_())
    if column.kind == "number":
        found = column.values.isin(_number_set(column.type, [value.value for value in values]))
    else:
        found = column.values.isin(pa.array([_scalar(column, value).as_py() for value in values], column.type))
    # Arrow finds nulls in no set; as in other comparisons, nothing is known of them.
    return pc.if_else(column.values.is_valid(), found, _nothing())


def _number_set(kind: pa.DataType, values: list) -> pa.Array:
    """Numbers in a column's type; those that it can't hold are in no column of it."""
    if not pa.types.is_integer(kind):
        narrow = pa.types.is_float32(kind) or pa.types.is_float16(kind)
        return pa.array([float(value) for value in values], kind if narrow else pa.float64()).cast(
            pa.float32() if narrow else pa.float64()
        )
    bits = kind.bit_width
    low, high = (0, 2**bits) if pa.types.is_unsigned_integer(kind) else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return pa.array([int(value) for value in values if value == math.floor(value) and low <= value < high], kind)


def missing(column: Column) -> pc.Expression:
    """Whether a column holds nothing: null, or NaN, which is how pandas writes a number that is missing."""
    field = pc.field(column.name)
    if pa.types.is_float32(column.type) or pa.types.is_float64(column.type):
        return field.is_null(nan_is_null=True)
    return field.is_null()


def alone(side: Column | Value) -> pc.Expression:
    """A column of truth values as a condition.

    Raises:
        DataError: it is something else.
    """
    if isinstance(side, Column) and side.kind == "truth value":
        return pc.field(side.name)
    name = f"column {side.name!r}" if isinstance(side, Column) else str(side)[:60]
    raise DataError(f"filter: {name} is compared with nothing. Write, for instance, price < 20 or brand = 'Acme'.")


def has_comparable(schema: pa.Schema) -> bool:
    """Whether there is a column besides ``item_id`` that a filter can read."""
    return any(field.name != "item_id" and (Column(field.name, field.type).kind != "other") for field in schema)


def _nothing() -> pa.Scalar:
    """Neither true nor false. Made on use: the first scalar of a process imports pandas, where it is installed."""
    return pa.scalar(None, pa.bool_())
