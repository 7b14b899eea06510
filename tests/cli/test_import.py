"""``tiger import``: the transcript of the page, exit codes, JSON, columns by option."""

import io
import json
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tiger.cli.main import main
from tiger.data.dataset import RecommendationData

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
ITEMS = "sku,name,cost\n1,Tent,$3\n2,Lamp,$4\n"
CLICKS = "visitor,sku,ts\nu,1,2024-01-01\nu,2,2024-01-02\n"


def run(*arguments: object) -> tuple[int, str]:
    """Exit code, and all that is printed, in its order."""
    printed, code = io.StringIO(), 0
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
    return code, printed.getvalue()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("items.csv").write_text(ITEMS)
    Path("clicks.csv").write_text(CLICKS)
    return tmp_path


def steps(page: str) -> list[tuple[str, str]]:
    """Commands of the page's transcript and what follows each."""
    (block,) = re.findall(r"^```console\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    return [tuple(part.split("\n", 1)) for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


def test_the_transcript_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = []
    for command, expected in steps(PAGE.read_text()):
        verb, *arguments = shlex.split(command)
        if verb == "cat":
            Path(arguments[0]).write_text(expected)
            continue
        code, printed = run(*arguments)
        codes.append(code)
        assert printed == expected
    assert codes == [2, 0]
    data = RecommendationData.load("datasets/mine")
    assert data.item_ids == ["007", "1e5", "A3"] and [row.tolist() for row in data.sequences] == [[0, 1, 2], [2]]


def test_json_and_the_next_command(files):
    Path("clicks.csv").write_text(CLICKS + "u,1,2024-01-03\n")
    code, printed = run("import", "items.csv", "clicks.csv", "--out", "datasets/shop/")
    assert code == 0 and printed.endswith("next: tiger train datasets/shop/ --out runs/shop\n")
    code, printed = run("import", "items.csv", "clicks.csv", "--out", "datasets/shop", "--json")
    report = json.loads(printed.splitlines()[-1])
    assert (report["users"], report["items"], report["events"], round(report["repeats"], 3)) == (1, 2, 3, 0.333)
    assert report["item_columns"][1] == {"source": "name", "target": "title", "kind": "text", "how": ""}


def test_problems_are_a_block_of_lines_and_leave_nothing(files):
    Path("clicks.csv").write_text(CLICKS + ",1,2024-01-03\nu,9,2024-01-03\n")
    code, printed = run("import", "items.csv", "clicks.csv", "--out", "out")
    assert code == 2
    assert printed[printed.index("error:") :] == (
        "error: nothing was written.\n"
        "  1 events without a user: clicks.csv, row 3\n"
        "  1 events of items that the item table lacks: clicks.csv, row 4 ('9')\n"
        "Mend the files, or run it again with --drop-unknown, which leaves these rows out.\n"
    )
    assert sorted(path.name for path in files.iterdir()) == ["clicks.csv", "items.csv"]
    assert run("import", "items.csv", "clicks.csv", "--out", "out", "--drop-unknown")[0] == 0


def test_files_that_can_not_be_read_are_one_line(files):
    for arguments in (("nothing.csv", "clicks.csv"), ("items.csv", "nothing.csv")):
        code, printed = run("import", *arguments, "--out", "out")
        assert code == 2 and printed == "error: nothing.csv is missing: give a file, or a folder of shards.\n"
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    code, printed = run("import", "items.csv", "clicks.csv", "--out", "out")
    assert code == 2 and printed == "error: out holds mine.txt, which no import wrote: give a folder of its own\n"


def test_columns_by_option(files):
    Path("items.csv").write_text("a,b,c,d,e\n1,x,Tent,3,s\n2,y,Lamp,4,s\n")
    Path("clicks.csv").write_text("k,l,m,n\n1,u,01/02/2024,5\n2,u,02/02/2024,4\n")
    named = "--item-id a --event_item_id k --title b --price d --user-id l --time m --rating n --brand c --leave-out e"
    options = [*named.split(), "--time-format", "%d/%m/%Y"]
    assert run("import", "items.csv", "clicks.csv", "--out", "out", *options)[0] == 0
    assert pq.read_table("out/items.parquet").to_pylist()[0] == {
        "item_id": "1",
        "title": "x",
        "brand": "Tent",
        "price": 3.0,
    }
    assert pq.read_table("out/interactions.parquet").to_pylist()[0] == {
        "user_id": "u",
        "item_id": "1",
        "timestamp": 1_706_745_600,
        "rating": 5.0,
    }
    code, printed = run("import", "items.csv", "clicks.csv", "--out", "new", "--title", "zz", "--user-id", "yy")
    assert code == 2 and "no column 'zz' to read as title: items have a, b, c, d, e." in printed
    assert "no column 'yy' to read as user_id: events have k, l, m, n." in printed


def test_a_log_that_is_too_short_to_train_on_is_not_sent_to_training(files):
    code, printed = run("import", "items.csv", "clicks.csv", "--out", "out")
    assert code == 0 and " 1 user," in printed and "no user has 3 events" in printed
    assert "next: tiger train" not in printed and "needs users with 3 events or more" in printed
