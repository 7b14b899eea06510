import json
import sys
from pathlib import Path

import numpy as np
import pytest

from recipes.experiments import cold_start
from tests.conftest import write_tables
from tiger.data.dataset import RecommendationData
from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError

WORDS = "tent lamp stove rope boots map pan cup".split()


def write_dataset(folder: Path) -> Path:
    """200 users who keep to one of eight kinds of items, as the items' texts tell."""
    random = np.random.default_rng(0)
    texts = [f"{WORDS[row % 8]} {WORDS[row % 8]} {WORDS[(row // 8) % 8]}" for row in range(160)]
    rows = []
    for user in range(200):
        taste = random.integers(8)
        rows += [(f"u{user}", f"i{8 * random.integers(20) + taste}", time) for time in range(7)]
    return write_tables(folder, {"item_id": [f"i{row}" for row in range(160)], "title": texts}, rows)


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Run the experiment on a small dataset with a small model: its results."""
    dataset = write_dataset(tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    sizes = "d_model=16 d_kv=8 d_ff=32 num_heads=2 num_layers=1 bf16=false report_to=none eval_beams=10 max_steps=30"
    sizes += " muon_learning_rate=0.01 learning_rate=0.01 disable_tqdm=true eval_users=50"

    def run(*options):
        argv = ["cold_start.py", "--dataset", dataset, "--encoder", "lsa", "--held_out", 0.2, "--num_beams", 20]
        argv += ["--tokenizer_options", "codebook_size=8", "quantizer=residual-kmeans", "num_codebooks=2"]
        argv += ["--retriever_options", *sizes.split(), "--bf16", "false", *options]
        argv += ["--recipes", Path(cold_start.RECIPES) / "beauty", "--work_dir", "runs", "--results_dir", "results"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
        cold_start.main()
        return json.loads(Path("results/small.json").read_text())

    return run


def test_unseen_items_are_found_by_their_texts(experiment, tmp_path):
    content = experiment("--epochs", 2)
    found = {(row["model"], row["unseen_share"], row["targets"]): row for row in content["rows"]}
    assert len(found) == 2 * 6 * 2 and content["held_out_items"] > 20 and content["users"]["unseen"] > 20
    # No place, nothing found; more places, more found, and of the others less; half the answer by content alone beats
    # chance, 10 of 160 items, by far.
    for model in ("tiger", "knn"):
        recalls = [found[model, share, "unseen"]["recall@10"] for share in (0, 0.1, 0.5)]
        assert recalls[0] == 0 < recalls[1] <= recalls[2] and recalls[2] > 0.15
        assert found[model, 0, "seen"]["recall@10"] >= found[model, 0.5, "seen"]["recall@10"]
    assert Path("results/small.png").read_bytes()[1:4] == b"PNG"

    # Nothing of a held-out item is in what was trained on, and the rest is as it was.
    whole, rest = (RecommendationData.load(tmp_path / name) for name in ("small", "runs/small/dataset"))
    held = set(json.loads(Path("runs/small/dataset/held_out.json").read_text()))
    assert len(held) == content["held_out_items"] and set(rest.item_ids) == set(whole.item_ids) - held
    before = [[whole.item_ids[row] for row in items] for items in whole.sequences]
    after = [[rest.item_ids[row] for row in items] for items in rest.sequences]
    assert [kept for items in before if (kept := [item for item in items if item not in held])] == after
    test = {user: items[:-2] for user, items in zip(whole.user_ids.to_pylist(), before)}
    split = rest.leave_one_out()
    for user, items in zip(rest.user_ids.take(split.users).to_pylist(), split.train):
        trained = [rest.item_ids[row] for row in items]
        assert trained == [item for item in test[user] if item not in held][: len(trained)]

    # The recommender itself gives what the merged lists say.
    tiger = TigerRecommender.from_pretrained("runs/small/model")
    new = [item for item in whole.item_ids if item in held]
    rows = [whole.item_ids.index(item) for item in new]
    tiger.add_items(new, table=whole.items.take(rows))
    split = whole.leave_one_out()
    histories = [[whole.item_ids[row] for row in items] for items in split.test_histories]
    targets = [whole.item_ids[row] for row in split.test_targets]
    answers, _ = tiger.recommend(histories, k=5, num_beams=20, unseen_share=0.2)
    hits = [target in answer for target, answer in zip(targets, answers) if target in held]
    assert found["tiger", 0.2, "unseen"]["recall@5"] == pytest.approx(np.mean(hits), abs=1e-4)

    # Run again, nothing is trained again; with other items held out, nothing is mixed up.
    weights = Path("runs/small/model/model.safetensors").stat().st_mtime_ns
    again = experiment("--epochs", 2, "--shares", 0.3)
    assert len(again["rows"]) == 8 and Path("runs/small/model/model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(DataError, match="about other items"):
        experiment("--seed", 1)
