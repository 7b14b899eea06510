"""The experiment that compares going on with training from scratch."""

import importlib
import json
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from recipes.tables import ROOT, warm_start_table
from tests.recipes.test_ranking_experiment import write_dataset
from tests.training.test_pipeline import SIZES
from tiger.data.dataset import RecommendationData
from tiger.utils.errors import DataError

DAYS = 15


def test_the_experiment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "experiments"))
    warm_start = importlib.import_module("warm_start")
    dataset = write_dataset(tmp_path / "small")
    random = np.random.default_rng(0)
    vectors = random.normal(size=(8, 12))[np.arange(120) % 8] + 0.1 * random.normal(size=(120, 12))
    save_file({"embeddings": vectors.astype(np.float32)}, tmp_path / "vectors.safetensors")
    settings = [f"retriever.{name}={value}" for name, value in SIZES.items()]
    settings += ["tokenizer.codebook_size=8", "tokenizer.encoder=some/encoder"]

    def run(steps: int) -> dict:
        argv = ["warm_start.py", "--dataset", dataset, "--embeddings", tmp_path / "vectors.safetensors"]
        argv += ["--out", tmp_path / "out", "--results_dir", tmp_path / "results", "--num_beams", 10]
        argv += ["--days", DAYS, "--steps", steps, "--settings", *settings]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        warm_start.main()
        return json.loads((tmp_path / "results" / "small.json").read_text())

    found = run(1)
    rows = {row["model"]: row for row in found["rows"]}
    assert set(rows) == {"stale", "warm", "scratch"} and found["seeds"] == [0] and "warm_start.py" in found["command"]
    assert rows["warm"]["cpu_seconds"] > 0 and rows["warm"]["steps"] > 0

    # Who is asked: counted from the log itself.
    data = RecommendationData.load(dataset)
    events = data.sequences
    day = int(events.timestamps.max() // 86_400) + 1 - DAYS
    known = set(events.items[events.timestamps < day * 86_400].tolist())
    users = outside = 0
    numbers = warm_start.user_numbers(data.user_ids.to_pylist(), 2)
    for user in range(len(events)):
        part = slice(events.offsets[user], events.offsets[user + 1])
        earlier = events.timestamps[part] < day * 86_400
        if numbers[user] != 2 or not earlier.any() or earlier.all():
            continue
        inside = int(events.items[part][~earlier][0]) in known
        users, outside = users + inside, outside + (not inside)
    assert users > 20 and all((row["users"], row["outside"]) == (users, outside) for row in found["rows"])

    (compared,), (refit,) = found["compared"], found["refit"]
    ratio = rows["warm"]["ndcg@10"] / rows["scratch"]["ndcg@10"]
    assert compared["ndcg@10 ratio"] == pytest.approx(ratio, abs=1e-3)
    assert compared["interval"][0] <= compared["difference"] <= compared["interval"][1]
    assert 0 <= refit["changed_ids"] <= 1 and refit["items"] <= len(known)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("model.safetensors")}
    assert run(1)["rows"] == found["rows"]  # what was trained is left alone
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("model.safetensors")} == files
    (tmp_path / "all" / "warm_start").mkdir(parents=True)
    (tmp_path / "all" / "warm_start" / "small.json").write_text(json.dumps(found))
    table = warm_start_table(tmp_path / "all")
    assert f"{rows['warm']['ndcg@10']:.4f}" in table and f"{rows['scratch']['cpu_seconds']:,.0f}" in table
    with pytest.raises(DataError, match="no event before cut 0"):
        run(20)
    assert "not measured yet" in warm_start_table(tmp_path / "nothing")
