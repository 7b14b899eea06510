"""Write ``docs/architecture.md`` from the code: ``python docs/architecture.py``.

The picture comes from the imports, the list from the first sentence of each docstring, so that neither can drift; a
test compares the page with what this script would write.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
# Packages by the way the data goes. Each imports those above it; packages of one line never import each other.
ORDER = (
    ("utils",),
    ("data",),
    ("evaluation", "embeddings"),
    ("quantizers",),
    ("semantic_ids",),
    ("retriever", "rankers"),
    ("recommender",),
    ("serving", "training"),
    ("scale",),
    ("cli",),
)
INTRODUCTION = """\
# Architecture

*Written by `python docs/architecture.py` from the imports and docstrings of the code.*

The text of an item becomes a vector (`embeddings`), the vector a few codes (`quantizers`), the codes a semantic ID and
its tokens (`semantic_ids`). A T5 reads a user's history as tokens and proposes the next items under a prefix trie
(`retriever`); a ranker orders them (`rankers`). A `recommender` is all of that as one object and one directory. It
answers requests (`serving`), is made by recipes (`training`), does both on many machines (`scale`, an extra that the
command line alone imports), and all have words there (`cli`).

**The import rule.** Data flows down and never back up: a package imports packages above it in this picture and nothing
below; packages on one line never import each other. `tests/test_architecture.py` derives the order from the imports
themselves, in functions and for annotations too, and fails on one that runs up or sideways and on circles of files.
"""
CLOSING = """\
## Where things live

* Public names are those of `dir(tiger)`; they load on first use.
* Module paths and names of earlier releases work for one release and warn: `tiger/_moved.py`.
* File formats (`tiger.json`, `two_stage.json`, names of tensors) have versions of their own and don't change with
  names of code.
* Recipes under `recipes/` are thin: arguments in, functions of `tiger.training` called, results out.
* Your own encoder, quantizer or ranker plugs in by a protocol: `embeddings/base.py`, `quantizers/base.py`,
  `rankers/base.py`.
"""


def modules() -> dict[str, Path]:
    """Files of the library by their path below it."""
    folder = ROOT / "tiger"
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*.py"))}


def edges() -> set[tuple[str, str]]:
    """Pairs of packages, the first importing the second."""
    found = set()
    for path, file in modules().items():
        if "/" not in path:
            continue
        own = path.split("/")[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tiger."):
                found.add((own, node.module.split(".")[1]))
    return {(own, other) for own, other in found if own != other}


def without_detours(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Arrows that say what no chain of other arrows says."""

    def reaches(start: str, end: str, pairs: set[tuple[str, str]]) -> bool:
        return any(b == end or reaches(b, end, pairs) for a, b in pairs if a == start)

    kept = set(pairs)
    for pair in sorted(pairs):
        if reaches(*pair, kept - {pair}):
            kept.remove(pair)
    return kept


def picture() -> str:
    """A Mermaid diagram: an arrow from what is imported to what imports it, the way the data goes."""
    there = {path.split("/")[0] for path in modules() if "/" in path}
    lines = ["```mermaid", "flowchart TD"]
    for names in ORDER:
        names = [name for name in names if name in there]
        if len(names) > 1:
            lines += [f"  subgraph {'_'.join(names)}[ ]", "    direction LR"]
            lines += [*(f"    {name}" for name in names), "  end"]
        else:
            lines += [f"  {name}" for name in names]
    lines += [f"  {other} --> {own}" for own, other in sorted(without_detours(edges()))]
    return "\n".join([*lines, "```"])


def sentence(file: Path) -> str:
    """First sentence of a file's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    text = re.sub(r":(?:class|func|meth|mod|data):`~?\.?([\w.]+)`", r"`\1`", text).replace("``", "`")
    return text


def listing() -> str:
    """Every package and file with its sentence."""
    files, lines = modules(), []
    for names in ORDER:
        for name in names:
            inside = {path: file for path, file in files.items() if path.startswith(f"{name}/")}
            if not inside:
                continue
            lines += ["", f"### {name}", "", sentence(inside[f"{name}/__init__.py"]), ""]
            for path, file in inside.items():
                if file.name == "__init__.py" and path.count("/") == 2:
                    lines.append(f"* **{path.removesuffix('/__init__.py')}**: {sentence(file)}")
                elif file.name not in ("__init__.py", "__main__.py"):
                    lines.append(f"* `{path}`: {sentence(file)}")
    return "\n".join(lines).strip()


def page() -> str:
    return "\n".join([INTRODUCTION, picture(), "", "## Packages", "", listing(), "", CLOSING])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
