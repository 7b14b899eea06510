import os

import pytest

from tiger.files import replaced_folder, write_atomically


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
    with replaced_folder(folder) as fresh:
        (fresh / "a").write_text("1")
    with pytest.raises(KeyboardInterrupt):
        with replaced_folder(folder) as fresh:
            (fresh / "b").write_text("half")
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["model"] and os.listdir(folder) == ["a"]
    with replaced_folder(folder) as fresh:
        (fresh / "b").write_text("2")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(folder) == ["b"]
