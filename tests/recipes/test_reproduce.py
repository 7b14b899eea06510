"""`make reproduce SET=...`: which commands it runs, in which order, and what it says where something is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import write_tables
from tiger.training.plan import check_settings, make_plan

ROOT = Path(__file__).parents[2]
OF_AN_OUTER_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.fixture
def checkout(tmp_path):
    """Makefile and recipes, with commands that write down what they are asked for; fail: one that does."""
    for name in ("Makefile", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    for name in ("python", "tiger"):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> asked.txt\ntest ! -f fail-{name}\n')
        file.chmod(0o755)
    return tmp_path


def make(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    """`make reproduce` as a user calls it, even where `make test` runs the tests: a make inside another says more."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_AN_OUTER_MAKE}
    command = ["make", "reproduce", "BIN=bin", *words]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60, env=environment)


def reproduce(checkout: Path, *words: str) -> subprocess.CompletedProcess:
    return make(checkout, "-o", "setup", *words)


def write_set(folder: Path) -> None:
    write_tables(folder, {"item_id": ["a", "b"], "title": ["one", "two"]}, [("u", item, 0) for item in "abab"])


def test_what_is_missing_is_said_in_one_line(checkout):
    done = reproduce(checkout, "SET=toys")
    assert done.returncode == 2 and not (checkout / "asked.txt").exists()
    prepare = "make setup && bin/python data/amazon.py toys --out datasets/toys"
    assert done.stdout == f"datasets/toys is not there, prepare it: {prepare}\n"
    done = reproduce(checkout, "SET=books")
    assert done.returncode == 2 and "give SET=beauty, sports or toys" in done.stdout
    # Before anything is installed: no `-o setup` here.
    done = make(checkout)
    assert done.returncode == 2 and "datasets/beauty is not there" in done.stdout


def test_training_and_results_in_order(checkout):
    write_set(checkout / "datasets" / "beauty")
    done = reproduce(checkout, "OPTIONS=--embeddings a.safetensors")
    assert done.returncode == 0, done.stderr
    train = "tiger train datasets/beauty --out runs/reproduce/beauty --recipe recipes/paper/beauty"
    measure = "python recipes/evaluate.py recipes/paper/beauty/evaluate.yaml --dataset datasets/beauty --models "
    measure += "runs/reproduce/beauty/model --results_dir runs/reproduce/beauty/results"
    assert (checkout / "asked.txt").read_text().splitlines() == [f"{train} --embeddings a.safetensors", measure]
    # What fails stops it, and started again it asks for all of it again: `tiger train` leaves alone what is finished.
    (checkout / "asked.txt").unlink()
    (checkout / "fail-tiger").touch()
    assert reproduce(checkout).returncode == 2
    assert (checkout / "asked.txt").read_text().splitlines() == [train]
    (checkout / "fail-tiger").unlink()
    assert reproduce(checkout).returncode == 0


@pytest.mark.parametrize("name", ["beauty", "sports", "toys"])
def test_the_recipe_of_each_set_is_a_plan(name, tmp_path):
    write_set(tmp_path / name)
    plan = make_plan(tmp_path / name, tmp_path / "out", ROOT / "recipes" / "paper" / name)
    assert plan.steps == ["tokenizer", "retriever", "evaluate"]
    (tokenizer,) = check_settings(plan, ["tokenizer"])["tokenizer"]
    assert (tokenizer.num_codebooks, tokenizer.codebook_size, tokenizer.quantizer) == (3, 256, "rqvae")
    assert plan.settings["retriever"]["model_dir"] == str(tmp_path / "out" / "model")
    assert plan.settings["evaluate"]["num_beams"] == 50
