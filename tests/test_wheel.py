"""The wheel holds every module of the source tree, nothing else, and all of them import where it is installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.demo import write_demo

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
# Where a checkout is installed for editing, its finder would step in for what the wheel lacks: files are compared.
IMPORT_ALL = """
import json, sys
from importlib import import_module
found, missing = {}, {}
for module in json.load(sys.stdin):
    try:
        found[module] = import_module(module).__file__
    except ModuleNotFoundError as error:
        missing[module] = error.name
print(json.dumps([found, missing]))
"""


def modules(folder: Path) -> set[str]:
    files = (file.relative_to(folder.parent).with_suffix("") for file in folder.rglob("*.py"))
    return {".".join(file.parts).removesuffix(".__init__") for file in files}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A fresh directory with nothing but the wheel's files."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("tiger", "data", "recipes", "tests"):  # what must not be in the wheel too
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*PIP, "wheel", source, "--no-deps", "--no-build-isolation", "-w", work], check=True)
    (wheel,) = work.glob("tiger_recommender-*.whl")
    subprocess.run([*PIP, "install", wheel, "--no-deps", "--target", work / "site"], check=True)
    return work / "site"


def test_it_holds_the_modules_of_the_source_tree(site):
    assert modules(site / "tiger") == modules(ROOT / "tiger") and len(modules(ROOT / "tiger")) > 80
    assert (site / "tiger" / "py.typed").is_file()  # type checkers read its annotations
    assert not {"data", "recipes", "tests"} & {path.name for path in site.iterdir()}


def test_all_its_modules_import(site, tmp_path):
    wanted = sorted(modules(ROOT / "tiger"))
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        input=json.dumps(wanted),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found, missing = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(file).is_relative_to(site) for file in found.values())
    # Only what an extra brings may lack.
    assert {name.split(".")[0] for name in missing.values()} <= {"fastapi", "uvicorn", "prometheus_client", "gradio"}
    assert set(found) | set(missing) == set(wanted) and len(found) > 75


def test_the_recommender_that_comes_with_it_answers(site, tmp_path):
    own, packed = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (ROOT / "tiger" / "demo_model", site / "tiger" / "demo_model")
    )
    assert own == packed and 100_000 < sum(map(len, packed.values())) < 1_000_000
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tiger.cli", "recommend", "demo", "-k", "3", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == 3


def test_its_command_is_there(site, tmp_path):
    script = site / "bin" / "tiger"
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, script, "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("tiger ")


def test_it_trains_and_recommends_without_a_checkout(site, tmp_path):
    """Of the recipes, too, the wheel's own are read; `data/` makes the data set alone."""
    write_demo(tmp_path / "demo", num_items=120, num_users=200, seed=0)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

    def run(*words):
        command = [sys.executable, "-m", "tiger.cli", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    small = "d_model=16 d_kv=8 d_ff=32 num_heads=2 num_layers=1 max_steps=3 min_steps=0 report_to=none eval_users=50"
    settings = [f"retriever.{setting}" for setting in small.split()]
    settings += ["two_stage.max_trees=5", "two_stage.num_beams=10", "two_stage.num_seeds=1", "evaluate.num_beams=10"]
    done = run("train", "demo", "--out", "mine", "--set", *settings)
    assert "step 4 of 4" in done.stderr and "R@10    N@10" in done.stdout and "saved to mine/model" in done.stdout
    answer = json.loads(run("recommend", "mine/model", "-k", 3, "--json").stdout)
    assert len(answer) == 3 and all(row["title"] for row in answer)
    assert {"default", "paper"} <= {folder.name for folder in (site / "tiger" / "training" / "recipes").iterdir()}
