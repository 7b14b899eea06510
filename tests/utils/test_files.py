import os
import subprocess
import sys

import pytest

from tiger.utils import files
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
    assert (folder / "marker").stat().st_mode & 0o777 == files.FILE_MODE
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")
    link.symlink_to("v1")
    with replaced_folder(link, "marker", ours=lambda old: ["marker", "old part"]) as fresh:
        (fresh / "marker").write_text("2")
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["current", "v1"]
    assert sorted(os.listdir(folder)) == [".git", "marker"] and (folder / "marker").read_text() == "2"
    assert (folder / ".git" / "HEAD").read_text() == "main"


WRITING = """
import os, sys
from tiger.utils.files import replaced_folder, write_atomically
from tiger.utils.stores import DiskStore
os.chdir(sys.argv[1])
write_atomically("file", "a")
with replaced_folder("folder", "marker") as fresh:
    (fresh / "part").mkdir()
    write_atomically(fresh / "marker", "a")
DiskStore(".").create("created", b"a")
"""


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_files_have_the_rights_that_the_umask_leaves(tmp_path, umask):
    subprocess.run([sys.executable, "-c", WRITING, tmp_path], check=True, umask=umask)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    expected = {"file": file, "created": file, "folder": folder, "folder/part": folder, "folder/marker": file}
    assert {name: oct(mode) for name, mode in modes.items() if name in expected} == {
        name: oct(mode) for name, mode in expected.items()
    }


def test_the_umask_is_read_where_the_system_does_not_tell_it(monkeypatch):
    told = files._umask()
    monkeypatch.setattr(files.Path, "read_text", lambda path: "Name: python\n")
    assert files._umask() == files._umask() == told


def test_what_can_not_be_carried_over_leaves_the_old_folder(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "marker").write_text("1")
    (folder / "notes").write_text("mine")

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("shutil.copy2", refuse)
    with pytest.raises(OSError, match="No space left"):
        with replaced_folder(folder, "marker", ours=lambda old: ["marker"]) as fresh:
            (fresh / "marker").write_text("2")
    assert os.listdir(tmp_path) == ["model"]
    assert (folder / "marker").read_text() == "1" and (folder / "notes").read_text() == "mine"


def test_owners_files_are_in_the_new_folder_before_it_takes_the_name(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    (folder / ".git").mkdir(parents=True)
    (folder / "marker").write_text("1")
    (folder / ".git" / "HEAD").write_text("main")
    seen = []

    def killed(path, other):
        seen.append(sorted(os.listdir(other)))
        raise KeyboardInterrupt

    monkeypatch.setattr("tiger.utils.files._swapped", killed)
    with pytest.raises(KeyboardInterrupt):
        with replaced_folder(folder, "marker", ours=lambda old: ["marker"]) as fresh:
            (fresh / "marker").write_text("2")
    assert seen == [[".git", "marker"]] and (folder / ".git" / "HEAD").read_text() == "main"


def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path):
    folder = tmp_path / "model"
    for name in (".model.new.abc", ".model.old.abc", ".other.new.abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "big").write_text("x")
    (tmp_path / "model").mkdir()
    (folder / "marker").write_text("1")
    with replaced_folder(folder, "marker") as fresh:
        (fresh / "marker").write_text("2")
    assert sorted(os.listdir(tmp_path)) == [".other.new.abc", "model"]


def test_everything_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    """A power cut loses what was not synced: files, their folders, then the rename, then the folder it happened in."""
    events, swap, replace = [], files._swapped, os.replace
    monkeypatch.setattr(files, "sync", lambda path: events.append(("sync", os.path.basename(path))))
    monkeypatch.setattr(files, "_swapped", lambda path, other: events.append(("swap", "")) or swap(path, other))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append(("rename", os.path.basename(b))) or replace(a, b))
    for content in ("1", "2"):
        with replaced_folder(tmp_path / "model", "marker") as fresh:
            (fresh / "marker").write_text(content)
            (fresh / "part").mkdir()
            (fresh / "part" / "inner").write_text(content)
        synced = [name for kind, name in events if kind == "sync"]
        cut = next(place for place, (kind, _) in enumerate(events) if kind in ("swap", "rename"))
        assert {"marker", "part", "inner"} <= {name for _, name in events[:cut]} and len(synced) >= 5
        assert events[-1] == ("sync", tmp_path.name)
        events.clear()
    files.write_atomically(tmp_path / "file", "text")
    assert [kind for kind, _ in events] == ["sync", "rename", "sync"] and events[1][1] == "file"


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
