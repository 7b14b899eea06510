"""Standard terms and American spelling in names, docstrings, comments and messages."""

import ast
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BRITISH = re.compile(
    r"catalogue|neighbour|behaviour|colour|favour|labell|modell(?=ed|ing)|centre|grey\b|licence|artefact|"
    r"\w(initial|normal|standard|quant|optim|organ|recogn|summar|token|serial|maxim|minim|memor|general|regular|random|"
    r"util|vector|special|prior|material|penal|parallel|orthogonal|final)is(e|ed|es|er|ing|ation)\b|"
    r"\b(initial|normal|standard|quant|optim|organ|recogn|summar|token|serial|maxim|minim|memor|general|regular|random|"
    r"util|vector|special|material|penal|parallel|orthogonal|final)is(e|ed|es|er|ing|ation)(?![a-z])|"
    r"\banalyse|\bwhilst\b|\bamongst\b|\blearnt\b|yardstick",
    re.IGNORECASE,
)
# Keys of files and of the service's JSON, metric names, product data: they don't change with the names of code.
KEPT = re.compile(
    r"\binitialised\b|(?<![\w .])(tiger_)?catalogue(_updates|s_seen)?(?![\w ])|^ +catalogue: |model_flops_utilisation",
    re.MULTILINE,
)
FILES = sorted((ROOT / "tiger").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = sorted([*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "tiger").rglob("*.yaml")])


def found(text: str) -> list[str]:
    """British words of a text."""
    return [match.group() for match in BRITISH.finditer(KEPT.sub("", text))]


def documented(file: Path) -> list[tuple[ast.AST, str]]:
    """Modules, classes and functions of a file that have a docstring, and their docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)]
    return [(node, ast.get_docstring(node)) for node in nodes if ast.get_docstring(node)]


def words_of(file: Path) -> list[str]:
    """Comments and strings of a file, docstrings and parts of f-strings among them."""
    with open(file, "rb") as lines:
        texts = [token.string for token in tokenize.tokenize(lines.readline) if token.type == tokenize.COMMENT]
    nodes = ast.walk(ast.parse(file.read_text()))
    return texts + [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "_moved.py"], ids=lambda file: file.stem)
def test_spelling_of_the_library(file):
    deprecated = {node.name for node, text in documented(file) if text.startswith("Deprecated name of")}
    for text in words_of(file):
        assert text in deprecated or not found(text) or text == "yardsticks", text  # the old YAML key
    for node in ast.walk(ast.parse(file.read_text())):
        name = getattr(node, "name", None) or getattr(node, "arg", None)
        if isinstance(name, str) and name not in deprecated | {"catalogue"}:
            assert not found(name), name


def test_spelling_of_recipes():
    bad = {file.name: found(text) for file in RECIPES for _, text in documented(file) if found(text)}
    for file in SETTINGS:
        comments = [line.partition("#")[2] for line in file.read_text().splitlines()]
        bad |= {file.name: found(text) for text in comments if found(text)}
    assert not bad


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_spelling_of_pages(page):
    assert not found(page.read_text())


def test_docstrings_say_what_a_thing_is_or_does():
    """A noun phrase or an imperative, not "What it holds"."""
    bad = [
        f"{file.relative_to(ROOT)}: {text.splitlines()[0]}"
        for file in [*FILES, *RECIPES]
        for _, text in documented(file)
        if re.match(r"(What|How|Where|Does|Is|Are)\b", text)
    ]
    assert not bad
