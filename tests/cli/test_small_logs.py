"""Logs of next to nothing: `tiger train` trains on them, or says in a line what to give."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.test_pipeline import SMALL
from tiger.cli.main import main
from tiger.utils.errors import DataError

SETTINGS = [f"{step}.{key}={value}" for step, settings in SMALL.items() for key, value in settings.items()]


def write(folder, users, events, items, texts=True):
    """A log whose users go around the items."""
    folder.mkdir()
    columns = {"item_id": [f"i{row}" for row in range(items)]}
    columns |= {"title": [f"thing number {row}" for row in range(items)]} if texts else {}
    pq.write_table(pa.table(columns), folder / "items.parquet")
    rows = [
        (f"u{user}", f"i{(user + step) % items}", 86_400 * step) for user in range(users) for step in range(events)
    ]
    names = ("user_id", "item_id", "timestamp")
    pq.write_table(pa.table(dict(zip(names, zip(*rows)))), folder / "interactions.parquet")
    return str(folder)


@pytest.mark.parametrize(
    "users, events, items, said",
    [
        (6, 2, 4, "no user has three events or more.* Give longer histories"),
        (6, 3, 4, "leaves nothing to train on.* Give a longer log"),
        (4, 5, 6, "has 4 users with three events or more.* Give 5 or more"),
        (6, 5, 2, "has 2 items.* Give 3 or more"),
    ],
)
def test_a_log_that_is_too_small_is_refused_with_the_remedy(tmp_path, capsys, users, events, items, said):
    data, out = write(tmp_path / "data", users, events, items), tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["train", data, "--out", str(out), "--set", *SETTINGS])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
    with pytest.raises(DataError, match=said):
        raise DataError(line)
    assert not (out / "tokenizer").exists()  # before the first step


@pytest.mark.parametrize("texts", [True, False])
def test_the_smallest_log_is_trained_on(tmp_path, texts):
    data, out = write(tmp_path / "data", 5, 5, 3, texts), tmp_path / "run"
    settings = [word for word in SETTINGS if not word.startswith(("two_stage.keep", "tokenizer"))]
    main(["train", data, "--out", str(out), "--set", *settings])
    found = json.loads((out / "test.json").read_text())
    assert found["users"] == 5 and set(found["models"]) >= {"popularity", "transition", "tiger-with-validation"}
    counted = ("hybrid" if texts else "transition") + "-with-validation"
    assert found["comparisons"][1]["baseline"] == counted
    assert found["exclude_history"] is False
    page = (out / "report.html").read_text()
    assert "<h2>Decisions</h2>" in page and "<td>second stage</td>" in page
