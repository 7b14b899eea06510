"""Scripts of recipes are imported by their bare names, which scripts of other folders may have too."""

import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module", autouse=True)
def forget_scripts():
    """Forget the scripts that a file's tests have imported: ``report`` of the next file's may be another one."""
    yield
    for name, module in list(sys.modules.items()):
        if RECIPES in Path(getattr(module, "__file__", None) or "/").parents:
            del sys.modules[name]
