"""Tables from files: delimiters, encodings, compression, shards, headers; rows that can't be read have numbers."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiger.data.importing.csv_file import CsvTable
from tiger.data.importing.files import find_files
from tiger.data.importing.rows import RowNumbers
from tiger.data.importing.source import Source
from tiger.utils.errors import DataError

ROWS = [{"sku": "007", "name": "Zelt, groß\n(neu)"}, {"sku": "1e5", "name": 'Lampe "Nº 5"'}]
CSV = 'sku,name\n007,"Zelt, groß\n(neu)"\n1e5,"Lampe ""Nº 5"""\n'


def rows(path) -> list[dict]:
    return Source(path).read().to_pylist()


def written(path, content: bytes | str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode(),
        CSV.encode("utf-8-sig"),
        CSV.encode("utf-16"),
        b"\xfe\xff" + CSV.encode("utf-16-be"),
        CSV.encode("utf-16-le"),
        CSV.encode("utf-32"),
        CSV.encode("latin-1"),
        CSV.replace("\n", "\r\n").encode(),
        CSV.replace(",name", " ,\u00a0name ").replace("sku", " sku").encode(),
        CSV.replace(",name", ";name").replace("007,", "007;").replace("1e5,", "1e5;").encode(),
        CSV.replace(",name", "\tname").replace("007,", "007\t").replace("1e5,", "1e5\t").encode(),
        CSV.replace(",name", "|name").replace("007,", "007|").replace("1e5,", "1e5|").encode(),
        b"sep=;\n" + CSV.replace(",name", ";name").replace("007,", "007;").replace("1e5,", "1e5;").encode(),
        CSV.replace('""Nº 5""', '\\"Nº 5\\"').encode(),
        CSV.replace("\n1e5", "\n\n\n1e5").encode(),
        gzip.compress(CSV.encode()),
        bz2.compress(CSV.encode("utf-16")),
        pa.compress(CSV.encode(), "zstd", asbytes=True),
        "\n".join(map(json.dumps, ROWS)).encode(),
        gzip.compress("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode("utf-8-sig")),
        json.dumps(ROWS, indent=2).encode("utf-16"),
    ],
    ids=range(21),
)
def test_one_table_however_it_is_written(tmp_path, content):
    found = rows(written(tmp_path / "table", content))
    assert [{key: value.replace("\r", "") for key, value in row.items()} for row in found] == ROWS


def test_old_macintosh_line_ends(tmp_path):
    assert rows(written(tmp_path / "a.csv", "a,b\r1,2\r3,4\r")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_encodings_that_are_guessed_are_told(tmp_path):
    (note,) = Source(written(tmp_path / "a.csv", "a,b\n1,é\n2,€\n".encode("cp1252"))).notes
    assert note.endswith("a.csv: not UTF-8 (line 2): read as Latin-1 (Windows-1252)")
    assert rows(tmp_path / "a.csv")[1]["b"] == "€"
    source = Source(written(tmp_path / "a.csv", "a,b\n1,é\x81\n".encode("latin-1")))
    assert source.notes[0].endswith("read as Latin-1") and source.read()["b"].to_pylist() == ["é\x81"]
    assert not Source(written(tmp_path / "a.csv", "a,b\n1,é\n")).notes
    with pytest.raises(DataError, match="a.csv can't be read .line 2 is not UTF-8, which its first bytes promise"):
        Source(written(tmp_path / "a.csv", b"\xef\xbb\xbfa,b\n1,\xe9\n"))


def test_a_wrong_byte_far_below_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tiger.data.importing.encodings._CHUNK", 1 << 16)
    text = "a,b\n" + "1,é\n" * 3 + "2,x\n" * 50_000
    source = Source(written(tmp_path / "a.csv", text.encode("latin-1") + b"3,\xe9\n"))
    assert "line 2" in source.notes[0]
    source = Source(written(tmp_path / "a.csv", text.replace("é", "e").encode() + b"3,\xe9\n"))
    assert "(line 50005)" in source.notes[0] and source.read()["b"][-1].as_py() == "é"


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (",a,b\n0,1,2\n1,3,4\n", ["a", "b"]),  # pandas writes its index without a name
        ("Unnamed: 0,a,b\n0,1,2\n", ["a", "b"]),
        ("a,b,\n1,2,\n", ["a", "b"]),
        ("a,b\n1,2,\n3,4,\n", ["a", "b"]),
        ("a,b\nr1,1,2\nr2,3,4\n", ["a", "b"]),  # R leaves the name of the rows' names out
        ("a,b,a,a\n1,2,3,4\n", ["a", "b", "a_2", "a_3"]),
        ('"a\n x",b\n1,2\n', ["a x", "b"]),
        ("a\n1\n2\n", ["a"]),
        ("ORCID,title\n1,2\n", ["ORCID", "title"]),  # begins like a file of ORC
    ],
)
def test_odd_headers(tmp_path, content, columns):
    source = Source(written(tmp_path / "a.csv", content))
    assert source.columns == columns
    first = source.read().to_pylist()[0]
    assert list(first.values())[:2] == (["1", "2"] if len(columns) > 1 else ["1"])


def test_a_file_without_a_header_is_refused(tmp_path):
    for content in ("1,31,2.5,1260759144\n1,1029,3.0,1260759179\n", "196\t242\t3\t881250949\n"):
        with pytest.raises(
            DataError, match="has no header: its first line reads '1.*Name the columns in a line above"
        ):
            Source(written(tmp_path / "u.data", content))


def test_rows_of_another_width_have_their_numbers(tmp_path):
    content = 'a,b\n1,2\n\n"x\ny",3\n1,2,3\n4,5\n6\n7,8\n'
    source = Source(written(tmp_path / "a.csv", content))
    assert source.read()["a"].to_pylist() == ["1", "x\ny", "4", "7"]
    (_, part, _) = source._parts[0]
    assert part.rows.bad == [(3, "3 columns, the header has 2"), (5, "1 columns, the header has 2")]
    places = [source.place(row) for row in range(4)]
    assert [place.rpartition(" ")[2] for place in places] == ["1", "2", "4", "6"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("preamble", ["", "\n", "\n\n\n", "sep=;\n", "sep=;\n\n", "\n\nsep=;\n\n\n"])
def test_lines_above_the_header(tmp_path, preamble, end, encoding):
    content = f"{preamble}item_id;title\n1;Tent\n\n2;too;wide\n3;Lamp\n".replace("\n", end)
    source = Source(written(tmp_path / "a.csv", content.encode(encoding)))
    assert source.read().to_pylist() == [{"item_id": "1", "title": "Tent"}, {"item_id": "3", "title": "Lamp"}]
    assert source._parts[0][1].rows.bad == [(2, "3 columns, the header has 2")]
    assert [source.place(row).rpartition(" ")[2] for row in range(2)] == ["1", "3"]


ESCAPED = r"""user,text,last
\N,"said \"hi\", \N,\N
\N,""\N,",\N
"\N",N,\N7
7,\,\N,x
x"y,\N,\"
\\N,a\N,\N
"""


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(("delimiter", "end"), [(",", "\n"), ("\t", "\r\n"), ("|", "\n")])
def test_null_of_mysql_beside_escapes(tmp_path, monkeypatch, chunk, delimiter, end):
    """Unquoted it stays ``\\N``, which means nothing; in quotation marks and within text a backslash escapes."""
    monkeypatch.setattr("tiger.data.importing.escapes._CHUNK", chunk)
    content = ESCAPED.replace(",", delimiter).replace("\n", end)
    found = [list(row.values()) for row in rows(written(tmp_path / "a.csv", content.removesuffix(end)))]
    assert [[text.replace(delimiter, ",").replace(end, "\n") for text in row] for row in found] == [
        ["\\N", 'said "hi", N,N\nN,"N,', "\\N"],
        ["N", "N", "N7"],
        ["7", ",N", "x"],
        ['x"y', "\\N", '"'],
        ["\\N", "aN", "\\N"],
    ]


def test_row_numbers():
    numbers = RowNumbers()
    for row in (1, 2, 5, 6, 9):
        numbers.skip(row)
    assert [numbers.row(place) for place in range(5)] == [3, 4, 7, 8, 10]


def test_lines_that_are_no_objects_have_their_numbers(tmp_path):
    lines = [
        '{"a": 1}',
        "",
        "[1]",
        "{",
        '{"a": 1e5, "b": [1, "x"], "c": true}',
        "[" * 100_000,
        '{"a": "\\ud83d\\ude00\\ud800"}',
    ]
    source = Source(written(tmp_path / "a.jsonl", "\n".join(lines)))
    assert source.read().to_pylist() == [
        {"a": "1", "b": None, "c": None},
        {"a": "1e5", "b": '["1", "x"]', "c": "true"},
        {"a": "😀\ufffd", "b": None, "c": None},
    ]
    assert [row for row, _ in source._parts[0][1].rows.bad] == [3, 4, 6]
    assert source.place(1).endswith("a.jsonl, line 5")


def test_keys_that_the_first_objects_lack(tmp_path):
    lines = [json.dumps({"id": str(row)} | ({"late": "x"} if row == 50_000 else {})) for row in range(50_001)]
    table = Source(written(tmp_path / "a.jsonl", "\n".join(lines))).read()
    assert table["late"].to_pylist().count("x") == 1


def test_a_quotation_mark_that_never_closes(tmp_path):
    with pytest.raises(DataError, match=r"a.csv, line 3: a quotation mark opens a field and never closes"):
        Source(written(tmp_path / "a.csv", 'a,b\n1,2\n3,"four\n5,6\n7,8\n'))
    # Inches are no quotation marks: within a field they are text.
    assert rows(written(tmp_path / "a.csv", 'a,b\n1,TV 42" wide\n2,x\n'))[0]["b"] == 'TV 42" wide'


def test_a_row_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("tiger.data.importing.csv_file._BLOCK", 1 << 20)
    with pytest.raises(DataError, match="a row is longer than 1 MB. Look for a quotation mark"):
        rows(written(tmp_path / "a.csv", 'a,b\n1,"' + "x\n" * (2 << 20) + '"\n'))


def test_shards_of_spark(tmp_path):
    folder = tmp_path / "events.parquet"
    for part, day in ((1, "2024-01-02"), (0, "2024-01-01")):
        path = folder / f"day={day}" / f"part-0000{part}.snappy.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"sku": [part * 2, part * 2 + 1]}), path)
        written(folder / f"day={day}" / f".part-0000{part}.snappy.parquet.crc", "crc")
    written(folder / "_SUCCESS", "")
    written(folder / "_committed_1", "{}")
    source = Source(folder)
    assert source.columns == ["sku", "day"]
    assert source.read().to_pylist() == [{"sku": n, "day": f"2024-01-0{n // 2 + 1}"} for n in range(4)]
    assert source.place(3).endswith("day=2024-01-02/part-00001.snappy.parquet, row 2")
    assert [row["day"] for batch in source.batches(["day"]) for row in batch.to_pylist()] == ["2024-01-01"] * 2 + [
        "2024-01-02"
    ] * 2


def test_shards_of_text_with_columns_in_any_order(tmp_path):
    written(tmp_path / "log" / "part-00000.csv", "sku,user\n1,a\n")
    written(tmp_path / "log" / "part-00001.csv.gz", gzip.compress(b"user,extra,sku\nb,x,2\n"))
    written(tmp_path / "log" / "part-00002", '{"user": "c", "sku": 3}\n')
    written(tmp_path / "log" / "part-00003.csv", "")
    written(tmp_path / "log" / "_SUCCESS", "")
    source = Source(tmp_path / "log")
    found = [row for batch in source.batches(["user", "sku"]) for row in batch.to_pylist()]
    assert found == [{"user": "a", "sku": "1"}, {"user": "b", "sku": "2"}, {"user": "c", "sku": "3"}]
    assert source.read()["extra"].to_pylist() == [None, "x", None]
    both = Source([tmp_path / "log" / "part-00001.csv.gz", tmp_path / "log" / "part-00000.csv"])
    assert both.read()["sku"].to_pylist() == ["2", "1"]


def test_kinds_of_parquet_that_differ(tmp_path):
    for name, values in (("a", [1, 2]), ("b", ["x", "y"])):
        (tmp_path / "s").mkdir(exist_ok=True)
        pq.write_table(pa.table({"id": values}), tmp_path / "s" / f"{name}.parquet")
    with pytest.raises(DataError, match="a column has another type in another file"):
        Source(tmp_path / "s").read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a.csv is empty \(0 bytes\)"),
        ("a.csv", b"\n\n", "its first line is blank"),
        (
            "a.xlsx",
            b"PK\x03\x04" + bytes(30),
            "a zip archive or an Excel workbook: unpack it, or save the sheet as CSV",
        ),
        ("a.parquet", b"PAR1" + bytes(30), "a.parquet can't be read"),
        ("a.parquet", b"not parquet", "a.parquet is not a whole parquet file"),
        ("a.csv.gz", gzip.compress(b"a,b\n" * 10_000, mtime=0)[:-20], "a.csv.gz can't be read"),
        ("a.json", b"[1, 2", "a.json can't be read .no JSON array"),
        ("a.orc", b"ORC\n\x07\x12\x05\x08\xe8\x07P\x00\n\x16\n\x02\x00", "ORC: save it as parquet"),
        ("a.pkl", b"\x80\x04\x95abc", "a pickle, which is not read"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        Source(written(tmp_path / name, content)).read()


def test_missing_files_and_folders_without_any(tmp_path):
    with pytest.raises(DataError, match="nowhere is missing: give a file, or a folder of shards"):
        find_files(tmp_path / "nowhere")
    (tmp_path / "folder" / "_temporary").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no file with anything in it. The job that writes it has not finished"):
        find_files(tmp_path / "folder")


def test_a_long_description_in_the_first_rows(tmp_path):
    """Fields of 128 KiB and more, which the parser of the standard library refuses by default."""
    found = rows(written(tmp_path / "a.csv", 'a;b\n1;"' + "x\n" * 150_000 + '"\n2;y\n'))
    assert [len(row["b"]) for row in found] == [300_000, 1]


def test_columns_are_read_alone(tmp_path):
    table = CsvTable(find_files(written(tmp_path / "a.csv", "a,b,c\n1,2,3\n"))[0])
    assert [batch.to_pydict() for batch in table.batches(["c", "a"])] == [{"c": ["3"], "a": ["1"]}]
