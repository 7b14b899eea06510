"""A type checker finds no error in the library; it knows the public names, and that there are no others."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """\
import tiger
from tiger import train
reveal_type(tiger.TigerRecommender)
reveal_type(train)
tiger.NoSuchThing
"""


def lazy_packages() -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Packages with lazy names: the homes of the names, as the package loads them and as a type checker reads them."""
    found = {}
    for file in sorted((ROOT / "tiger").rglob("__init__.py")):
        tree = ast.parse(file.read_text())
        tables = [
            ast.literal_eval(node.args[1])
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_names"
        ]
        checked = {
            alias.asname: statement.module
            for block in tree.body
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for statement in block.body
            for alias in statement.names
            if alias.asname == alias.name  # else it would not be a public name to a type checker
        }
        if tables:
            package = ".".join(file.parent.relative_to(ROOT).parts)
            found[package] = (tables[0], checked)
    return found


LAZY = lazy_packages()


def test_these_packages_have_lazy_names():
    assert set(LAZY) == {"tiger", "tiger.data", "tiger.embeddings", "tiger.recommender", "tiger.retriever"}


@pytest.mark.parametrize("package", LAZY)
def test_the_names_that_load_are_those_of_the_type_checker(package):
    loaded, checked = LAZY[package]
    assert loaded == checked
    module = import_module(package)
    assert sorted(loaded) == module.__all__ and set(loaded) < set(dir(module))
    assert all(getattr(module, name) is getattr(import_module(home), name) for name, home in loaded.items())
    with pytest.raises(AttributeError, match="NoSuchThing"):
        module.NoSuchThing  # noqa: B018


def test_a_type_checker_finds_no_error_and_reads_the_public_names(tmp_path):
    """One run for both, as `python -m mypy tiger` makes it: from the root, with its settings and its cache."""
    pytest.importorskip("mypy", reason="needs mypy, see the dev extra")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "tiger", str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    # The folder may be that of an earlier run: where nothing has changed since, mypy repeats what it said then.
    of_the_program = [line for line in done.stdout.splitlines() if f"{program.name}:" in line]
    assert done.stdout.splitlines() == of_the_program and not done.stderr, done.stdout + done.stderr
    recommender, train, unknown = (line.partition(program.name)[2] for line in of_the_program)
    assert "def (" in recommender and recommender.endswith('-> tiger.recommender.recommender.TigerRecommender"')
    assert "output_dir" in train and train.endswith('-> tiger.recommender.recommender.TigerRecommender"')
    assert unknown == ':5: error: Module has no attribute "NoSuchThing"  [attr-defined]'
