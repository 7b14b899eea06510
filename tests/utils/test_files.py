import os
import sys

import pytest

from tiger.utils.files import replaced_folder, write_atomically, written_together


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    write_atomically(path, b"new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with replaced_folder(folder, "marker") as fresh:
        (fresh / "marker").write_text("1")
    with pytest.raises(KeyboardInterrupt):
        with replaced_folder(folder, "marker") as fresh:
            (fresh / "b").write_text("half")
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["model"] and os.listdir(folder) == ["marker"]
    with replaced_folder(folder, "marker") as fresh:
        (fresh / "marker").write_text("2")
    assert os.listdir(tmp_path) == ["model"] and (folder / "marker").read_text() == "2"


def test_what_is_not_ours_stays(tmp_path):
    folder, link = tmp_path / "v1", tmp_path / "current"
    with replaced_folder(folder, "marker") as fresh:
        (fresh / "marker").write_text("1")
        (fresh / "old part").write_text("goes")
        os.chmod(fresh / "marker", 0o600)
    assert (folder / "marker").stat().st_mode & 0o777 == 0o644
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")
    link.symlink_to("v1")
    with replaced_folder(link, "marker", ours=lambda old: ["marker", "old part"]) as fresh:
        (fresh / "marker").write_text("2")
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["current", "v1"]
    assert sorted(os.listdir(folder)) == [".git", "marker"] and (folder / "marker").read_text() == "2"
    assert (folder / ".git" / "HEAD").read_text() == "main"


def test_what_can_not_be_carried_over_is_kept(tmp_path, monkeypatch):
    folder, replace = tmp_path / "model", os.replace
    folder.mkdir()
    (folder / "marker").write_text("1")
    (folder / "notes").write_text("mine")

    def refuse(source, target):
        if os.path.basename(source) == "notes":
            raise OSError(16, "Device or resource busy")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="files of yours are left in") as caught:
        with replaced_folder(folder, "marker", ours=lambda old: ["marker"]) as fresh:
            (fresh / "marker").write_text("2")
    (kept,) = [path for path in tmp_path.iterdir() if path.name.endswith(".kept")]
    assert str(kept) in str(caught.value) and (kept / "notes").read_text() == "mine"
    assert (folder / "marker").read_text() == "2"


def test_files_appear_together_or_not_at_all(tmp_path):
    (tmp_path / "other").write_text("stays")
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with written_together(tmp_path, ("a", "b")) as scratch:
            (scratch / "a").write_text("new")
            raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old" and sorted(os.listdir(tmp_path)) == ["a", "other"]
    with written_together(tmp_path, ("a", "b")) as scratch:
        for name in ("a", "b", "scrap"):
            (scratch / name).write_text("new")
    assert (tmp_path / "a").read_text() == "new" and sorted(os.listdir(tmp_path)) == ["a", "b", "other"]


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with replaced_folder(folder, "marker") as fresh:
        (fresh / "marker").write_text("old")
    moves = []

    def fail_the_second(source, target, move=os.replace):
        moves.append(target)
        if len(moves) == 2:
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(
            "tiger.utils.files._swapped", lambda path, other: False
        )  # a system that can't do it in one step
        patched.setattr(os, "replace", fail_the_second)
        with replaced_folder(folder, "marker") as fresh:
            (fresh / "marker").write_text("new")
    assert (folder / "marker").read_text() == "old" and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems swap folders in two steps")
def test_a_folder_is_swapped_in_one_step(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    for content in "12":
        with replaced_folder(folder, "marker") as fresh:
            (fresh / "marker").write_text(content)
            if content == "2":
                monkeypatch.setattr(os, "replace", None)  # not wanted: each of two steps might be the last
    assert (folder / "marker").read_text() == "2" and os.listdir(tmp_path) == ["model"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="would be lost"):
        with replaced_folder(tmp_path, "marker"):
            pass
    assert (tmp_path / "thesis.txt").exists()
