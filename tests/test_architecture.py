"""Packages import those above them in the list of the README, and nothing below or beside them."""

import ast
import re
from pathlib import Path

import tiger

FOLDER = Path(tiger.__file__).parent
# By the way the data goes; packages of one line never import each other.
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
FLOORS = {package: floor for floor, packages in enumerate(ORDER) for package in packages}
# What belongs to no package: `from tiger import __version__` is for all, and itself it imports nothing but utils.
ROOT = {"tiger", "tiger._moved"}

MODULES = {
    ".".join(["tiger", *file.relative_to(FOLDER).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in sorted(FOLDER.rglob("*.py"))
}


def imported(tree: ast.Module) -> set[tuple[str, bool]]:
    """Modules of tiger that a file imports, in functions too, and whether for annotations only.

    The homes of a package's lazy names are strings: they count as what they are, imports on first use.
    """
    checking = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            # `from tiger.recommender import hub` imports tiger.recommender.hub.
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in below]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("lazy_names", "import_module"):
            names = [
                one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]
        found |= {(name, node in checking) for name in names if name in MODULES}
    return found


def package_of(module: str) -> str:
    return module.split(".")[1]


IMPORTS = {module: imported(ast.parse(file.read_text())) for module, file in MODULES.items()}


def complaints(imports: dict[str, set[tuple[str, bool]]]) -> list[str]:
    """Imports that run up or sideways."""
    return [
        f"{module} imports {other}" + (" for annotations" if annotation else "")
        for module, others in imports.items()
        for other, annotation in sorted(others)
        if module not in ROOT
        and other not in ROOT
        and package_of(module) != package_of(other)
        and FLOORS[package_of(other)] >= FLOORS[package_of(module)]
    ]


def circles(imports: dict[str, set[tuple[str, bool]]]) -> list[set[str]]:
    """Files that import each other, directly or through others (Tarjan's strongly connected components)."""
    number, low, stack, found = {}, {}, [], []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other, _ in imports[module]:
            if other not in number:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == number[module]:
            at = stack.index(module)
            found.append(set(stack[at:]))
            del stack[at:]

    for module in imports:
        if module not in number:
            visit(module)
    return sorted((part for part in found if len(part) > 1), key=min)


def test_every_package_is_in_the_list():
    packages = {package_of(module) for module in MODULES if module not in ROOT}
    assert packages <= set(FLOORS) and set(FLOORS) - packages <= {"scale"}
    assert len(MODULES) > 80 and sum(map(len, IMPORTS.values())) > 200  # or this test would read nothing


def test_the_readme_lists_the_same():
    listed = re.search(r"```\ntiger/\n(.*?)\ndata/", (FOLDER.parent / "README.md").read_text(), re.DOTALL)[1]
    packages = [
        package for packages in ORDER for package in packages if package in map(package_of, set(MODULES) - ROOT)
    ]
    assert re.findall(r"^  (\w+)/", listed, re.MULTILINE) == packages
    named = {f"tiger/{folder}{name}" for folder, names in parts_of(listed) for name in names}
    assert named == {
        file.relative_to(FOLDER.parent).with_suffix("").as_posix()
        for file in MODULES.values()
        if file.name not in ("__init__.py", "__main__.py") and file.parent != FOLDER
    }


def parts_of(listed: str) -> list[tuple[str, list[str]]]:
    """Folders of the README's list, such as ``rankers/click/``, and the files that stand below each."""
    found, folder = [], ""
    for line in listed.splitlines():
        if start := re.match(r"  (\w+/)", line):
            folder = start[1]
        elif start := re.match(r"    (\w+/)", line):
            folder = folder.split("/")[0] + "/" + start[1]
        found.append((folder, re.findall(r"(\w+)\.py", line)))
    return found


def test_imports_run_down_the_list():
    assert not complaints(IMPORTS)
    assert {other for other, _ in IMPORTS["tiger._moved"]} == set()


def test_there_are_no_circles():
    # Lazy names are loaded when they are asked for, long after both files are: packages that hold them are no circle.
    files = {module for module, file in MODULES.items() if file.name != "__init__.py"}
    imports = {module: {one for one in IMPORTS[module] if one[0] in files} for module in files}
    assert not circles(imports)


def test_what_is_wrong_would_be_seen():
    up = ast.parse("def load():\n    from tiger.recommender.recommender import TigerRecommender\n")
    assert complaints({"tiger.data.dataset": imported(up)})
    beside = ast.parse("import tiger.rankers.click.model")
    assert complaints({"tiger.retriever.trainer": imported(beside)})
    checked = ast.parse("if TYPE_CHECKING:\n    from tiger.serving import live\n")
    assert complaints({"tiger.training.arguments": imported(checked)})
    assert complaints({"tiger.data": imported(ast.parse('lazy_names(__name__, {"RQVAE": "tiger.quantizers.rqvae"})'))})
    assert not complaints({"tiger.cli.main": imported(up) | imported(beside) | imported(checked)})
    ring = {"a": {("b", False)}, "b": {("c", True)}, "c": {("a", False), ("d", False)}, "d": set()}
    assert circles(ring) == [{"a", "b", "c"}]
