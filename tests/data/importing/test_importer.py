"""Foreign tables to a dataset directory: how columns are read, what is refused, what is written."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiger.data import ImportOptions, RecommendationData, import_tables
from tiger.data.importing.importer import FILES
from tiger.data.importing.problems import ImportProblems
from tiger.embeddings.item_text import item_texts
from tiger.utils.errors import DataError

NEW_YEAR = 1_704_067_200

HEADER = "\ufeff SKU ;Product Name;Cost;Genres;Maker;Picture;Link;Color;GTIN;Code;Spec;Nothing;Launched"
ITEM_ROWS = [
    [' 007 ;"Zelt &amp; <b>Plane</b>\r\n(neu)"', "1.299,00 €", "['outdoor', \"men's\"]", '"Acme &reg;"'],
    ["1e5;Lampe", "9,99 €", '"[""light"", ""home""]"', ""],
    ['\r\nA3;"5 < 6 ""Kocher"""', "auf Anfrage", "[]", "Acme"],
]
REST = [
    ["https://cdn.x.com/7.jpg", "https://x.com/7", "rot", "4006381333931", "0042", '{"a": 1}', "", "2020-01-02"],
    ["https://cdn.x.com/8.png", "https://x.com/8", "", "4006381333948", "0043", '{"a": 2}', "", "2020-01-03"],
    ["", "https://x.com/9", "blau", "4006381333955", "0044", "{}", "", "2020-01-04"],
]
PRODUCTS = "\r\n".join([HEADER, *(";".join(first + rest) for first, rest in zip(ITEM_ROWS, REST))]) + "\r\n"
CLICKS = """visitor\tproduct\twhen\tevent\tscore
u1\t007\t1704067203000\tview\t5
 u1 \t1e5 \t1704067202500\tview\t4,5
u2\tA3\t1704067201000\tbuy\t
u1\tA3\t1704067202100\tbuy\tnone
u2\tA3\t1704067201000\tbuy\t1
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "products.csv").write_bytes(PRODUCTS.encode("utf-16"))
    (tmp_path / "clicks.tsv").write_text(CLICKS)
    return tmp_path


def written(folder: Path) -> tuple[list[dict], list[dict]]:
    return tuple(pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("items", "interactions"))


def events(rows, user="user", item="item", time="time") -> pa.Table:
    return pa.table({user: [row[0] for row in rows], item: [row[1] for row in rows], time: [row[2] for row in rows]})


def log(*ids: str) -> list[tuple]:
    return [(f"u{row % 2}", one, NEW_YEAR + row) for row, one in enumerate(ids)]


def test_a_messy_shop(shop):
    said = []
    report = import_tables(shop / "products.csv", shop / "clicks.tsv", shop / "out", say=said.append)
    items, log = written(shop / "out")
    assert items[0] == {
        "item_id": "007",
        "title": "Zelt & Plane (neu)",
        "brand": "Acme ®",
        "categories": "outdoor | men's",
        "price": 1299.0,
        "image_url": "https://cdn.x.com/7.jpg",
        "Link_url": "https://x.com/7",
        "Color": "rot",
        "GTIN": 4006381333931,
        "Code": "0042",
        "Launched": "2020-01-02",
    }
    assert [item["item_id"] for item in items] == ["007", "1e5", "A3"]
    assert [item["price"] for item in items] == [1299.0, 9.99, None]
    assert [item["categories"] for item in items] == ["outdoor | men's", "light | home", None]
    assert items[2]["title"] == '5 < 6 "Kocher"' and items[1]["brand"] is None and items[2]["image_url"] is None
    # By milliseconds, though only seconds are written; equal times in the order of the file.
    assert [(row["user_id"], row["item_id"], row["timestamp"] - NEW_YEAR) for row in log] == [
        ("u1", "A3", 2),
        ("u1", "1e5", 2),
        ("u1", "007", 3),
        ("u2", "A3", 1),
        ("u2", "A3", 1),
    ]
    assert [row["rating"] for row in log] == [None, 4.5, 5.0, None, 1.0]
    assert (report.users, report.items, report.events, report.trainable_users) == (2, 3, 5, 1)
    assert (report.first, report.last, report.duplicates) == (NEW_YEAR + 1, NEW_YEAR + 3, 1)
    assert report.repeats == pytest.approx(0.2) and report.dropped == {}
    assert said[1:14] == [
        "  item_id <- SKU",
        "  title <- Product Name",
        "  price <- Cost, parsed",
        "  categories <- Genres, lists joined",
        "  brand <- Maker",
        "  image_url <- Picture, a URL, kept for the page, left out of the text",
        "  Link_url <- Link, a URL, kept for the page, left out of the text",
        "  Color: text",
        "  GTIN: numbers",
        "  Code: text",
        "  Spec: left out (objects, not text or numbers)",
        "  Nothing: left out (empty)",
        "  Launched: text",
    ]
    assert said[15:20] == [
        "  user_id <- visitor",
        "  item_id <- product",
        "  timestamp <- when, guessed from its values",
        "  rating <- score",
        "  left out: event",
    ]
    assert "           1 of them repeat user, item and time of another" in str(report).splitlines()
    notes = " ".join(said[20:])
    assert "separated by semicolons" in notes and "separated by tabs" in notes and "milliseconds since 1970" in notes
    assert "1 values of 'Cost' are no prices, such as 'auf Anfrage': left empty" in notes and "not in order" in notes
    data = RecommendationData.load(shop / "out")
    assert [ids.tolist() for ids in data.sequences] == [[2, 1, 0], [2, 2]]
    assert item_texts(data.items)[0] == (
        "Title: Zelt & Plane (neu); Price: 1299; Brand: Acme ®; Categories: outdoor | men's; Color: rot; Code: 0042; "
        "Launched: 2020-01-02"
    )
    assert json.loads((shop / "out" / "import.json").read_text())["events"] == 5
    assert sorted(path.name for path in (shop / "out").iterdir()) == sorted(FILES)


BAD_PRODUCTS = """id,name
1,Tent
,Lamp
2,Stove
1,Tent again
NULL,Nothing
3,too,wide
"""
BAD_CLICKS = """user,id,time
u1,1,2024-01-01
u1,9,2024-01-02
,1,2024-01-03
u1,2,soon
u2,,2024-01-05
u2,1,2024-02-30
u2,8,2024-01-07
u2,7,2024-01-08
u2,7,2024-01-09
u1,2,2024-01-10
"""


def test_all_problems_at_once(tmp_path):
    (tmp_path / "p.csv").write_text(BAD_PRODUCTS)
    (tmp_path / "c.csv").write_text(BAD_CLICKS)
    p, c = tmp_path / "p.csv", tmp_path / "c.csv"
    with pytest.raises(ImportProblems) as caught:
        import_tables(p, c, tmp_path / "out")
    assert caught.value.lines == [
        f"2 items without an id: {p}, row 2; {p}, row 5",
        f"1 rows of an item id that occurred above: {p}, row 4 ('1')",
        f"1 rows that can't be read: {p}, row 6 (3 columns, the header has 2)",
        f"1 events without a user: {c}, row 3",
        f"1 events without an item: {c}, row 5",
        "2 events without a time that can be read (or a date before 1970, a number before 1971, or one after 2200): "
        f"{c}, row 4; {c}, row 6",
        f"4 events of items that the item table lacks: {c}, row 2 ('9'); {c}, row 7 ('8'); {c}, row 8 ('7'); ...",
    ]
    assert "--drop-unknown" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "p.csv"]

    report = import_tables(p, c, tmp_path / "out", ImportOptions(drop_unknown=True))
    items, log = written(tmp_path / "out")
    assert [item["title"] for item in items] == ["Tent", "Stove"]
    assert [(row["user_id"], row["item_id"]) for row in log] == [("u1", "1"), ("u1", "2")]
    assert list(report.dropped.values()) == [2, 1, 1, 1, 1, 2, 4]
    assert "4 left out: events of items that the item table lacks" in str(report)


def test_what_is_missing_is_told_for_both_tables_at_once(tmp_path):
    items, clicks = pa.table({"what": ["a", "a"]}), pa.table({"x": ["b", "b"]})
    options = ImportOptions(columns={"title": "nothing"})
    with pytest.raises(ImportProblems) as caught:
        import_tables(items, clicks, tmp_path / "out", options)
    lines = " ".join(caught.value.lines)
    for part in ("no column 'nothing' to read as title", "--item-id", "--event-item-id", "--user-id", "--time"):
        assert part in lines
    assert "--drop-unknown" not in caught.value.remedy
    with pytest.raises(DataError, match="columns can be named for item_id, .*, not for 'titel'"):
        import_tables(items, clicks, tmp_path / "out", ImportOptions(columns={"titel": "what"}))


def test_tables_the_wrong_way_round(tmp_path):
    items = pa.table({"sku": ["a", "b"], "title": ["A", "B"]})
    clicks = events(log("a", "b", "a"), item="sku")
    with pytest.raises(
        ImportProblems, match="no column of users among sku, title.*Give the items first, then the log"
    ):
        import_tables(clicks, items, tmp_path / "out")


def test_dates_that_stand_for_none_are_problems(tmp_path):
    clicks = tmp_path / "c.csv"
    clicks.write_text("user,id,time\nu,a,2024-01-01\nu,b,1900-01-01\nu,a,0001-01-01\nu,b,1970-01-02\n")
    with pytest.raises(ImportProblems) as caught:
        import_tables(TWO, clicks, tmp_path / "out")
    (line,) = caught.value.lines
    assert line.startswith("2 events without a time") and line.endswith(f": {clicks}, row 2; {clicks}, row 3")
    import_tables(TWO, clicks, tmp_path / "out", ImportOptions(drop_unknown=True))
    assert [row["timestamp"] for row in written(tmp_path / "out")[1]] == [86_400, NEW_YEAR]
    assert len(RecommendationData.load(tmp_path / "out").sequences[0]) == 2


def test_users_that_a_database_does_not_know_are_none(tmp_path):
    clicks = tmp_path / "c.csv"
    rows = ["\\N,a,2024-01-01,\\N", '7,a,2024-01-02,"tent \\"big\\" red"', "8,\\N,2024-01-03,x"]
    clicks.write_text("\n".join(["user,id,time,search", *rows]) + "\n")
    with pytest.raises(ImportProblems) as caught:
        import_tables(TWO, clicks, tmp_path / "out")
    assert caught.value.lines == [
        f"1 events without a user: {clicks}, row 1",
        f"1 events without an item: {clicks}, row 3",
    ]


def test_users_are_the_same_in_batches_with_and_without_gaps(tmp_path):
    for part, user in enumerate((None, float("nan"), 2.5, 7.0)):
        table = pa.table({"user": [12345678901.0, user], "item": ["a", "b"], "time": [NEW_YEAR + part] * 2})
        (tmp_path / "log").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "log" / f"{part}.parquet")
    import_tables(TWO, tmp_path / "log", tmp_path / "out", ImportOptions(drop_unknown=True))
    assert {row["user_id"] for row in written(tmp_path / "out")[1]} == {"12345678901", "2.5", "7"}


def test_prices_that_are_not_finite_are_left_empty(tmp_path):
    items = pa.table({"item_id": list("abcde"), "title": list("ABCDE"), "price": [1.0, np.inf, -np.inf, np.nan, -1.0]})
    report = import_tables(items, events(log("a", "b")), tmp_path / "out")
    assert [item["price"] for item in written(tmp_path / "out")[0]] == [1.0, None, None, None, None]
    assert "3 values of 'price' are no prices, such as inf, -inf, -1.0: left empty" in report.notes


@pytest.mark.parametrize("day", ["2024-01-01", "20240101", "01.01.2024"])
def test_days_and_times_of_day_in_two_columns(tmp_path, day):
    items = pa.table({"id": ["a", "b", "c"], "title": ["A", "B", "C"]})
    clicks = pa.table(
        {
            "user": ["u"] * 3,
            "id": ["a", "b", "c"],
            "date": [day] * 3,
            "time": ["10:00:05", "9:00", None],
            "qty": [1, 2, 1],
        }
    )
    report = import_tables(items, clicks, tmp_path / "out")
    log = written(tmp_path / "out")[1]
    assert [(row["item_id"], row["timestamp"] - NEW_YEAR) for row in log] == [("c", 0), ("b", 32_400), ("a", 36_005)]
    assert str(report.event_columns[3]) == "timestamp <- time, the time of day, added"


@pytest.mark.parametrize("times", [[1, 2, 3], ["2001", "2002", "2003"]])
def test_times_that_would_lie_in_1970(tmp_path, times):
    items = pa.table({"id": ["a"], "title": ["A"]})
    clicks = pa.table({"user": ["u"] * 3, "item": ["a"] * 3, "time": times})
    with pytest.raises(ImportProblems, match="time: values such as .* are no times: .*1970.*add 1000000000"):
        import_tables(items, clicks, tmp_path / "out", ImportOptions(drop_unknown=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("known", "clicked", "hint"),
    [
        (["1", "2"], ["1.0", "2.0"], "'.0' at their end were not there"),
        (["1", "2"], ["01", "02"], "zeros before them were left out"),
        (["a1", "b2"], ["A1", "B2"], "capitals were small letters"),
        (["a1", "b2"], ["x", "y"], ""),
    ],
)
def test_a_hint_why_items_are_unknown(tmp_path, known, clicked, hint):
    items = pa.table({"item_id": known, "title": ["A", "B"]})
    clicks = events(log(*clicked * 2), user="user_id", item="item_id", time="timestamp")
    with pytest.raises(ImportProblems) as caught:
        import_tables(items, clicks, tmp_path / "out")
    (line,) = caught.value.lines
    assert line.startswith("4 events of items that the item table lacks") and (hint in line)
    assert ("Most would be known" in line) == bool(hint)


def test_columns_are_found_by_what_the_tables_share(tmp_path):
    """The log's product_id holds what the items call id, not their sku."""
    items = pa.table({"sku": ["x1", "x2", "x3"], "id": [11, 12, 13], "label": ["Tent", "Lamp", "Stove"]})
    clicks = events(log("11", "12", "13", "11"), item="product_id")
    report = import_tables(items, clicks, tmp_path / "out")
    assert [str(reading) for reading in report.item_columns] == ["sku: text", "item_id <- id", "title <- label"]
    assert written(tmp_path / "out")[1][0]["item_id"] == "11"


def test_columns_are_guessed_from_their_values_where_names_say_nothing(tmp_path):
    items = pa.table(
        {
            "c1": ["k1", "k2", "k3"],
            "c2": ["Big red tent", "Small lamp", "Iron stove"],
            "c3": ["$3", "$4.50", "$1"],
            "c4": ["Out > Tents", "In > Lamps", "Out > Stoves"],
            "c5": ["//cdn.com/1.webp", "//cdn.com/2.webp", None],
        }
    )
    clicks = pa.table(
        {
            "d1": ["p", "q", "p", "q"],
            "d2": ["k1", "k2", "k3", "k1"],
            "d3": ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"],
        }
    )
    report = import_tables(items, clicks, tmp_path / "out")
    targets = [reading.target for reading in report.item_columns]
    assert targets == ["item_id", "title", "price", "categories", "image_url"]
    assert [reading.target for reading in report.event_columns] == ["user_id", "item_id", "timestamp"]
    assert str(report.item_columns[1]) == "title <- c2, guessed from its values"
    first = written(tmp_path / "out")[0][0]
    assert first["price"] == 3.0 and first["image_url"] == "https://cdn.com/1.webp"


NUMBERED = pa.table({"artikel": list(range(1, 21)), "title": [f"Tent number {row}" for row in range(20)]})


def numbered_log(*names: str) -> pa.Table:
    """Users 1 to 10, each of whose numbers is an item's too."""
    rows = [(1 + row % 10, 1 + row * 7 % 20, NEW_YEAR + row) for row in range(60)]
    return pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)})


@pytest.mark.parametrize(
    "names", [("kunde", "product", "zeit"), ("customer", "artikelnr", "time"), ("uid", "nr", "day")]
)
def test_users_whose_numbers_are_items_are_not_taken_for_items(tmp_path, names):
    report = import_tables(NUMBERED, numbered_log(*names), tmp_path / "out")
    assert (report.users, report.items) == (10, 20)
    assert str(report.item_columns[0]) == "item_id <- artikel, guessed from its values"
    how = "" if names[1] == "product" else ", guessed from its values"
    assert str(report.event_columns[1]) == f"item_id <- {names[1]}{how}"


def test_two_columns_that_can_be_the_items_are_asked_about(tmp_path):
    clicks = numbered_log("kunde", "artikelnr", "time")
    with pytest.raises(
        ImportProblems, match="kunde and artikelnr of the log .* --event-item-id artikelnr .* --user-id"
    ):
        import_tables(NUMBERED, clicks, tmp_path / "out")
    for columns in ({"event_item_id": "artikelnr"}, {"user_id": "kunde"}):
        assert import_tables(NUMBERED, clicks, tmp_path / "out", ImportOptions(columns)).users == 10
    twice = NUMBERED.append_column("row", NUMBERED["artikel"])
    with pytest.raises(ImportProblems, match="artikel and row of the items .* --item-id row"):
        import_tables(twice, numbered_log("user", "product", "time"), tmp_path / "out")


def test_words_for_no_value_are_none(tmp_path):
    nothing = ["NaN", "nan", "None", "NULL", "null", "\\N", " N/A ", "<NA>", "", None]
    items = pa.table(
        {
            "item_id": [f"i{row}" for row in range(12)] + ["N/A"],
            "title": [*nothing, "Nanny", "Null Island", "Tent"],
            "weight": ["NULL", "nan", "1.5", "2", *["3"] * 9],
            "price": ["N/A", "$3", *["$4"] * 11],
        }
    )
    report = import_tables(items, events(log("i1", "i2", "i3")), tmp_path / "out", ImportOptions(drop_unknown=True))
    rows = written(tmp_path / "out")[0]
    assert [row["title"] for row in rows] == [None] * 10 + ["Nanny", "Null Island"]
    assert [row["weight"] for row in rows[:3]] == [None, None, 1.5] and rows[0]["price"] is None
    assert report.dropped == {"items without an id": 1}
    assert "8 of 'title' say that there is no value ('NaN', 'nan', 'None'): left empty" in report.notes
    assert "10 of 12 items have no title" in report.notes
    assert "1 of 'price' say that there is no value ('N/A'): left empty" in report.notes


TWO = pa.table({"item_id": ["a", "b"], "title": ["A", "B"]})


def test_a_log_without_rows_says_so(tmp_path):
    (tmp_path / "c.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(ImportProblems) as caught:
        import_tables(TWO, tmp_path / "c.csv", tmp_path / "out")
    assert caught.value.lines == [f"{tmp_path / 'c.csv'}: the log has no rows. Give one with at least one event."]


def test_times_in_two_units_are_named(tmp_path):
    rows = [("u", "a", (NEW_YEAR + row) * (1000 if row % 2 else 1)) for row in range(10)]
    with pytest.raises(ImportProblems) as caught:
        import_tables(TWO, events(rows), tmp_path / "out")
    (line,) = caught.value.lines
    assert line.startswith("5 events without a time") and "the interactions, row " in line
    assert line.endswith(
        "5 of them would be times in seconds, while most are milliseconds since 1970: write all in one unit"
    )


@pytest.mark.parametrize(("step", "lost"), [(10_000, True), (86_400, False), (60, False)])
def test_times_without_their_last_digits_are_noted(tmp_path, step, lost):
    rows = [("u", "a", f"{1_700_610_000_000 + row * step * 1000:.0f}") for row in range(10)]
    report = import_tables(TWO, events(rows), tmp_path / "out")
    assert any("digits seem lost" in note for note in report.notes) == lost


@pytest.mark.parametrize(
    ("values", "kept"), [([1, 2, 3], False), ([0, 1, 1], True), (["true", "false", "true"], True)]
)
def test_labels_are_0_or_1(tmp_path, values, kept):
    clicks = events(log("a", "b", "a")).append_column("label", pa.array(values))
    report = import_tables(TWO, clicks, tmp_path / "out")
    how = "label" if kept else "label: left out (values other than 0 and 1, so no label)"
    assert str(report.event_columns[3]) == how
    assert ("label" in written(tmp_path / "out")[1][0]) == kept
    if not kept:
        with pytest.raises(ImportProblems, match="label: values other than 0 and 1"):
            import_tables(TWO, clicks, tmp_path / "out", ImportOptions(columns={"label": "label"}))


def test_objects_are_no_ids(tmp_path):
    """All users would be one, called {}."""
    items, file = pa.table({"item_id": ["a", "b"], "title": ["A", "B"]}), tmp_path / "clicks.jsonl"
    rows = [{"user": "u0", "item_id": "a", "time": NEW_YEAR}]
    rows += [{"user": {"id": n, "name": "x"}, "item_id": "b", "time": NEW_YEAR, "uid": f"u{n}"} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    options = ImportOptions(columns={"user_id": "user"})
    with pytest.raises(ImportProblems) as caught:
        import_tables(items, file, tmp_path / "out", options)
    assert caught.value.lines == [
        f"{file}, line 1: 'user' is an object with user.id, user.name, not an id. Write the id as a key of its own "
        "beside 'user', or keep 'user' from being read with --leave-out user."
    ]
    assert import_tables(items, file, tmp_path / "out", ImportOptions(leave_out=["user"])).users == 3
    file.write_text("\n".join(json.dumps(row | {"item_id": [{"sku": "a"}]}) for row in rows))
    with pytest.raises(ImportProblems, match="clicks.jsonl, line 2: 'user' is an object with user.id"):
        import_tables(items, file, tmp_path / "out", options)
    file.write_text(json.dumps([{"item_id": [{"sku": "a"}], "title": "A"}]))
    with pytest.raises(ImportProblems, match="clicks.jsonl, object 1: 'item_id' is an object with item_id.sku"):
        import_tables(file, events(log("a")), tmp_path / "out")


def test_columns_that_the_caller_names(tmp_path):
    items = pa.table({"id": ["a", "b"], "title": ["long text", "more"], "short": ["A", "B"], "secret": ["s", "t"]})
    clicks = pa.table(
        {
            "user_id": ["u", "u"],
            "session": ["s1", "s2"],
            "ref": ["a", "b"],
            "t": ["01/02/2024", "02/02/2024"],
            "click": [1, 0],
        }
    )
    columns = {"title": "short", "user_id": "session", "event_item_id": "ref", "item_id": "id"}
    options = ImportOptions(columns, leave_out=["secret"], time_format="%m/%d/%Y")
    report = import_tables(items, clicks, tmp_path / "out", options)
    found, log = written(tmp_path / "out")
    assert found[0] == {"item_id": "a", "title": "A", "title_2": "long text"}
    assert [row["user_id"] for row in log] == ["s1", "s2"] and log[0]["label"] == 1.0
    assert log[0]["timestamp"] == NEW_YEAR + 86_400  # the second of January
    assert [reading.source for reading in report.event_columns if not reading.target] == ["user_id"]


def test_tables_in_memory_and_types_of_parquet(tmp_path):
    items = [
        {"item_id": "7", "title": "Tent", "categories": ["Out", "Tents &amp; more"], "tags": ["a", "b"], "price": 3},
        {"item_id": "8", "title": None, "categories": None, "tags": [], "price": -1},
    ]
    clicks = pd.DataFrame(
        {"user_id": [1.0, 2.0, 1.0], "item_id": [7, 8, 8], "time": pd.to_datetime(["2024-01-01"] * 3)}
    )
    report = import_tables(items, clicks, tmp_path / "out")
    found, log = written(tmp_path / "out")
    assert found == [
        {"item_id": "7", "title": "Tent", "categories": "Out > Tents & more", "price": 3.0, "tags": "a, b"},
        {"item_id": "8", "title": None, "categories": None, "price": None, "tags": None},
    ]
    assert [row["user_id"] for row in log] == ["1", "1", "2"] and {row["timestamp"] for row in log} == {NEW_YEAR}
    assert "1 of 2 items have no title" in report.notes


def test_nested_parquet(tmp_path):
    items = pa.table(
        {
            "parent_asin": ["a", "b"],
            "title": ["A", "B"],
            "categories": [[["Beauty"], ["Beauty", "Hair"]], [["Toys"]]],
            "images": [[{"thumb": "https://i.com/s.jpg", "large": "https://i.com/l.jpg"}], []],
            "details": [{"Size": "XL"}, {"Size": "S"}],
            "first_seen": [datetime(2020, 1, 1), None],
            "dense": pa.array([True, False]),
        }
    )
    import_tables(items, events(log("a", "b"), item="asin"), tmp_path / "out")
    (first, second), _ = written(tmp_path / "out")
    assert first["categories"] == "Beauty > Hair" and second["categories"] == "Toys"
    assert first["image_url"] == "https://i.com/l.jpg" and second["image_url"] is None
    assert first["first_seen"] == datetime(2020, 1, 1) and first["dense"] is True and "details" not in first


def test_numbers_that_are_not_all_numbers_stay_text(tmp_path):
    rows = 3000
    items = pa.table(
        {
            "id": [f"i{row}" for row in range(rows)],
            "title": ["T"] * rows,
            "size": [str(row) for row in range(rows - 1)] + ["XL"],
            "weight": [f"{row}.5" for row in range(rows)],
        }
    )
    report = import_tables(items, events(log("i1", "i2")), tmp_path / "out")
    found = pq.read_table(tmp_path / "out" / "items.parquet")
    assert found["size"][rows - 1].as_py() == "XL" and found["weight"].type == pa.float64()
    assert str(report.item_columns[2]) == "size: text"


def test_core_filter(tmp_path):
    items = pa.table({"id": ["a", "b", "c"], "title": ["A", "B", "C"]})
    clicks = [
        ("u", "a", NEW_YEAR),
        ("u", "b", NEW_YEAR + 1),
        ("v", "a", NEW_YEAR),
        ("v", "b", NEW_YEAR),
        ("w", "c", NEW_YEAR),
    ]
    report = import_tables(items, events(clicks), tmp_path / "out", ImportOptions(core=2))
    assert (report.users, report.items, report.events) == (2, 2, 4)
    found, log = written(tmp_path / "out")
    assert [item["item_id"] for item in found] == ["a", "b"] and {row["user_id"] for row in log} == {"u", "v"}
    with pytest.raises(DataError, match="no event is left with this core"):
        import_tables(items, events(clicks), tmp_path / "out", ImportOptions(core=3))


def test_only_what_an_import_wrote_is_replaced(tmp_path):
    items, clicks = pa.table({"id": ["a"], "title": ["A"]}), events(log("a", "a"))
    out = tmp_path / "out"
    import_tables(items, clicks, out)
    report = import_tables(items, events(log("a", "a", "a")), out)
    assert report.events == 3 and len(written(out)[1]) == 3
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ImportProblems):
        import_tables(items, events(log("a", "b")), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("out", ".out.lock")] == []
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds notes.txt, which no import wrote"):
        import_tables(items, clicks, out)
    (out / "notes.txt").unlink()
    (out / "import.json").unlink()
    with pytest.raises(FileExistsError, match="holds interactions.parquet, which no import wrote"):
        import_tables(items, clicks, out)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file: give a folder"):
        import_tables(items, clicks, tmp_path / "file")


def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="no space left"):
        import_tables(pa.table({"id": ["a"], "title": ["A"]}), events(log("a")), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_batches_and_their_borders_do_not_matter(tmp_path, monkeypatch, batch):
    import random

    rows = [(f"u{n % 5}", f"i{n * 7 % 11}", NEW_YEAR + n * 37 % 50) for n in range(60)]
    random.Random(0).shuffle(rows)
    items = pa.table({"id": [f"i{n}" for n in range(11)], "title": [f"Item {n}" for n in range(11)]})
    whole = import_tables(items, events(rows), tmp_path / "whole")
    (tmp_path / "shards").mkdir()
    for start in range(0, 60, 20):
        pq.write_table(events(rows[start : start + 20]), tmp_path / "shards" / f"part-{start:05}.parquet")
    monkeypatch.setattr("tiger.data.importing.parquet_file._BATCH_ROWS", batch)
    monkeypatch.setattr("tiger.data.importing.events._BATCH", batch)
    sharded = import_tables(items, tmp_path / "shards", tmp_path / "sharded")
    assert written(tmp_path / "sharded") == written(tmp_path / "whole")
    assert (whole.users, whole.repeats, whole.first) == (sharded.users, sharded.repeats, sharded.first)
    expected = sorted(rows, key=lambda row: row[2])
    for user in {row[0] for row in rows}:
        own = [
            (row["item_id"], row["timestamp"]) for row in written(tmp_path / "sharded")[1] if row["user_id"] == user
        ]
        assert own == [row[1:] for row in expected if row[0] == user]


def test_columns_of_the_right_name_and_the_wrong_type(tmp_path):
    items = pa.table({"id": ["a", "b"], "title": ["A", "B"]})
    clicks = pa.table(
        {
            "user_id": [["u"], ["v"]],
            "uid": ["u", "v"],
            "item_id": ["a", "b"],
            "rating": [datetime(2020, 1, 1)] * 2,
            "time": ["2024-01-01"] * 2,
        }
    )
    report = import_tables(items, clicks, tmp_path / "out")
    assert [reading.source for reading in report.event_columns if reading.target] == ["uid", "item_id", "time"]
    for target in ("user_id", "rating"):
        with pytest.raises(DataError, match="can't be read from a column of"):
            import_tables(items, clicks, tmp_path / "out", ImportOptions(columns={target: target}))
    (tmp_path / "log.jsonl").write_text('{"": "a", "user": "u", "item": "a", "time": "2024-01-01"}')
    assert import_tables(items, tmp_path / "log.jsonl", tmp_path / "blank").events == 1


def test_a_column_to_leave_out_that_no_table_has_is_told(tmp_path):
    items, events = tmp_path / "items.csv", tmp_path / "events.csv"
    items.write_text("item_id,title,stock\n1,Tent,3\n2,Lamp,4\n")
    events.write_text("user_id,item_id,timestamp\na,1,1600000000\na,2,1600000001\n")
    with pytest.raises(DataError, match="--leave-out Stock: neither table has this column; they have item_id, title"):
        import_tables(items, events, tmp_path / "out", ImportOptions(leave_out=["Stock", "timestamp"]))
    import_tables(items, events, tmp_path / "out", ImportOptions(leave_out=["stock"]))
