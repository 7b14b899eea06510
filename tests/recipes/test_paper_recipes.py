"""The paper's recipe on a shop so small that it proves nothing but that everything runs and adds up."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from transformers import TrainingArguments

from data.demo import write_demo
from recipes.paper import codes
from tests.processes import run_python
from tiger.data.dataset import RecommendationData
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.retriever.config import retriever_config
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.arguments import read_arguments
from tiger.training.retriever import RetrieverArguments, train_retriever
from tiger.training.tokenizer import TokenizerArguments, train_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
SETTING = "as published, history removed"
NEEDED = {"dataset": "data", "tokenizer": "tokenizer", "model_dir": "model", "output_dir": "training"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two runs at once by ``recipes/paper/gpu.sh`` without a GPU; the better one is measured."""
    folder = tmp_path_factory.mktemp("paper")
    write_demo(folder / "data", num_items=200, num_users=300, seed=0)
    tokenizer = TokenizerArguments(str(folder / "data"), str(folder / "tokenizer"), encoder="lsa", embedding_dim=16)
    tokenizer.quantizer, tokenizer.codebook_size = "residual-kmeans", 8
    train_tokenizer(tokenizer)
    settings = {"max_steps": 4, "dataset": folder / "data", "tokenizer": folder / "tokenizer", "num_layers": 1}
    settings |= {"d_model": 16, "d_ff": 16, "d_kv": 8}
    (folder / "out").mkdir()
    command = ["bash", str(RECIPES / "paper" / "gpu.sh"), "final.yaml", str(folder / "out"), "--only", "toys-100"]
    command += ["toys-40", "--evaluate_best", "--set", *(f"{key}={value}" for key, value in settings.items())]
    environment = os.environ | {"DEVICE": "cpu", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=RECIPES.parent, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    subprocess.run(
        "tar xzf results.tgz && tar xzf ranks.tgz && cat models.tgz.* | tar xz",
        shell=True,
        check=True,
        cwd=folder / "out",
    )
    return folder


def test_all_runs_have_curves_and_the_best_one_is_measured(trained):
    curves = json.loads((trained / "out" / "curves.json").read_text())
    assert set(curves) == {"toys-100", "toys-40"} and all(curves.values())
    (best,) = (trained / "out" / "best.txt").read_text().split()
    (rows,) = [json.loads(file.read_text()) for file in (trained / "out").glob("*/results/*.json")]
    assert {row["model"] for row in rows} == {"tiger-paper"}
    assert (trained / "out" / best / "model" / "tiger.json").exists()


def test_the_ranks_give_the_means_of_the_table(trained):
    (rows,) = [json.loads(file.read_text()) for file in (trained / "out").glob("*/results/*.json")]
    (file,) = (trained / "out").glob("*/ranks/*.safetensors")
    for row in rows:
        places = load_file(file)[row["setting"]].astype(float)
        assert row["metrics"]["recall@10"] == pytest.approx((places < 10).mean(), abs=1e-5)
        gains = np.where(places < 10, 1 / np.log2(places + 2), 0)
        assert row["metrics"]["ndcg@10"] == pytest.approx(gains.mean(), abs=1e-5)


def test_slices_share_out_all_users(trained, monkeypatch):
    (file,) = (trained / "out").glob("*/ranks/*.safetensors")
    command = [RECIPES / "experiments" / "slices.py", "--dataset", trained / "data"]
    refit = trained / "refit.safetensors"  # as recipes/experiments/refits.py keeps one
    places = load_file(file)[SETTING].astype(np.int32)
    save_file({"ranks": np.where(places < 10, places, 150), "trees": np.array(3)}, refit)
    command += ["--ranks", f"tiger-paper={file}", f"two-stage={refit}", "--results_dir", trained / "slices"]
    run_python(*command).check_returncode()
    content = json.loads((trained / "slices" / "data.json").read_text())
    users = len(RecommendationData.load(trained / "data").leave_one_out().users)
    whole = (load_file(file)[SETTING] < 10).mean()
    for kind in ("step", "target in training", "history"):
        parts = content["slices"][kind].values()
        assert sum(part["users"] for part in parts) == users
        assert all(part["two-stage"] == part["tiger-paper"] for part in parts)
        hits = sum(part["users"] * part["tiger-paper"].get("recall@10", 0) for part in parts)
        assert hits / users == pytest.approx(whole, abs=1e-4)
    assert (trained / "slices" / "data.png").stat().st_size > 10_000


def test_random_codes_are_of_the_same_lengths(trained):
    command = [RECIPES / "paper" / "codes.py", "random", trained / "tokenizer", trained / "random"]
    run_python(*command).check_returncode()
    given, drawn = (SemanticIdTokenizer.from_pretrained(trained / name) for name in ("tokenizer", "random"))
    assert drawn.item_ids == given.item_ids and drawn.codes.shape == given.codes.shape
    assert drawn.codebook_size == given.codebook_size and (drawn.codes != given.codes).any()


def test_codes_of_other_kinds_are_in_range_and_hang_on_the_vectors():
    random = np.random.default_rng(0)
    centers = random.standard_normal((8, 12)).astype(np.float32)
    vectors = centers[np.arange(200) % 8] + 0.01 * random.standard_normal((200, 12), dtype=np.float32)
    made = {kind: make(vectors, 3, 8, 1) for kind, make in codes.KINDS.items()}
    for kind, found in made.items():
        assert found.shape == (200, 3) and 0 <= found.min() and found.max() < 8, kind
        assert (found == codes.KINDS[kind](vectors, 3, 8, 1)).all(), kind
    groups = {
        kind: len(np.unique(np.stack([found[:, 0], np.arange(200) % 8]), axis=1).T) for kind, found in made.items()
    }
    assert groups["kmeans"] == 8 and groups["random"] > 32  # a code of the first level is a cluster
    fitted = ResidualKMeans.fit(vectors, 3, 8, seed=1, progress=False)
    assert (made["kmeans"] == fitted.encode(vectors)).all()


@pytest.mark.parametrize("name", ["sweep", "final", "long", "whole", "together", "kmeans"])
def test_the_runs_name_sets_and_settings_that_exist(name):
    runs = yaml.safe_load((RECIPES / "paper" / f"{name}.yaml").read_text())
    common = runs.pop("common")
    for run in runs.values():
        settings = common | run
        recipe = RECIPES / "paper" / settings.pop("set") / "retriever.yaml"
        for own in ("evaluate", "parts"):
            settings.pop(own, None)
        read, _ = read_arguments([RetrieverArguments, TrainingArguments], recipe, NEEDED | settings)
        for name, value in settings.items():
            if (found := getattr(read, name, None)) is not None:
                assert found == type(found)(value), name
        assert read.num_heads == 6 and read.d_kv == 64  # kept where the width is another


@pytest.mark.parametrize("entry", ["user-tokens", "users-quarter"])
def test_entries_of_the_sweep_train(trained, tmp_path, capsys, entry):
    """What later versions added, on a CPU: the model reads users, or has learned from a quarter of them."""
    runs = yaml.safe_load((RECIPES / "paper" / "sweep.yaml").read_text())
    changes = {key: value for key, value in (runs["common"] | runs[entry]).items() if key != "set"}
    small = {"dataset": trained / "data", "tokenizer": trained / "tokenizer", "output_dir": tmp_path / "training"}
    small |= {"model_dir": tmp_path / "model", "num_layers": 1, "d_model": 16, "d_ff": 16, "d_kv": 8, "max_steps": 2}
    small = changes | {key: str(value) for key, value in small.items()} | {"eval_steps": 1, "save_steps": 1}
    recipe = RECIPES / "paper" / "beauty" / "retriever.yaml"
    recommender = train_retriever(*read_arguments([RetrieverArguments, TrainingArguments], recipe, small))
    targets = int(re.search(r"([\d,]+) training targets", capsys.readouterr().out)[1].replace(",", ""))
    lengths = RecommendationData.load(trained / "data").leave_one_out().train.lengths
    whole = int((lengths - 1).sum())
    assert targets == whole if entry == "user-tokens" else targets == pytest.approx(whole / 4, rel=0.2)
    assert retriever_config(recommender.model).user_tokens == (2000 if entry == "user-tokens" else 0)
    assert recommender.training["arguments"]["train_share"] == (1.0 if entry == "user-tokens" else 0.25)
