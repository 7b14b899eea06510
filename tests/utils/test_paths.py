"""Names of directories: which can be the Hub's, and which was meant."""

from pathlib import Path

import pytest

from tiger.utils.paths import is_repo_id, nearest, nearest_hint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("runs/demo.v1", True),
        ("name", False),
        ("a/b/c", False),
        ("./a", False),
        ("../a", False),
        ("/a", False),
        ("~/a", False),
        ("a/", False),
        ("a\\b", False),
        ("a b/c", False),
        (Path("owner/name"), False),
    ],
)
def test_only_owner_and_name_can_be_on_the_hub(name, expected):
    assert is_repo_id(name) is expected


def test_the_nearest_name_that_there_is(tmp_path, monkeypatch):
    for name in ("demo", "other"):
        (tmp_path / "runs" / name / "model").mkdir(parents=True)
    (tmp_path / "runs" / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert nearest("runs/dmo/model") == Path("runs/demo/model") == nearest("rums/Demo/modle")
    assert nearest(tmp_path / "runs" / "othr") == tmp_path / "runs" / "other"
    assert nearest("runs/demo") == Path("runs/demo")
    assert nearest("runs/xyzzy") is None and nearest("runs/file/deeper") is None and nearest("/no/where") is None
    assert nearest_hint("runs/dmo") == " (is runs/demo meant?)"
    assert nearest_hint("runs/demo") == nearest_hint("runs/xyzzy") == nearest_hint("") == ""
