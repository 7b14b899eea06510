import ast
import re
from pathlib import Path

import tiger

FOLDER = Path(tiger.__file__).parent


def imports(tree: ast.Module) -> list[str]:
    """Modules of tiger that a file imports, other than for its annotations."""
    blocks = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    annotations = {node for block in blocks for node in ast.walk(block)}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in annotations]
    return [node.module.removeprefix("tiger.") for node in nodes if (node.module or "").startswith("tiger.")]


def test_data_flows_down_the_list_of_the_readme():
    listed = re.search(r"```\ntiger/\n(.*?)\ndata/", (FOLDER.parent / "README.md").read_text(), re.DOTALL)[1]
    places = {name: place for place, name in enumerate(re.findall(r"(\w+)\.py", listed))}
    modules = {file.stem for file in FOLDER.glob("*.py")} - {"__init__"}
    assert modules == set(places)
    upward = [
        f"{module} imports {other}"
        for module in modules
        for other in imports(ast.parse((FOLDER / f"{module}.py").read_text()))
        if places[other] >= places[module]
    ]
    assert not upward
