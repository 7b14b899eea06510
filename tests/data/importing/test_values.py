"""Times, prices, texts and ids as people write them."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from tiger.data.importing.identifiers import id_texts
from tiger.data.importing.prices import parse_prices
from tiger.data.importing.texts import clean_text, first_url, is_url, join_list, parse_list
from tiger.data.importing.timestamps import TimeFormat, parse_times, recognize_times, whole_seconds
from tiger.utils.errors import DataError

NEW_YEAR = 1_704_067_200  # 2024-01-01, UTC


def column(*values, kind=None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(list(values), kind)])


def seconds(*values, kind=None) -> list[int | None]:
    times = column(*values, kind=kind)
    how = recognize_times(times)
    found, good, _ = whole_seconds(parse_times(times, how), how)
    return [int(second) if is_time else None for second, is_time in zip(found, good)]


def at(*values: int) -> list[int | None]:
    """Seconds after midnight of New Year 2024."""
    return [None if value is None else NEW_YEAR + value for value in values]


def test_iso_times_with_and_without_zone():
    given = [
        "2024-01-01",
        "2024-01-01T01:00:00Z",
        "2024-1-1 1:00",
        "2024-01-01 03:00:00.25+02:00",
        "2024-01-01 01:00-05",
    ]
    assert seconds(*given) == at(0, 3600, 3600, 3600, 6 * 3600)
    assert seconds("2024-01-01 00:00:01", "2024-01-01 00:00:02.999999") == at(1, 2)
    assert seconds("2024-01-01 10:00 UTC", "2024-01-01 10:00:30 +0000") == at(36_000, 36_030)


def test_dates_are_times_from_1970_on():
    assert seconds("1969-12-31 23:59:59", "1970-01-01", "2024-01-01") == [None, 0, NEW_YEAR]
    assert seconds("0001-01-01", "1900-01-01 00:00:00Z", "2200-01-01") == [None, None, None]
    assert seconds(date(1900, 1, 1), date(1970, 1, 2)) == [None, 86_400]
    assert seconds("01.01.1900", "31.12.1970") == [None, 364 * 86_400]
    assert seconds("19000101", "20240101") == [None, NEW_YEAR]


def test_days_that_no_calendar_has_are_no_times():
    assert seconds("2024-01-01", "2024-02-30", "2024-13-01", "2024-01-01 25:00", "soon", "", None) == at(
        0, None, None, None, None, None, None
    )
    assert seconds("2024-02-29", "2023-02-29") == at(59 * 86_400, None)
    assert seconds("31.01.2024", "31.02.2024", "1.1.2024") == at(30 * 86_400, None, 0)


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_units_are_decided_for_the_whole_column(factor):
    assert seconds(NEW_YEAR * factor, None, (NEW_YEAR + 5) * factor) == at(0, None, 5)
    assert seconds(str(NEW_YEAR * factor), " ", str((NEW_YEAR + 5) * factor)) == at(0, None, 5)
    # One that another unit would make a time is none here.
    mixed = [NEW_YEAR * factor] * 3 + [NEW_YEAR * factor * 1000 if factor < 10**9 else 12]
    assert seconds(*mixed) == at(0, 0, 0, None)


def test_numbers_with_fractions_are_cut():
    assert seconds(NEW_YEAR + 0.75, float("nan")) == at(0, None)
    assert seconds(f"{NEW_YEAR}.75", "1.704067201e9") == at(0, 1)


@pytest.mark.parametrize("values", [(1, 2, 3), ("2015", "2016"), (45292.5, 45293.0), (0, 0), (-NEW_YEAR // 100,)])
def test_small_numbers_are_no_times(values):
    with pytest.raises(DataError, match="most lie in 1970.*--time; if only the order is known, add 1000000000"):
        seconds(*values)


def test_digits_of_the_calendar():
    assert seconds("20240101", "20240102", "20241301") == at(0, 86_400, None)
    assert seconds(20240101, 20240102) == at(0, 86_400)
    assert seconds(20240101000001) == at(1)


def test_types_of_parquet():
    assert seconds(date(2024, 1, 1), None) == at(0, None)
    assert seconds(datetime(2024, 1, 1, 0, 0, 5, tzinfo=UTC)) == at(5)
    for unit in ("s", "ms", "us", "ns"):
        assert seconds(
            datetime(2024, 1, 1, 0, 0, 5), kind=pa.timestamp(unit, "Europe/Berlin" if unit == "ns" else None)
        )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("01/02/2024", "13/01/2024"), (31 * 86_400, 12 * 86_400)),
        (("01/02/2024", "01/13/2024"), (86_400, 12 * 86_400)),
        (("1/2/2024 1:00 PM", "1/31/2024 12:00 AM"), (86_400 + 13 * 3600, 30 * 86_400)),
        (("02.01.2024 10:30", "1.1.2024 00:00"), (86_400 + 37_800, 0)),
        (("2024/01/01 00:00:09",), (9,)),
        (("01 1, 2024", "01 02, 2024"), (0, 86_400)),
        (("Jan 1, 2024", "January 2, 2024"), (0, 86_400)),
        (("Mon, 01 Jan 2024 00:00:01",), (1,)),
    ],
)
def test_other_forms_of_dates(values, expected):
    assert seconds(*values) == at(*expected)


def test_days_that_can_be_read_in_two_ways():
    with pytest.raises(
        DataError, match="'01/02/2024' can be read in two ways. Say which with --time-format '%d/%m/%Y'"
    ):
        seconds("01/02/2024", "03/04/2024")
    assert seconds("01/01/2024", "02/02/2024") == at(0, 32 * 86_400)  # the same either way
    how = TimeFormat("format", "%d/%m/%Y")
    found, _, said = whole_seconds(parse_times(column("01/02/2024"), how), how)
    assert found.tolist() == at(31 * 86_400) and "%d/%m/%Y" in said


def test_what_is_no_time():
    assert recognize_times(column("a", "b")) is None
    assert recognize_times(column(None, "", kind=pa.string())) is None
    assert recognize_times(column(True, False)) is None


def test_prices():
    given = {
        "$9.99": 9.99,
        "9,99 EUR": 9.99,
        "1,299.00": 1299.0,
        "1.299,00 €": 1299.0,
        "1 299,00": 1299.0,
        "1\u00a0299,00 kr": 1299.0,
        "USD 12": 12.0,
        "12.-": 12.0,
        "Free": 0.0,
        "Free To Play": 0.0,
        "From $9.99": 9.99,
        "9.99 - 19.99": 9.99,
        "2 for $5": 5.0,
        "$.99": 0.99,
        "Rs.500": 500.0,
        "1'299.50": 1299.5,
        "₹1,23,456.00": 123456.0,
        "1e3": 1000.0,
        "-3": None,
        "$-3": None,
        "N/A": None,
        "Call us": None,
        "": None,
    }
    assert dict(zip(given, parse_prices(given))) == given
    assert parse_prices(["1,299", "2,500", None]) == [1299.0, 2500.0, None]
    assert parse_prices(["9,99", "1.299"]) == [9.99, 1299.0]  # the comma is decimal in this column
    assert parse_prices(["9.99", "1.299"]) == [9.99, 1.299]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Salt &amp;amp; <b>pepper</b>", "Salt & pepper"),
        ("H<sub>2</sub>O<br>new<p class='x'>par</p>", "H2O new par"),
        ("a < b > c and 5 &lt; 6, I <3 you", "a < b > c and 5 < 6, I <3 you"),
        ("<script>alert(1 < 2)</script>ok<!-- no -->", "ok"),
        ("two\n  lines\tand\u00a0more\x00", "two lines and more"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("Crème br&ucirc;l&eacute;e &#128293;", "Crème brûlée 🔥"),
    ],
)
def test_html_is_stripped(given, expected):
    assert clean_text(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('["a", "b, c"]', ["a", "b, c"]),
        ("['a', 'b, c']", ["a", "b, c"]),
        ("""["it's", 'he said \\'no\\'']""", ["it's", "he said 'no'"]),
        ("['a' 'b']", ["a", "b"]),
        ("[u'a', u'b']", ["a", "b"]),
        ("[a, b c]", ["a", "b c"]),
        ("[['A', 'B'], ['C']]", [["A", "B"], ["C"]]),
        ("[]", []),
        ("__import__('os')", None),
        ("['a'", None),
        ("plain, text", None),
        ("[" * 100_000 + "]" * 100_000, None),
    ],
)
def test_lists_are_read_without_running_them(given, expected):
    if len(given) < 1000:
        assert parse_list(given) == expected
    else:
        parse_list(given)  # nested too deep for a JSON parser: no error


def test_lists_are_joined():
    assert join_list([["A"], ["A", "B &amp; C"], ["D", "E"]], " > ") == "A > B & C"
    assert join_list(["x", None, "", {"a": 1}, 3], ", ") == "x, 3"


def test_urls():
    assert is_url("https://a.com/x.jpg") and is_url("//cdn.a.com/x") and not is_url("see https://a.com")
    assert first_url("['http://a.com/1.jpg', 'http://a.com/2.jpg']") == "http://a.com/1.jpg"
    assert first_url('[{"thumb": "https://a.com/s.jpg", "large": "https://a.com/l.jpg"}]') == "https://a.com/l.jpg"
    assert first_url("//cdn.a.com/x.png") == "https://cdn.a.com/x.png"
    assert first_url("javascript:alert(1)") is None and first_url("img_001.jpg") is None


def test_ids_stay_text():
    assert id_texts(column(" 007 ", "1e5", "", "NULL", None, "\u00a0x")).to_pylist() == [
        "007",
        "1e5",
        None,
        None,
        None,
        "x",
    ]
    assert id_texts(column(7, None, -1)).to_pylist() == ["7", None, "-1"]
    assert id_texts(column(7.0, None, float("nan"))).to_pylist() == ["7", None, None]
    assert id_texts(column(12345678901.0, float("nan"), 2.5, -0.0, 1e15)).to_pylist() == [
        "12345678901",
        None,
        "2.5",
        "0",
        "1000000000000000",
    ]
    assert id_texts(column(2.0**53 - 1, 2.0**53, float("inf"))).to_pylist() == [
        "9007199254740991",
        "9.007199254740992e+15",
        None,
    ]
    assert id_texts(column(7.0, 2.5, kind=pa.float32())).to_pylist() == ["7", "2.5"]
    assert id_texts(column(kind=pa.float64())).to_pylist() == []
    assert id_texts(column(2**63 + 1, kind=pa.uint64())).to_pylist() == [str(2**63 + 1)]
    assert id_texts(column(b"ab", kind=pa.binary())).to_pylist() == ["ab"]
    with pytest.raises(DataError, match="ids can't be read from a column of list"):
        id_texts(column(["a"]))
