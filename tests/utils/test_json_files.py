"""Damaged and hostile JSON: one error that names the file, at once."""

import os

import pytest

from tiger.utils.errors import DataError
from tiger.utils.json_files import read_bytes, read_json


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"3", b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a": ' + b"[" * 10**6],
    ids=["empty", "cut", "no text", "list", "number", "NaN", "5,000 digits", "a million brackets"],
)
def test_what_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "tiger.json").write_bytes(content)
    with pytest.raises(DataError, match="tiger.json is damaged"):
        read_json(tmp_path / "tiger.json")


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 101)
    for name, reason in {"pipe": "not a regular file", "large": "more than 100", "none": "can't be read"}.items():
        with pytest.raises(DataError, match=reason):
            read_bytes(tmp_path / name, max_bytes=100)
    with pytest.raises(DataError, match="not a regular file"):
        read_bytes("/dev/zero")


def test_what_is_fine_is_read(tmp_path):
    (tmp_path / "list").write_text("[1, 2]")
    assert read_json(tmp_path / "list", list) == [1, 2]
