"""Folders of a disk and of URLs: whole files, and one writer for a name that is free."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tiger.utils.errors import DataError
from tiger.utils.stores import DiskStore, UrlStore, absolute, is_url, open_store, split_url, store_of


@pytest.fixture(params=["disk", "file", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "s3":
        return open_store(f"{request.getfixturevalue('bucket')}/some/folder")
    place = {"disk": "", "file": "file://", "memory": "memory://"}[request.param] + str(tmp_path / "some" / "folder")
    return open_store(place)


def test_files_come_and_go(store):
    assert (store.read("a"), store.size("b/c"), store.names()) == (None, None, [])
    store.write("a", b"one")
    store.write("a", b"other")
    store.write("b/c", b"")
    assert (store.read("a"), store.size("a"), store.size("b/c"), store.names()) == (b"other", 5, 0, ["a", "b/c"])
    assert store.names("b") == ["b/c"]
    with store.open("a") as opened:
        opened.seek(2)
        assert opened.read() == b"her"
    store.remove()
    assert store.read("a") is None and store.names() == []
    store.remove()
    with pytest.raises(DataError, match="a can't be read"):
        store.open("a").read()


def test_a_file_written_again_has_another_version(store):
    assert store.version("a") is None
    store.write("a", b"one")
    first = store.version("a")
    assert first and store.version("a") == first
    time.sleep(1.1 if store.place.startswith("s3") else 0.02)
    store.write("a", b"two")
    assert store.version("a") not in (None, first)


def test_what_is_there_is_not_created_again(store):
    assert store.create("x/1", b"first") and not store.create("x/1", b"second")
    assert store.read("x/1") == b"first"


def test_one_of_many_creates_it(tmp_path):
    store = DiskStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.create("1", str(number).encode()), range(40)))
    assert sum(won) == 1 and store.read("1") == str(won.index(True)).encode()
    assert os.listdir(tmp_path) == ["1"]


def test_a_file_of_this_machine_is_put(store, tmp_path):
    (tmp_path / "here").write_bytes(b"content")
    store.put("x/there", tmp_path / "here")
    assert store.read("x/there") == b"content"
    (tmp_path / "here").write_bytes(b"other")
    store.put("x/there", tmp_path / "here")
    assert store.read("x/there") == b"other" and store.names() == ["x/there"]


def test_a_file_is_put_on_a_disk_without_reading_all_of_it(tmp_path, monkeypatch):
    """It may be larger than the memory."""
    (tmp_path / "here").write_bytes(b"content")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read whole"))
        DiskStore(tmp_path / "folder").put("x/there", tmp_path / "here")
    assert (tmp_path / "folder" / "x" / "there").read_bytes() == b"content"
    assert os.listdir(tmp_path / "folder" / "x") == ["there"]


def test_places():
    assert is_url("s3://bucket/x") and not is_url("/disk/x") and not is_url("runs/x")
    assert split_url("s3://bucket/a/b.parquet") == ("s3://bucket/a", "b.parquet")
    assert split_url("b.parquet") == (".", "b.parquet")
    assert split_url("/b.parquet") == ("/", "b.parquet")
    assert split_url("/a/b.parquet") == ("/a", "b.parquet")
    store, name = store_of("/a/b.parquet")
    assert (type(store), store.place, name) == (DiskStore, "/a", "b.parquet")
    assert absolute("s3://bucket/a") == "s3://bucket/a" and absolute("a/b") == os.path.join(os.getcwd(), "a", "b")
    with pytest.raises(DataError, match="nowhere://x can't be reached"):
        UrlStore("nowhere://x")
