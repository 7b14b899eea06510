import doctest
from importlib import import_module
from pathlib import Path

import pytest

import tiger

MODULES = sorted(path.stem for path in Path(tiger.__file__).parent.glob("*.py") if ">>>" in path.read_text())


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings_hold(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(f"tiger.{module}"))
    assert found.attempted and not found.failed
