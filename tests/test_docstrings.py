import doctest
from importlib import import_module
from pathlib import Path

import pytest

import tiger

FOLDER = Path(tiger.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
MODULES = [
    ".".join(["tiger", *file.relative_to(FOLDER).with_suffix("").parts]) for file in FILES if ">>>" in file.read_text()
]


def test_all_packages_were_looked_through():
    assert len(FILES) > 80
    assert len(MODULES) == 8  # those that have examples: a move must lose none


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings_hold(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(module))
    assert found.attempted and not found.failed
