"""Bad input on the command line: one line and exit code 2, or what was meant; never a traceback."""

import io
import json
import os
import resource
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.test_main import folder, tiger  # noqa: F401
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.cli.main import main
from tiger.recommender.recommender import TigerRecommender


def one_line(shown) -> str:
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and not shown.out, shown.err
    return shown.err


def test_csv_is_text_and_left_out_columns_are_named(tiger, folder, tmp_path):  # noqa: F811
    (tmp_path / "a.csv").write_text("\ufeffitem_id, title, colour\n007, tent rope,red\n1e5,1e5 map,\n23:59,23:59,\n")
    shown = tiger("items", "add", folder, tmp_path / "a.csv", "--json")
    assert json.loads(shown.out)["added"] == 3
    assert shown.err == "warning: columns that the item table lacks, left out: 'colour' (it has item_id, title)\n"
    saved = TigerRecommender.from_pretrained(folder)
    assert saved.titles(["007", "1e5", "23:59"]) == ["tent rope", "1e5 map", "23:59"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"item_id": "x", "title": ' + "1" * 5000 + "}", "line 1 is JSON that can't be read"),
        ("b.jsonl", "[" * 100_000, "nested too deeply"),
        ("c.jsonl", '{"item_id": "x", "title": {"a": 1}}', "'title' does not fit"),
        ("d.csv", "item_id,title, title\nx,a,b\n", "has the column 'title' twice"),
        ("e.csv", "item_id,title\nx\n", "line 2: 1 values for 2 columns"),
    ],
)
def test_files_of_items(tiger, folder, tmp_path, name, content, message):  # noqa: F811
    (tmp_path / name).write_text(content)
    assert message in one_line(tiger("items", "add", folder, tmp_path / name, code=2))


@pytest.mark.parametrize(
    "value",
    [
        pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())),
        pa.array([{"a": 1}]),
        pa.array([["a"]]),
        pa.array([b"\xff"]),
    ],
    ids=["map", "struct", "list", "binary"],
)
@pytest.mark.parametrize("name", ["title", "item_id"])
def test_columns_of_types_that_make_no_text(tiger, folder, tmp_path, name, value):  # noqa: F811
    columns = {"item_id": pa.array(["x"]), "title": pa.array(["tent"])}
    columns[name] = value
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    assert f"column {name!r}" in one_line(tiger("items", "add", folder, tmp_path / "items.parquet", code=2))


def test_standard_input(tiger, folder, monkeypatch):  # noqa: F811
    expected = tiger("recommend", folder, "--history", "i1", "i2", "-k", 3).out
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffi1\ni2\n"))
    shown = tiger("recommend", folder, "--history", "-", "-k", 3)
    assert shown.out == expected and not shown.err
    monkeypatch.setattr(sys, "stdin", io.StringIO('\ufeff["i1", "i2"]\n'))
    shown = tiger("recommend", folder, "--histories", "-", "-k", 3)
    assert [row["item_id"] for row in json.loads(shown.out)["items"]] == [
        line.split()[1] for line in expected.splitlines()
    ]
    for line in ('{"history": ["i1"], "n": ' + "1" * 5000 + "}", "[" * 100_000):
        monkeypatch.setattr(sys, "stdin", io.StringIO(line + "\n"))
        assert "standard input, line 1" in one_line(tiger("recommend", folder, "--histories", "-", code=2))
    for option in ("--history", "--histories"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"i1\xff\n"), encoding="utf-8"))
        assert "standard input is not UTF-8" in one_line(tiger("recommend", folder, option, "-", code=2))


@pytest.mark.parametrize(
    "wrong",
    [
        ("-k", -1),
        ("-k", 10**9),
        ("--num_beams", 0),
        ("--temperature", -1),
        ("--temperature", "inf"),
        ("--temperature", "nan"),
        ("--seed", -1),
        ("--seed", 2**70),
        ("--unseen_share", "nan"),
        ("--part_events", 0),
    ],
)
def test_numbers_out_of_range(tiger, folder, wrong):  # noqa: F811
    assert f"error: {wrong[0]} must be" in one_line(tiger("recommend", folder, "--history", "i1", *wrong, code=2))


def test_opposite_options_are_refused_before_anything_is_read(tiger, folder):  # noqa: F811
    both = ("--keep_history", "--remove_history")
    assert "are opposites: give one." in one_line(tiger("evaluate", folder, "nowhere", *both, code=2))


def test_mistyped_directories(tiger, folder):  # noqa: F811
    wrong = folder.parent / "rum"
    for command in (("recommend", wrong), ("items", "remove", wrong, "i1"), ("evaluate", wrong, "data")):
        assert f"{wrong} is not a directory (is {folder} meant?)" in one_line(tiger(*command, code=2))
    assert f"(is {folder} meant?)" in one_line(tiger("recommend", folder.parent, code=2))
    assert f"{wrong} is neither a directory (is {folder} meant?)" in one_line(tiger("evaluate", folder, wrong, code=2))
    assert "there is no device 'nonsense'" in one_line(tiger("serve", folder, "--device", "nonsense", code=2))


def test_a_disk_that_takes_no_more(tiger, folder, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "a.csv").write_text("item_id,title\n007,tent\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        shown = tiger("items", "add", folder, tmp_path / "a.csv", code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"error: {folder} is not written: File too large, " in one_line(shown)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules[main.__module__], "sys", SimpleNamespace(stdout=SimpleNamespace(flush=full)))
    assert tiger("recommend", folder, "-k", 1, code=2).err == (
        "error: the output is not written: No space left on device. Free some space, or write elsewhere.\n"
    )
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "run"]
