"""Packages import those above them in docs/architecture.md, and nothing below or beside them."""

import ast
import importlib.util
from pathlib import Path

import tiger

FOLDER = Path(tiger.__file__).parent
_spec = importlib.util.spec_from_file_location("architecture", FOLDER.parent / "docs" / "architecture.py")
architecture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(architecture)
ORDER = architecture.ORDER
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
    assert packages == set(FLOORS)
    assert len(MODULES) > 80 and sum(map(len, IMPORTS.values())) > 200  # or this test would read nothing


def test_the_page_says_what_the_code_does():
    """Packages, files and what they are for, arrows between packages: written by docs/architecture.py."""
    assert architecture.page() == architecture.PAGE.read_text(), "run python docs/architecture.py"


# Longer than a reader takes in at once, and why they stay so; ten at most.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MAX_FILE, MAX_FUNCTION, MAX_EXCEPTIONS = 400, 60, 10


def test_no_file_and_no_function_is_too_long():
    files, functions = set(), set()
    for module, file in MODULES.items():
        text = file.read_text()
        if len(text.splitlines()) > MAX_FILE:
            files.add(module)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if node.end_lineno - node.lineno + 1 > MAX_FUNCTION:
                    functions.add(f"{module}.{node.name}")
    assert files == set(LONG_FILES) and functions == set(LONG_FUNCTIONS)
    assert len(LONG_FILES) + len(LONG_FUNCTIONS) <= MAX_EXCEPTIONS and all(
        {**LONG_FILES, **LONG_FUNCTIONS}.values()
    ), "each exception has its reason"


def test_imports_run_down_the_list():
    assert not complaints(IMPORTS)
    assert {other for other, _ in IMPORTS["tiger._moved"]} == set()


def test_many_machines_are_an_extra_that_the_commands_alone_import_when_asked():
    for module, others in IMPORTS.items():
        if {name for name, annotation in others if name.startswith("tiger.scale") and not annotation}:
            assert package_of(module) in ("scale", "cli"), module
    for module, file in MODULES.items():
        if package_of(module) == "cli" if module not in ROOT else False:
            at_top = ast.Module(
                [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)], []
            )
            assert not {name for name, _ in imported(at_top) if name.startswith("tiger.scale")}, module


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
