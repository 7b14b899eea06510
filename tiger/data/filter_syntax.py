"""Filters in words, ``brand = 'Acme' and price < 20``: a small grammar, read to an Arrow expression.

::

    condition  = every {"or" every}
    every      = single {"and" single}
    single     = "not" single | "(" condition ")" | side "is" ["not"] "null" | column ["not"] "in" "(" value, ... ")"
               | side operator side | column of truth values
    operator   = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">="
    side       = column | value
    value      = 'text' | "text" | number | "true" | "false"
    column     = word | `any name`

A quote within a text is written twice. A comparison with a missing value is neither true nor false, and neither is its
``not``: such an item is not allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce

import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.filter_terms import Column, Value, alone, column_of, compared, missing, one_of
from tiger.utils.errors import DataError

MAX_DEPTH = 50  # of parentheses and of not, which are read recursively; not tuned
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<quoted>`(?:[^`]|``)+`)
    |(?P<word>[^\W\d][\w.]*)
    |(?P<sign>==|!=|<>|<=|>=|[=<>(),]))""",
    re.VERBOSE,
)
_WORDS = ("and", "or", "not", "in", "is", "null", "true", "false")
_SIGNS = {"==": "=", "<>": "!="}
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=")
_INSTEAD = {"&": "and", "|": "or", "!": "not", "~": "not", "[": "(", "]": ")", ";": ","}


@dataclass(frozen=True)
class FilterLimits:
    """Limits of a filter in words.

    Args:
        length: characters.
        terms: comparisons. Arrow reads what they are joined to recursively: 10,000 end a process (26.0, seen in a
            test), a thousand are far from it.
    """

    length: int = 1_000_000
    terms: int = 1_000


@dataclass(frozen=True)
class _Token:
    kind: str  # a group of _TOKEN's, a keyword, an operator or "end"
    text: str
    place: int


def parse_filter(text: str, schema: pa.Schema, limits: FilterLimits = FilterLimits()) -> pc.Expression:
    """Read a filter in words.

    Args:
        text: such as ``brand in ('Acme', 'Bolt') and not (price >= 20 or price is null)``.
        schema: of the item table.

    Raises:
        DataError: one line: what can't be read and where, a column that is not there, a value of another type, or a
            limit that is passed.

    Example:
        >>> str(parse_filter("price < 20", pa.schema({"price": pa.int64()})))
        '(price < 20)'
    """
    if len(text) > limits.length:
        raise DataError(f"filter: {len(text):,} characters, at most {limits.length:,} are read. Shorten it.")
    return _Parser(_tokens(text), schema, limits).whole()


def _tokens(text: str) -> list[_Token]:
    found, place, end = [], 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise DataError(_unreadable(text, place + len(text[place:]) - len(text[place:].lstrip())))
        kind, word = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "word" and word.lower() in _WORDS:
            kind = word.lower()
        elif kind == "sign":
            kind = word = _SIGNS.get(word, word)
        found.append(_Token(kind, word, match.start(str(match.lastgroup))))
        place = match.end()
    return [*found, _Token("end", "", end)]


def _unreadable(text: str, place: int) -> str:
    sign = text[place]
    where = f"filter, character {place + 1}:"
    if sign in "'\"`":
        return f"{where} the {sign} is not closed. Close it, and write it twice within."
    if sign in _INSTEAD:
        return f"{where} {sign!r} has no meaning here. Write {_INSTEAD[sign]}."
    word = re.match(r"[^\s()<>=!,]*", text[place:])
    return f"{where} {(word[0] if word and word[0] else sign)[:40]!r} can't be read. Put text in quotes."


class _Parser:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[_Token], schema: pa.Schema, limits: FilterLimits):
        self._tokens, self._schema, self._limits = tokens, schema, limits
        self._at = self._depth = self._terms = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def whole(self) -> pc.Expression:
        """All tokens as one condition."""
        if self._next.kind == "end":
            raise DataError("filter: it is empty. Write, for instance, price < 20, or leave it out.")
        found = self._any()
        if self._next.kind != "end":
            raise self._wrong("and, or, or the end")
        return found

    def _any(self) -> pc.Expression:
        return self._joined("or", pc.or_kleene, partial(self._joined, "and", pc.and_kleene, self._single))

    def _joined(self, word: str, join: Callable, part: Callable[[], pc.Expression]) -> pc.Expression:
        parts = [part()]
        while self._took(word):
            parts.append(part())
        return reduce(join, parts)

    def _single(self) -> pc.Expression:
        if self._next.kind not in ("not", "("):
            return self._term()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise DataError(f"filter: more than {MAX_DEPTH} parentheses and nots within each other. Write it flatter.")
        if self._took("not"):
            found = pc.invert(self._single())
        else:
            self._took("(")
            found = self._any()
            self._need(")")
        self._depth -= 1
        return found

    def _term(self) -> pc.Expression:
        self._terms += 1
        if self._terms > self._limits.terms:
            raise DataError(
                f"filter: at most {self._limits.terms:,} comparisons are read. Use in (...) for several values."
            )
        left = self._side()
        if self._took("is"):
            negated = self._took("not")
            self._need("null")
            if isinstance(left, Value):
                raise DataError(f"filter: {left} is a value, and only a column can be null.")
            return pc.invert(missing(left)) if negated else missing(left)
        if self._next.kind in ("in", "not"):
            negated = self._took("not")
            self._need("in")
            if isinstance(left, Value):
                raise DataError(f"filter: {left} is a value. Write the column first: brand in ('Acme', 'Bolt').")
            found = one_of(left, self._values())
            return pc.invert(found) if negated else found
        if self._next.kind in _OPERATORS:
            operator = self._taken().kind
            if self._next.kind == "null":
                raise DataError(f"filter: nothing is {operator} null. Write is null, or is not null.")
            return compared(left, operator, self._side())
        return alone(left)

    def _values(self) -> list[Value]:
        self._need("(")
        values: list[Value] = []
        while not values or self._took(","):
            value = self._side()
            if isinstance(value, Column):
                raise DataError(f"filter: in (...) takes values; {value.name!r} is a column. Put text in quotes.")
            values.append(value)
        self._need(")")
        return values

    def _side(self) -> Column | Value:
        if self._next.kind not in ("text", "number", "true", "false", "word", "quoted"):
            raise self._wrong("a column or a value")
        token = self._taken()
        if token.kind == "text":
            quote = token.text[0]
            return Value(token.text[1:-1].replace(quote * 2, quote))
        if token.kind == "number":
            return Value(_number(token.text))
        if token.kind in ("true", "false"):
            return Value(token.kind == "true")
        name = token.text[1:-1].replace("``", "`") if token.kind == "quoted" else token.text
        return column_of(self._schema, name)

    def _took(self, kind: str) -> bool:
        """Take the next token if it is one of this kind."""
        found = self._next.kind == kind
        self._at += found
        return found

    def _taken(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _need(self, kind: str) -> None:
        if not self._took(kind):
            raise self._wrong(kind)

    def _wrong(self, wanted: str) -> DataError:
        token = self._next
        found = "it ends" if token.kind == "end" else f"{token.text[:40]!r} stands"
        return DataError(f"filter, character {token.place + 1}: {found} where {wanted} is needed.")


def _number(text: str) -> int | float:
    if len(text) < 20 and re.fullmatch(r"[-+]?\d+", text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise DataError(f"filter: {text[:40]} is too large for a number.")
    return value
