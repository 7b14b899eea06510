"""Classes of one's own by module and class in a setting, and in what was saved with them."""

import sys

import pytest

from tests.processes import run_python
from tiger.quantizers.auto import QUANTIZERS, quantizer_class
from tiger.utils.errors import DataError

MODULE = """
from pathlib import Path
from tiger import register_quantizer


class Shelves:
    kind = "shelves"

    def save_pretrained(self, directory):
        Path(directory, "shelves.json").write_text("{}")

    @classmethod
    def from_pretrained(cls, directory):
        return cls()
"""
LOAD = "from tiger.quantizers.auto import load_quantizer; print(type(load_quantizer('saved')).__name__)"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "shop_shelves.py").write_text(MODULE)
    (tmp_path / "shop_registered.py").write_text(MODULE.replace("class Shelves", "@register_quantizer\nclass Shelves"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    QUANTIZERS._registered.pop("shelves", None)
    for name in ("shop_shelves", "shop_registered"):
        sys.modules.pop(name, None)


def test_a_setting_names_module_and_class(folder):
    found = quantizer_class("shop_shelves.Shelves")
    assert found.kind == "shelves" and quantizer_class("shelves") is found is quantizer_class("shop_shelves.Shelves")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("shop_shelf.Shelves", "No module named 'shop_shelf'. Put the folder that holds it into PYTHONPATH."),
        (".Shelves", "Empty module name. Put the folder that holds it into PYTHONPATH."),
        ("shop_shelves.Shelf", "shop_shelves has no class Shelf with a name in 'kind'."),
        ("shop_shelves.Path", "shop_shelves has no class Path with a name in 'kind'."),
        ("shelves", "register it first, or give module.Class."),
    ],
)
def test_names_that_lead_nowhere(folder, name, told):
    with pytest.raises(DataError) as caught:
        quantizer_class(name)
    assert told in str(caught.value)


def test_what_was_saved_with_it_loads_where_its_module_is_named(folder):
    from tiger.quantizers.auto import save_quantizer

    save_quantizer(quantizer_class("shop_shelves.Shelves")(), folder / "saved")

    def loaded(**variables):
        (folder / "load.py").write_text(f"import os\nos.environ |= {variables}\n{LOAD}")
        done = run_python("load.py", cwd=folder)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    # A file names no module: nothing is imported that the user has not named.
    assert "unknown kind 'shelves'. Import the module that registers it, name it in $TIGER_MODULES" in loaded()
    assert loaded(TIGER_MODULES="shop_registered") == "Shelves"
    assert "No module named 'nowhere'" in loaded(TIGER_MODULES="nowhere")
