"""Files of items to semantic IDs: those of a tokenizer's recipe, whatever the files, and after a killed run."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import write_tables
from tiger.cli.main import main
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training import index, item_chunks
from tiger.training.index import IndexArguments, index_items
from tiger.training.index_worker import IndexWorker
from tiger.training.tokenizer import TokenizerArguments, train_tokenizer
from tiger.utils.digests import check_digests
from tiger.utils.errors import DataError

WORDS = "soap rose tent lamp wool boat green small large paper".split()
SETTINGS = {"encoder": "lsa", "embedding_dim": 8, "num_codebooks": 2, "codebook_size": 8}


def write_items(folder, count: int = 300, shards: int = 3) -> list[str]:
    """Shards of a catalog, with several row groups each, and the same as one dataset."""
    random = np.random.default_rng(0)
    columns = {
        "item_id": [f"i{row}" for row in range(count)],
        "title": [" ".join(random.choice(WORDS, 4)) + f" {row % 50}" for row in range(count)],
    }
    events = [(f"u{user}", f"i{random.integers(count)}", time) for user in range(5) for time in range(4)]
    write_tables(folder / "dataset", columns, events)
    (folder / "items").mkdir()
    files = []
    for shard in range(shards):
        part = pa.table(columns).slice(shard * count // shards, count // shards)
        files.append(str(folder / "items" / f"{shard}.parquet"))
        pq.write_table(part, files[-1], row_group_size=30)
    return files


@pytest.fixture
def files(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(item_chunks, "CHUNK_ITEMS", 50)
    return write_items(tmp_path)


def test_the_semantic_ids_are_those_of_a_recipe(files, tmp_path, capsys):
    pytest.importorskip("datasets", reason="needs the extra: pip install 'tiger-recommender[train]'")
    known = train_tokenizer(
        TokenizerArguments(str(tmp_path / "dataset"), str(tmp_path / "known"), quantizer="residual-kmeans", **SETTINGS)
    )
    words = ["--embedding_dim", "8", "--num_codebooks", "2", "--codebook_size", "8", "--json"]
    main(["index", *files, "--out", str(tmp_path / "out"), *words])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"out": str(tmp_path / "out"), "items": 300, "fingerprint": known.fingerprint}
    found = SemanticIdTokenizer.from_pretrained(tmp_path / "out")
    assert found.item_ids == known.item_ids and check_digests(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_items"] == 300
    assert sorted(os.listdir(tmp_path)) == ["dataset", "items", "known", "out"]


def test_a_large_catalog_is_fitted_to_a_sample(files, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MAX_ROWS", 120)
    monkeypatch.setattr(index, "MAX_TEXTS", 100)
    tokenizer = index_items(IndexArguments(tuple(files), str(tmp_path / "out"), **SETTINGS))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (len(tokenizer), report["items"], report["num_items"]) == (300, 300, 120)
    assert report["encoder"] == "lsa-8"
    again = index_items(IndexArguments(tuple(files), str(tmp_path / "again"), **SETTINGS))
    assert again.fingerprint == tokenizer.fingerprint


def test_a_run_that_was_killed_goes_on(files, tmp_path, monkeypatch):
    whole = index_items(IndexArguments(tuple(files), str(tmp_path / "whole"), **SETTINGS))
    calls: list[str] = []

    def stopping(method):
        original = getattr(IndexWorker, method)

        def call(self, task):
            calls.append(method)
            if len(calls) == 8:
                raise KeyboardInterrupt
            return original(self, task)

        monkeypatch.setattr(IndexWorker, method, call)

    stopping("encode")
    stopping("quantize")
    args = IndexArguments(tuple(files), str(tmp_path / "out"), **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        index_items(args)
    work = tmp_path / ".out.parts"
    before = {file: file.stat().st_mtime_ns for file in (work / "vectors").iterdir()}
    assert len(before) == 6 and not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="holds an interrupted run of other items or settings"):
        index_items(IndexArguments(tuple(files[:2]), str(tmp_path / "out"), **SETTINGS))
    monkeypatch.setattr(index, "write_tokenizer", lambda *_: None)
    monkeypatch.setattr("tiger.utils.stores.DiskStore.remove", lambda self: None)
    assert index_items(args).fingerprint == whole.fingerprint
    assert {file: file.stat().st_mtime_ns for file in before} == before


def stop_at_call(monkeypatch, method: str, number: int) -> None:
    """Kill a run within the n-th call of a method of its workers."""
    original, calls = getattr(IndexWorker, method), []

    def call(self, task):
        calls.append(task)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(self, task)

    monkeypatch.setattr(IndexWorker, method, call)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_other_files_of_the_work_folder_stay(files, tmp_path, scheme):
    """Only a folder of its own name within that is a run's to remove."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("years")
    (work / "plan.json").write_text("{}")  # another program's
    args = IndexArguments(tuple(files), str(tmp_path / "out"), work=f"{scheme}{work}", **SETTINGS)
    assert len(index_items(args)) == 300
    assert sorted(os.listdir(work)) == ["plan.json", "thesis.txt"] and (work / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("name", ["thesis.txt", "vectors", "notes/thesis.txt"])
def test_a_folder_of_its_name_that_holds_other_files_is_refused(files, tmp_path, name):
    for folder, given in ((tmp_path / "work" / "tiger-index", "work"), (tmp_path / ".out.parts", None)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("years")
        args = IndexArguments(tuple(files), str(tmp_path / "out"), work=given and str(tmp_path / given), **SETTINGS)
        with pytest.raises(DataError, match=f"holds other files, which would be lost, '{name}' for one"):
            index_items(args)
        assert (folder / name).read_text() == "years" and not (tmp_path / "out").exists()


def test_what_a_killed_removal_leaves_is_no_obstacle(files, tmp_path):
    (tmp_path / ".out.parts" / "vectors").mkdir(parents=True)
    (tmp_path / ".out.parts" / "vectors" / "0.safetensors").write_bytes(b"damaged")
    assert len(index_items(IndexArguments(tuple(files), str(tmp_path / "out"), **SETTINGS))) == 300
    assert not (tmp_path / ".out.parts").exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_written_again_are_no_run_to_go_on_with(files, tmp_path, monkeypatch, scheme):
    """With as many rows in as many groups: their old vectors would stand under new ids."""
    args = IndexArguments(tuple(scheme + file for file in files), str(tmp_path / "out"), **SETTINGS)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at_call(patched, "encode", 4)
        index_items(args)
    table = pq.read_table(files[0])
    renamed = pa.array([f"new{row}" for row in range(len(table))])
    pq.write_table(table.set_column(0, "item_id", renamed), files[0], row_group_size=30)
    with pytest.raises(DataError, match="holds an interrupted run of other items or settings"):
        index_items(args)


def test_bad_files_are_named(files, tmp_path):
    def refused(names, message):
        with pytest.raises(DataError, match=message):
            index_items(IndexArguments(tuple(names), str(tmp_path / "out"), **SETTINGS))

    refused([], "no files")
    refused([str(tmp_path / "nothing.parquet")], "nothing.parquet can't be read")
    (tmp_path / "text.parquet").write_text("text")
    refused([str(tmp_path / "text.parquet")], "is not a whole parquet file")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    refused([str(tmp_path / "other.parquet")], "has no column 'item_id'")
    pq.write_table(pa.table({"item_id": ["a"], "name": ["x"]}), tmp_path / "other.parquet")
    refused([files[0], str(tmp_path / "other.parquet")], "differ in their columns")
    refused([files[0], files[0]], "i0")
    pq.write_table(pa.table({"item_id": ["a", None], "title": ["x", "y"]}), tmp_path / "other.parquet")
    refused([str(tmp_path / "other.parquet")], "other.parquet")


def test_ids_are_checked_before_the_work(files, tmp_path, monkeypatch):
    """By their column alone: texts of a large catalog are read once, by who encodes them."""
    monkeypatch.setattr(IndexWorker, "encode", lambda self, chunk: pytest.fail("work has started"))
    read, columns = item_chunks.ItemChunk.read, []
    monkeypatch.setattr(
        item_chunks.ItemChunk, "read", lambda self, *names: columns.append(read(self, *names)) or columns[-1]
    )
    with pytest.raises(DataError, match="item id 'i0' occurs more than once"):
        index_items(IndexArguments((files[0], files[0]), str(tmp_path / "out"), **SETTINGS))
    assert len(columns) == 4 and all(table.column_names == ["item_id"] for table in columns)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.parts").exists()


def test_sizes_are_checked_before_the_work(files, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_encoder", lambda *given: pytest.fail("the texts were read"))
    with pytest.raises(DataError, match="give num_codebooks=7 or less, or a smaller codebook_size"):
        index_items(
            IndexArguments(tuple(files), str(tmp_path / "out"), encoder="lsa", num_codebooks=8, codebook_size=200)
        )
