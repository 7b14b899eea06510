"""The command line: pipes, exit codes, JSON; one-line errors that leave the directory as it was."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tests.conftest import make_model
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.cli.main import main
from tiger.data.dataset import RecommendationData
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.evaluation.metrics import next_item_metrics
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(fitted, tmp_path):  # noqa: F811
    tokenizer, encoder, items = fitted
    TigerRecommender(make_model(tokenizer), tokenizer, encoder, items, max_history=5).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def tiger(folder, capsys):
    """Run ``tiger`` in this process: its output, what it says beside, its exit code."""

    def run(*arguments, code=0):
        exit_code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            exit_code = stop.code
        captured = capsys.readouterr()
        assert exit_code == code, captured.err
        return captured

    return run


def test_help_is_a_table_of_contents(tiger):
    shown = tiger("--help").out
    places = [shown.index(f"\n    {verb} ") for verb in ("recommend", "rank", "items", "evaluate")]
    assert places == sorted(places)
    for verbs in (["recommend"], ["rank"], ["items"], ["items", "add"], ["items", "report"], ["evaluate"]):
        assert "usage: tiger" in tiger(*verbs, "--help").out
    assert "invalid choice" in tiger("recomend", code=2).err


def test_histories_from_pipes(tiger, folder, monkeypatch):
    expected = json.loads(tiger("recommend", folder, "--history", "i1", "i2", "-k", 3, "--json").out)
    monkeypatch.setattr(sys, "stdin", io.StringIO("i1\ni2\n"))
    assert json.loads(tiger("recommend", folder, "--history", "-", "-k", 3, "--json").out) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("i1 i2\n"))  # one id, with a blank
    assert "'i1 i2'" in tiger("recommend", folder, "--history", "-", "-k", 3).err
    lines = ['["i1", "i2"]', "", '{"user": 5, "history": ["i1", "nobody", "i2"]}', "[]"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    shown = tiger("recommend", folder, "--histories", "-", "-k", 3, "--batch_users", 2)
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert len(rows) == 3 and "'nobody'" in shown.err and rows[1]["user"] == 5
    for row in rows[:2]:
        assert [item["item_id"] for item in row["items"]] == [item["item_id"] for item in expected]
    for line in ("{", '{"user": 5}', "[1]", '"i1"'):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f'["i1"]\n{line}\n'))
        shown = tiger("recommend", folder, "--histories", "-", "--batch_users", 1, code=2)
        assert "standard input, line 2" in shown.err and len(shown.out.splitlines()) == 1


def test_a_log_to_a_file(tiger, folder, tmp_path):
    log = pa.table({"user_id": ["a", "b", "a"], "item_id": ["i2", "i3", "i1"], "timestamp": [5, 1, 3]})
    pq.write_table(log, tmp_path / "log.parquet")
    out = tmp_path / "out.parquet"
    options = ("recommend", folder, "--histories", tmp_path / "log.parquet", "--no_bf16", "-k", 4)
    assert "for 2 users" in tiger(*options, "--out", out).out
    found = [row["item_id"] for row in pq.read_table(out).to_pylist() if row["user_id"] == "a"]
    expected = json.loads(tiger("recommend", folder, "--history", "i1", "i2", "-k", 4, "--json").out)
    assert found == [row["item_id"] for row in expected]
    assert json.loads(tiger(*options, "--out", out, "--json").out)["users"] == 2
    # The same as text, by the suffix.
    rows = pq.read_table(out).to_pylist()
    assert "for 2 users" in tiger(*options, "--out", tmp_path / "out.jsonl").out
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    tiger(*options, "--out", tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as lines:
        read = list(csv.DictReader(lines))
    assert [(row["user_id"], int(row["rank"]), row["item_id"]) for row in read] == [
        (row["user_id"], row["rank"], row["item_id"]) for row in rows
    ]
    assert [float(row["score"]) for row in read] == pytest.approx([row["score"] for row in rows])
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == [
        *("out.csv", "out.jsonl", "out.parquet")
    ]
    assert "out.csv is there already" in tiger(*options, "--out", tmp_path / "out.csv", code=2).err
    assert "ends with .parquet, .csv, .jsonl" in tiger(*options, "--out", tmp_path / "out.tsv", code=2).err
    assert "--histories FILE needs it" in tiger(*options, code=2).err
    assert "not allowed with" in tiger(*options, "--history", "i1", code=2).err
    assert "there already" in tiger(*options, "-k", 5, "--out", out, code=2).err
    for wrong in (("-k", 0), ("--unseen_share", 2), ("--temperature", 0), ("--batch_users", 0)):
        assert tiger("recommend", folder, *wrong, code=2).err.startswith("error: ")


def test_only_what_a_filter_allows(tiger, folder, tmp_path, monkeypatch):
    given = ("--filter", "item_id in ('i3', 'i4', 'i5') and not title is null", "-k", 5)
    rows = json.loads(tiger("recommend", folder, "--history", "i3", "i9", "--json", *given).out)
    assert sorted(row["item_id"] for row in rows) == ["i4", "i5"]
    monkeypatch.setattr(sys, "stdin", io.StringIO('["i3"]\n[]\n'))
    found = [json.loads(line) for line in tiger("recommend", folder, "--histories", "-", *given).out.splitlines()]
    assert [sorted(item["item_id"] for item in row["items"]) for row in found] == [["i4", "i5"], ["i3", "i4", "i5"]]
    pq.write_table(
        pa.table({"user_id": ["a", "b"], "item_id": ["i3", "i1"], "timestamp": [1, 2]}), tmp_path / "log.parquet"
    )
    log = ("recommend", folder, "--histories", tmp_path / "log.parquet", "--out", tmp_path / "out.parquet")
    tiger(*log, *given)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert sorted(row["item_id"] for row in rows if row["user_id"] == "a") == ["i4", "i5"] and len(rows) == 5
    tiger(*log, "--filter", "item_id = 'i5' or item_id = 'i4' or item_id = 'i3'", "-k", 5)  # the same items: done
    assert "there already" in tiger(*log, "-k", 5, code=2).err
    assert "there already" in tiger(*log, *given[:1], "item_id = 'i5'", "-k", 5, code=2).err
    shown = tiger("recommend", folder, "--history", "i3", "--filter", "titel = 'x'", code=2)
    assert shown.err.splitlines() == [
        "error: filter: there is no column 'titel' (is 'title' meant?). There are item_id, title; text needs quotes."
    ]
    shown = tiger("recommend", folder, "--history", "i3", "--filter", "title = 'x'", "--json")
    assert json.loads(shown.out) == [] and len(shown.err.splitlines()) == 1 and "allows no item" in shown.err


def test_items_are_added_updated_reported_and_removed(tiger, folder, tmp_path):
    rows = [{"item_id": f"new-{n}", "title": f"tent tent rope {n}"} for n in range(3)] + [{"item_id": "i1"}]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = json.loads(tiger("items", "add", folder, tmp_path / "new.jsonl", "--json").out)
    assert (
        counts["added"] == 3 and counts["known_already"] == 1 and counts["items"] == 43 and counts["collisions"] >= 2
    )
    shown = tiger("items", "add", folder, tmp_path / "new.jsonl").out
    assert "0 added, 4 known already" in shown
    saved = TigerRecommender.from_pretrained(folder)
    assert saved.titles(["new-2"]) == ["tent tent rope 2"] and saved.unseen.sum() == 3
    answer = json.loads(tiger("recommend", folder, "-k", 4, "--unseen_share", 0.5, "--json").out)
    assert sum(row["item_id"].startswith("new") for row in answer) == 2

    report = json.loads(tiger("items", "report", folder, tmp_path / "new.jsonl", "--json").out)
    assert report["new"]["num_items"] == 3 and report["old"]["num_items"] == 40
    assert json.loads(tiger("items", "report", folder, "--json").out) == report
    assert "badly fitted" in tiger("items", "report", folder).out

    (tmp_path / "update.csv").write_text("item_id,title\nnew-0,stove stove stove stove\ni3,another\n")
    counts = json.loads(tiger("items", "update", folder, tmp_path / "update.csv", "--json").out)
    assert counts["updated"] == 2 and 1 <= counts["new_semantic_ids"] <= 2
    assert TigerRecommender.from_pretrained(folder).titles(["i3"]) == ["another"]
    assert "2 removed; 41 items now" in tiger("items", "remove", folder, "new-0", "i3").out
    assert "lacks: 'i3'" in tiger("items", "remove", folder, "i4", "i3", code=2).err
    assert len(TigerRecommender.from_pretrained(folder).tokenizer) == 41


def test_two_that_add_items_at_once_lose_none(folder, tmp_path):
    for part in range(2):
        rows = [{"item_id": f"half-{part}-{n}", "title": f"tent rope {n}"} for n in range(5)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "tiger.cli", "items", "add", str(folder)]
    adding = [subprocess.Popen([*command, str(tmp_path / f"{part}.jsonl")]) for part in range(2)]
    assert [process.wait(120) for process in adding] == [0, 0]
    assert len(TigerRecommender.from_pretrained(folder).tokenizer) == 50


def test_vectors_in_place_of_the_encoder(tiger, folder, tmp_path):
    saved = TigerRecommender.from_pretrained(folder)
    old = saved.encoder.encode(saved.items["title"].to_pylist())
    save_file({"embeddings": old[:2] * 1.01}, tmp_path / "new.safetensors")
    save_file({"embeddings": old}, tmp_path / "old.safetensors")
    saved.encoder = SentenceEncoder("nowhere")
    saved.save_pretrained(folder)
    pq.write_table(pa.table({"item_id": ["x", "y"], "title": ["X", "Y"]}), tmp_path / "new.parquet")
    given = (tmp_path / "new.parquet", "--embeddings", tmp_path / "new.safetensors")
    report = json.loads(
        tiger("items", "report", folder, *given, "--old_embeddings", tmp_path / "old.safetensors", "--json").out
    )
    assert not report["refit"] and report["new"]["num_items"] == 2
    tiger("items", "add", folder, *given)
    tokenizer = SemanticIdTokenizer.from_pretrained(folder)
    assert np.array_equal(tokenizer.codes[-2:], tokenizer.codes[:2])
    save_file({"embeddings": old[:1]}, tmp_path / "new.safetensors")
    assert "has 1 rows but there are 2 items" in tiger("items", "update", folder, *given, code=2).err


def test_bad_items_leave_the_directory_as_it_was(tiger, folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    bad = {
        "a.jsonl": '{"item_id": "x", "title": ""}',
        "b.jsonl": json.dumps({"item_id": "x", "title": "long " * 10**6}),
        "c.jsonl": '{"item_id": "x", "title": "a"}\n{"item_id": "x", "title": "b"}',
        "d.csv": "id,title\nx,tent",
        "e.parquet": "PAR1 but no more",
    }
    for name, content in bad.items():
        (tmp_path / name).write_text(content)
        shown = tiger("items", "add", folder, tmp_path / name, code=2)
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and not shown.out
    assert "is not a directory" in tiger("items", "remove", tmp_path / "nowhere", "i1", code=2).err
    (tmp_path / "f.jsonl").write_text('{"item_id": "x", "title": "tent"}\n{"item_id": "i1", "title": "tent"}')
    assert "lacks: 'x'" in tiger("items", "update", folder, tmp_path / "f.jsonl", code=2).err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_evaluate_is_what_the_library_measures(tiger, folder, tmp_path):
    random = np.random.default_rng(0)
    saved = TigerRecommender.from_pretrained(folder)
    rows = [(f"u{user}", f"i{random.integers(40)}", time) for user in range(50) for time in range(6)]
    log = pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows)))))
    (tmp_path / "data").mkdir()
    pq.write_table(log, tmp_path / "data" / "interactions.parquet")
    pq.write_table(saved.items.take(np.arange(40)[::-1]), tmp_path / "data" / "items.parquet")  # in another order
    split = RecommendationData.load(tmp_path / "data").leave_one_out()
    histories = [[f"i{39 - row}" for row in history] for history in split.test_histories]
    answers, _ = saved.recommend(histories, num_beams=40)
    ranked = np.array([[int(item[1:]) for item in answer] for answer in answers])
    expected = next_item_metrics(ranked, 39 - split.test_targets)
    options = ("evaluate", folder, tmp_path / "data", "--num_beams", 40, "--no_bf16")
    (tmp_path / "new.jsonl").write_text('{"item_id": "far", "title": "stove map"}')
    found = json.loads(tiger(*options, "--json").out)
    assert found == {"users": 50} | {name: pytest.approx(value) for name, value in expected.items()}
    assert found["recall@10"] > 0.1
    tiger("items", "add", folder, tmp_path / "new.jsonl")
    assert json.loads(tiger(*options, "--users", 7, "--json").out)["users"] == 7
    assert f"recall@10  {json.loads(tiger(*options, '--json').out)['recall@10']:.4f}" in tiger(*options).out
    tiger("items", "remove", folder, "i5")
    assert "lacks 1 items" in tiger(*options, code=2).err


def test_ctrl_c(tiger, folder, monkeypatch):
    def lines():
        yield '["i1"]\n'
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", lines())
    shown = tiger("recommend", folder, "--histories", "-", "--batch_users", 1, code=130)
    assert len(shown.out.splitlines()) == 1 and shown.err == "interrupted\n"


def test_output_that_nobody_reads(folder):
    """`tiger ... | true` says nothing and leaves with 141, though the answer fits into Python's buffer."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tiger.cli", "recommend", str(folder), "-k", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""
