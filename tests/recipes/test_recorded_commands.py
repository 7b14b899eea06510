"""Rows of results name the command that makes them: run again, elsewhere, it does."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from recipes import evaluate, pipeline
from tests.processes import run_python
from tests.recipes.test_ranking_experiment import write_dataset
from tests.training.test_pipeline import SIZES, SMALL
from tiger.evaluation.results import command_line
from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]


def write_recipe(folder: Path) -> Path:
    """A small recipe in a folder: semantic IDs, T5 and second stage."""
    folder.mkdir()
    common = {"report_to": "none", "save_strategy": "no", "max_steps": 3, "per_device_train_batch_size": 64}
    sizes = {name: SIZES[name] for name in ("d_model", "d_kv", "d_ff", "num_heads", "num_layers")}
    settings = {
        "tokenizer": {"encoder": "lsa", "quantizer": "residual-kmeans", "num_codebooks": 2} | SMALL["tokenizer"],
        "retriever": common | sizes,
        "two_stage": SMALL["two_stage"] | {"num_proposed": 20},
        "evaluate": {"num_beams": 20, "bf16": False, "baselines": False},
    }
    for step, found in settings.items():
        (folder / f"{step}.yaml").write_text(yaml.safe_dump(found))
    return folder


def recorded(folder: Path) -> dict[str, dict]:
    files = sorted((folder / "runs" / "mine" / "results").glob("*.json"))
    return {file.stem: json.loads(file.read_text())[0] for file in files}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a dataset and a recipe, and the library's recipes beside them, to be worked in."""
    folder = tmp_path / "here"
    write_dataset(folder / "data")
    write_recipe(folder / "small")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(folder)
    return folder


def test_the_command_of_a_row_makes_the_row(place, tmp_path, monkeypatch):
    given = ["retriever.seed=3", "retriever.max_grad_norm=0.5", "two_stage.seed=2", "evaluate.num_beams=12"]
    words = ["recipes/pipeline.py", "small", "--dataset", "data", "--out", f"{place}/runs/mine", "--set", *given]
    monkeypatch.setattr(sys, "argv", words)
    pipeline.main()
    rows = recorded(place)
    assert set(rows) == {"tiger", "two-stage"}
    (command,) = {row["command"] for row in rows.values()}
    assert command == f"python recipes/pipeline.py small --dataset data --out runs/mine --set {' '.join(given)}"
    assert rows["tiger"]["num_beams"] == 12 and rows["tiger"]["training"]["arguments"]["max_grad_norm"] == 0.5
    assert "second_stage" not in rows["tiger"]
    fitted = rows["two-stage"]["second_stage"]
    assert len(fitted["trees"]) == fitted["arguments"]["num_seeds"] == 1 and fitted["arguments"]["seed"] == 2

    # In another checkout, from nothing.
    other = tmp_path / "there"
    other.mkdir()
    for name in ("data", "small"):
        shutil.copytree(place / name, other / name)
    (other / "recipes").symlink_to(ROOT / "recipes")
    run_python(*shlex.split(command)[1:], cwd=other).check_returncode()
    again = recorded(other)
    assert {name: row["metrics"] for name, row in again.items()} == {
        name: row["metrics"] for name, row in rows.items()
    }
    assert again["tiger"]["training"]["data"] == rows["tiger"]["training"]["data"]

    # Measured by itself, a model's row names the evaluation alone; so does a pipeline that made nothing else.
    words = ["evaluate.py", "small/evaluate.yaml", "--dataset", "data", "--models", "runs/mine/model"]
    monkeypatch.setattr(
        sys, "argv", [f"recipes/{words[0]}", *words[1:], "--results_dir", f"{place}/runs/mine/results"]
    )
    evaluate.main()
    assert recorded(place)["tiger"]["command"] == f"python recipes/{' '.join(words)} --results_dir runs/mine/results"
    assert recorded(place)["tiger"]["num_beams"] == 20


def test_a_row_of_another_log_says_so(place, monkeypatch, tmp_path):
    from tests.training.test_identity_of_runs import drop_events

    words = ["recipes/pipeline.py", "small", "--dataset", "data", "--out", "runs/mine", "--steps", "tokenizer"]
    monkeypatch.setattr(sys, "argv", [*words, "retriever"])
    pipeline.main()
    snapshot = drop_events(place / "data", place / "snapshot", 2)
    words = ["evaluate.py", "small/evaluate.yaml", "--dataset", str(snapshot), "--models", "runs/mine/model"]
    words += ["--results_dir", "runs/mine/results"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(DataError, match="training part of interactions.parquet is not what the model was made from"):
        evaluate.main()
    monkeypatch.setattr(sys, "argv", [*words, "--allow_other_log", "true"])
    evaluate.main()
    row = recorded(place)["tiger"]
    assert row["other_log"] is True and "--allow_other_log true" in row["command"]
    assert TigerRecommender.from_pretrained("runs/mine/model").training["data"] == row["training"]["data"]


def test_paths_of_a_command_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [f"{tmp_path}/recipes/evaluate.py", f"--models={tmp_path}/runs/a model", "--note", "a=b", "/elsewhere"]
    assert command_line(argv) == "python recipes/evaluate.py '--models=runs/a model' --note a=b /elsewhere"


def test_rows_of_the_second_stage_name_a_command_with_their_seeds():
    for file in sorted((ROOT / "recipes" / "results" / "two_stage").glob("*.json")):
        content = json.loads(file.read_text())
        assert "command" not in content  # one for all rows, the last call's, would be wrong of others
        for row in content["rows"]:
            words = shlex.split(row["command"])
            at = words.index("--seeds") + 1
            seeds = [
                word for word in words[at:][: next(i for i, w in enumerate([*words[at:], "--"]) if w[:2] == "--")]
            ]
            assert row["model"] == "hybrid" or [int(seed) for seed in seeds] == row["seeds"], (file, row["model"])


def test_rows_of_the_second_stage_are_single_fits_and_recipes_average_three():
    def num_seeds(folder: str) -> int:
        return yaml.safe_load((ROOT / "recipes" / folder / "two_stage.yaml").read_text())["num_seeds"]

    for name in ("beauty", "sports", "toys"):
        content = json.loads((ROOT / "recipes" / "results" / "two_stage" / f"{name}.json").read_text())
        (row,) = [row for row in content["rows"] if (row["model"], row["setting"]) == ("two-stage", "as published")]
        assert {len(trees) for trees in row["trees"]} == {1} and num_seeds(name) == 3
    assert num_seeds("default") == 3
