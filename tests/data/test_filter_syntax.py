"""Filters in words: what the grammar reads, and what it says of what it can't."""

import pyarrow as pa
import pytest

from tiger.data.filter_syntax import MAX_DEPTH, FilterLimits, parse_filter
from tiger.recommender.filters import evaluate
from tiger.utils.errors import DataError

TABLE = pa.table(
    {
        "item_id": ["a", "b", "c"],
        "price": pa.array([19.99, float("nan"), None], pa.float32()),
        "exact": pa.array([1, 2, None], pa.decimal128(6, 2)),
        "size": pa.array([1, 2, 3], pa.int8()),
        "count": pa.array([1, 2, 3], pa.uint64()),
        "since": pa.array([0, 10**6, None], pa.timestamp("us")),
        "zoned": pa.array([0, 10**6, None], pa.timestamp("s", "UTC")),
        "day": pa.array([0, 5, None], pa.date32()),
        "brand": pa.array(["a", "b", None], pa.large_string()),
        "in_stock": [True, False, None],
        "tags": [["a"], ["b"], None],
        "empty": pa.nulls(3),
        "list price": ["it's", 'say "so"', "z"],
    }
)
READ = [
    ("price = 19.99", "a"),  # as the column's 32 bits have it
    ("price in (19.99, 5)", "a"),
    ("price is null", "bc"),  # NaN is how pandas writes what is missing
    ("price is not null", "a"),
    ("not price is null", "a"),
    ("exact < 1.5", "a"),
    ("exact in (1, 5)", "a"),
    ("2 > exact", "a"),
    ("size<2.5 and size = 1 or count >= 3", "ac"),
    ("size < 2.5 and (size = 1 or count >= 3)", "a"),
    ("size in (1, 2.0, 2.5, 1000, -1)", "ab"),
    ("size not in (1, 2)", "c"),
    ("count > -1", "abc"),
    ("count < 99999999999999999999", "abc"),
    ("size = count", "abc"),
    ("size = exact", "ab"),
    ("since < '1970-01-02'", "ab"),
    ("since in ('1970-01-01 00:00:01')", "b"),
    ("zoned < '1970-01-01 00:00:01'", "a"),
    ("day = '1970-01-01'", "a"),
    ("day > '1970-01-01'", "b"),
    ("brand = 'a'", "a"),
    ("brand != 'a'", "b"),  # nothing is known of c
    ('brand <> "a"', "b"),
    ("not brand = 'a'", "b"),
    ("brand in ('a', 'z')", "a"),
    ("brand not in ('a')", "b"),
    ("not brand in ('a')", "b"),
    ("brand = item_id", "ab"),
    ("brand is null or brand = 'a'", "ac"),
    ("in_stock", "a"),
    ("NOT in_stock", "b"),
    ("not not in_stock", "a"),
    ("in_stock = false", "b"),
    ("tags is null", "c"),
    ("empty = 1", ""),
    ("empty in (1)", ""),
    ("empty is null", "abc"),
    ("empty = brand", ""),
    ("`list price` = 'it''s'", "a"),
    ('`list price` = "say ""so"""', "b"),
    (" ( ( size=1 ) ) ", "a"),
]
REFUSED = [
    ("", "it is empty"),
    ("prise < 1", "no column 'prise' .is 'price' meant.*There are item_id, price"),
    ("brand = a", "no column 'a'.*text needs quotes"),
    ("Price < 1", "is 'price' .*meant"),
    ("size = 'x'", r"column 'size' holds numbers \(int8\), 'x' is a text\.$"),
    ("brand < 2", r"column 'brand' holds text \(large_string\), 2 is a number. Put 2 in quotes"),
    ("brand in (1)", "Put 1 in quotes"),
    ("in_stock = 1", "holds truth values .*1 is a number"),
    ("in_stock < true", "compare it by = or !="),
    ("tags = 'a'", "'tags' is of type list<"),
    ("since < 'soon'", "'soon' is none .*Write '2026-01-31'"),
    ("since < 5", "holds times .*5 is a number"),
    ("size", "compared with nothing"),
    ("1 = 1", "compares no column"),
    ("3 is null", "only a column can be null"),
    ("3 in (3)", "Write the column first"),
    ("size = null", "Write is null"),
    ("(size = 1", r"character 10: it ends where \) is needed"),
    ("size = 1)", "character 9: '\\)' stands where and, or, or the end is needed"),
    ("size =", "it ends where a column or a value is needed"),
    ("size = 1 size = 2", "character 10: 'size' stands"),
    ("size = 1 && size = 2", "character 10: '&' has no meaning here. Write and"),
    ("size in [1]", r"'\[' has no meaning here. Write \("),
    ("brand = 'a", "character 9: the ' is not closed"),
    ("size in ()", "a column or a value is needed"),
    ("brand in (item_id)", "'item_id' is a column. Put text in quotes"),
    ("size not 3", "where in is needed"),
    ("3x = 1", "'3x' can't be read"),
    ("size = 1e999", "too large"),
    ("size % 2 = 0", "'%' can't be read"),
    ("__import__('os')", "no column '__import__'"),
    ("__import__('os').system('x')", "'.system' can't be read"),
    ("(" * (MAX_DEPTH + 1) + "size = 1", "more than 50 parentheses"),
    ("not " * (MAX_DEPTH + 1) + "in_stock", "more than 50 parentheses and nots"),
]


@pytest.mark.parametrize("text, ids", READ)
def test_what_is_read(text, ids):
    found = evaluate(TABLE, parse_filter(text, TABLE.schema))
    assert "".join(item for item, allowed in zip("abc", found) if allowed) == ids


@pytest.mark.parametrize("text, message", REFUSED)
def test_what_is_refused_in_one_line(text, message):
    with pytest.raises(DataError, match=message) as caught:
        parse_filter(text, TABLE.schema)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("filter") and len(str(caught.value)) < 400


def test_limits():
    limits = FilterLimits(length=60, terms=3)
    assert parse_filter("size = 1 or size = 2 or size = 3", TABLE.schema, limits) is not None
    with pytest.raises(DataError, match="at most 3 comparisons"):
        parse_filter("size=1 or size=2 or size=3 or size=4", TABLE.schema, limits)
    with pytest.raises(DataError, match="61 characters, at most 60"):
        parse_filter("size = 1".ljust(61), TABLE.schema, limits)
    many = " or ".join(f"size = {number}" for number in range(1000))
    assert evaluate(TABLE, parse_filter(many, TABLE.schema)).all()  # Arrow reads as deep as that
    values = ", ".join(map(str, range(100_000)))
    assert evaluate(TABLE, parse_filter(f"size in ({values})", TABLE.schema)).all()
