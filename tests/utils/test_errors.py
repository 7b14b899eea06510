"""What others' errors say, in one line."""

import pytest

from tiger.data.importing.files import TableFile
from tiger.utils.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("\nno route\nto the host"), "no route"),
        (EOFError(), "EOFError"),
        ("cut short\nat byte 7", "cut short"),
    ],
)
def test_the_first_line_that_says_something(tmp_path, error, line):
    assert first_line(error) == line
    told = str(TableFile(tmp_path / "a.csv", "csv").error(error))
    assert told == f"{tmp_path / 'a.csv'} can't be read ({line}): write it or download it again."
