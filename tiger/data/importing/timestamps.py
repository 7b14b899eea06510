"""Times of events, in whatever way a column writes them, to whole seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tiger.data.columns import is_text
from tiger.utils.errors import DataError

_MILLION = 1_000_000
MICROSECONDS_PER_DAY = 86_400 * _MILLION
_PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
# Counts of each unit since 1970 up to here: 1e11 seconds are the year 5138, 1e11 milliseconds are 1973.
_LIMITS = (("seconds", 1e11), ("milliseconds", 1e14), ("microseconds", 1e17), ("nanoseconds", np.inf))
FIRST_SECOND, LAST_SECOND = 31_536_000, 7_258_118_400  # 1971 to 2200
_NUMBER = r"^[-+]?\d+(\.\d*)?([eE][-+]?\d+)?$"
_ISO = (
    r"^(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
    r"(?:[T ]+(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<part>\d{1,9}))?)?)?"
    r" ?(?P<zone>Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?$"
)
_PLAIN_ISO = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?$"
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")
# Days written otherwise than ISO writes them; each may have a time of day after it.
_DAYS = (
    *("%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y"),
    *("%m %d, %Y", "%a, %d %b %Y", "%a %d %b %Y"),
)
_PIECES = {"d": r"(?P<day>\d{1,2})", "Y": r"\d{4}", "p": r"\w+"} | dict.fromkeys("aAbB", "[A-Za-z]+")
_EITHER = ("%d/%m/%Y", "%m/%d/%Y")


@dataclass(frozen=True)
class TimeFormat:
    """Form of the times of a column.

    Args:
        kind: ``native`` (a type of parquet), ``number``, ``digits`` (20240131), ``iso`` or ``format``.
        pattern: for ``format``, as for ``strptime``.
    """

    kind: str
    pattern: str = ""


def recognize_times(column: pa.ChunkedArray) -> TimeFormat | None:
    """Recognize the form of times, by what most values of a column are; None: they are no times.

    Args:
        column: the first values.

    Raises:
        DataError: days such as 01/02/2024 only, of which nothing says what is the month.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return TimeFormat("native")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return TimeFormat("digits" if _are_digits(column.cast(pa.string())) else "number")
    if not is_text(kind):
        return None
    values = _filled(column)
    if len(values) == 0:
        return None
    if _share(pc.match_substring_regex(values, _NUMBER)) > 0.5:
        return TimeFormat("digits" if _are_digits(values) else "number")
    if _share(pc.match_substring_regex(values, _ISO)) > 0.5:
        return TimeFormat("iso")
    slashed = _share(pc.match_substring_regex(values, r"^\d{1,2}/\d{1,2}/\d{4}"))
    for days in (_EITHER,) if slashed > 0.5 else ((day,) for day in _DAYS):
        for clock in _CLOCKS:
            shares = [_share(pc.is_valid(_strptime(values, day + clock))) for day in days]
            if len(shares) == 2 and shares[0] == shares[1] > 0.5 and not _same(values, clock):
                raise DataError(
                    f"days such as {values[0].as_py()!r} can be read in two ways. Say which with --time-format "
                    f"'%d/%m/%Y{clock}' or '%m/%d/%Y{clock}'."
                )
            if max(shares) > 0.5:
                return TimeFormat("format", days[int(np.argmax(shares))] + clock)
    return None


def parse_times(column: pa.ChunkedArray, how: TimeFormat) -> np.ma.MaskedArray:
    """Times of a batch, int64 (or float64, where numbers have fractions); masked: no time.

    Microseconds since 1970 for all but ``number``, whose unit :func:`whole_seconds` decides on the whole column.
    """
    if how.kind == "native":
        return _masked(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()))
    if how.kind == "number" and not is_text(column.type):
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        return _masked(column)
    values = column if is_text(column.type) else column.cast(pa.string())
    values = pc.utf8_trim_whitespace(values)
    if how.kind == "number":
        return _numbers(values)
    if how.kind == "iso":
        return _iso(values)
    if how.kind == "digits":
        long = _share(pc.match_substring_regex(_filled(values), r"^\d{14}$")) > 0.5
        return _masked(_strptime(values, "%Y%m%d%H%M%S" if long else "%Y%m%d").cast(pa.int64())) * _MILLION
    return _masked(_strptime(values, how.pattern).cast(pa.int64())) * _MILLION


def are_clocks(column: pa.ChunkedArray) -> bool:
    """Whether most values are times of day, ``23:59`` or ``23:59:59``."""
    return is_text(column.type) and _share(pc.match_substring_regex(_filled(column), r"^\d{1,2}:\d\d(:\d\d)?$")) > 0.5


def parse_clocks(column: pa.ChunkedArray) -> np.ndarray:
    """Microseconds since midnight, int64; 0 where there is no time of day."""
    values = pc.utf8_trim_whitespace(column.cast(pa.string()))
    parts = pc.extract_regex(values, r"^(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?$")
    parts = parts.combine_chunks()
    total = np.zeros(len(column), dtype=np.int64)
    for name, seconds in (("hour", 3600), ("minute", 60), ("second", 1)):
        digits = parts.field(name)
        digits = pc.if_else(pc.equal(digits, ""), "0", digits).fill_null("0")
        total += digits.cast(pa.int64()).to_numpy() * seconds * _MILLION
    return total


def whole_seconds(raw: np.ma.MaskedArray, how: TimeFormat) -> tuple[np.ndarray, np.ndarray, str]:
    """Seconds of a whole column.

    Returns:
        int64 [events], 0 where there is no time; bool [events], where there is a date from 1970 to 2200 or a number
        from 1971 to 2200; and a word on how they were read.

    Raises:
        DataError: the numbers are no times: most would lie in 1970.
    """
    given = ~np.ma.getmaskarray(raw)
    values = raw.data
    if values.dtype.kind == "f":
        given &= np.isfinite(values)
    if how.kind == "number":
        middle = float(np.median(np.abs(values[given]))) if given.any() else 0.0
        if given.any() and middle < FIRST_SECOND:
            raise DataError(
                f"values such as {values[given][0]} are no times: as seconds since 1970, most lie in 1970. They "
                "look like numbers of days, years or a counter. Name another column with --time; if only the order is "
                "known, add 1000000000 to each."
            )
        unit = next(name for name, limit in _LIMITS if middle < limit)
        said = f"{unit} since 1970"
    else:
        unit, said = "microseconds", _said(how)
    seconds = np.where(given, values, 0) // _PER_SECOND[unit]
    first = FIRST_SECOND if how.kind == "number" else 0  # dates say their year themselves
    good = given & (seconds >= first) & (seconds < LAST_SECOND)
    return np.where(good, seconds, 0).astype(np.int64), good, said


def other_unit(raw: np.ma.MaskedArray, good: np.ndarray, said: str) -> str:
    """A remark where a tenth of the numbers or more are times in another unit than most, or an empty text.

    Args:
        raw, good, said: what :func:`whole_seconds` took, and the last two that it gave.
    """
    values = np.where(np.ma.getmaskarray(raw) | good, 0, raw.data)
    for unit, per_second in _PER_SECOND.items():
        seconds = values / per_second
        count = int(((seconds >= FIRST_SECOND) & (seconds < LAST_SECOND)).sum())
        if count >= 0.1 * len(values):
            return f"{count:,} of them would be times in {unit}, while most are {said}: write all in one unit"
    return ""


def lost_digits(seconds: np.ndarray) -> str:
    """A remark where times are so round that digits must be lost, or an empty text.

    Days are 86,400 seconds, so that days and hours are not all multiples of 1,000.
    """
    if len(seconds) < 3 or (seconds % 1000).any() or seconds.min() == seconds.max():
        return ""
    return (
        "all are multiples of 1,000 seconds: digits seem lost, as where a spreadsheet writes 1.70061e+12, and the "
        "order of events with them. Export the column as text or as whole numbers"
    )


def _said(how: TimeFormat) -> str:
    forms = {
        "native": "times",
        "digits": "days or times in digits, such as 20240131",
        "iso": "dates and times; those without a zone as UTC",
        "format": f"dates of the form {how.pattern}, as UTC",
    }
    return forms[how.kind]


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    values = pc.utf8_trim_whitespace(column.drop_null())
    return values.filter(pc.not_equal(values, ""))


def _share(found: pa.ChunkedArray) -> float:
    return (pc.sum(found).as_py() or 0) / max(len(found), 1)


def _are_digits(column: pa.ChunkedArray) -> bool:
    """Whether numbers are days or times of the calendar without marks: 20240131, 20240131235959."""
    values = _filled(column)
    days = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
    return len(values) > 0 and (
        _share(pc.match_substring_regex(values, days + "$")) > 0.5
        or _share(pc.match_substring_regex(values, days + r"([01]\d|2[0-3])[0-5]\d[0-5]\d$")) > 0.5
    )


def _same(values: pa.ChunkedArray, clock: str) -> bool:
    """Whether day and month first give the same days: each is 05/05, say."""
    first, second = (_strptime(values, day + clock) for day in _EITHER)
    return bool(first.equals(second))


def _strptime(values: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """Times by a pattern, null where a value has another form or names no day of the calendar."""
    times = pc.strptime(values, format=pattern, unit="s", error_is_null=True)
    # Of the 30th of February it makes the 1st of March: the day is compared with the one that stands there.
    form = re.sub(r"%(\w)", lambda match: _PIECES.get(match[1], r"\d{1,2}"), re.escape(pattern).replace("\\ ", r"\s*"))
    try:
        days = pc.struct_field(pc.extract_regex(values, f"^{form}"), "day").cast(pa.int64())
    except (pa.ArrowException, re.error):  # a pattern of the user's without a day
        return times
    return pc.if_else(pc.fill_null(pc.equal(days, pc.day(times)), False), times, None)


def _masked(column: pa.ChunkedArray) -> np.ma.MaskedArray:
    missing = column.is_null().to_numpy()
    filled = column.fill_null(0).to_numpy() if column.null_count else column.to_numpy()
    if filled.dtype.kind in "iu":
        filled = filled.astype(np.int64, copy=False)
    return np.ma.MaskedArray(filled, missing)


def _numbers(values: pa.ChunkedArray) -> np.ma.MaskedArray:
    good = pc.fill_null(pc.match_substring_regex(values, _NUMBER), False)
    values = pc.if_else(good, values, None)
    try:
        return _masked(values.cast(pa.int64()))
    except pa.ArrowInvalid:  # 1700000000.5, 1.7e9
        return _masked(values.cast(pa.float64()))


def _iso(values: pa.ChunkedArray) -> np.ma.MaskedArray:
    plain = pc.fill_null(pc.match_substring_regex(values, _PLAIN_ISO), True)
    if pc.all(plain).as_py():
        try:  # several times faster, but it fails for all values if one is no date
            return _masked(values.cast(pa.timestamp("us")).cast(pa.int64()))
        except pa.ArrowInvalid:
            pass
    parts = pc.extract_regex(values, _ISO).combine_chunks()
    given = parts.is_valid().to_numpy(zero_copy_only=False)

    def part(name: str) -> np.ndarray:
        digits = parts.field(name)
        digits = pc.if_else(pc.equal(digits, ""), "0", digits).fill_null("0")
        return digits.cast(pa.int64()).to_numpy()

    days = _strptime(_joined_days(parts), "%Y-%m-%d")
    given = given & days.is_valid().to_numpy(zero_copy_only=False)
    hour, minute, second = part("hour"), part("minute"), part("second")
    given = given & (hour < 24) & (minute < 60) & (second < 61)
    seconds = days.fill_null(0).cast(pa.int64()).to_numpy() + hour * 3600 + minute * 60 + second
    fractions = pc.utf8_slice_codeunits(pc.utf8_rpad(parts.field("part").fill_null(""), 6, padding="0"), 0, 6)
    total = (seconds - _zones(parts.field("zone"))) * _MILLION + fractions.cast(pa.int64()).to_numpy()
    return np.ma.MaskedArray(total, ~given)


def _joined_days(parts: pa.StructArray) -> pa.Array:
    return pc.binary_join_element_wise(*(parts.field(name) for name in ("year", "month", "day")), "-")


def _zones(column: pa.Array) -> np.ndarray:
    """int64 [events]: seconds that the clock of a zone such as ``+05:30`` is ahead."""
    column = column.fill_null("").dictionary_encode()
    ahead = []
    for zone in column.dictionary.to_pylist():
        match = re.fullmatch(r"([+-])(\d\d):?(\d\d)?", zone)
        seconds = int(match[2]) * 3600 + int(match[3] or 0) * 60 if match else 0
        ahead.append(-seconds if match and match[1] == "-" else seconds)
    return np.array(ahead, dtype=np.int64)[column.indices.to_numpy()]
