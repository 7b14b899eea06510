"""Several catalogs in one dataset, shares of users, and what results of such runs are drawn from."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from recipes.experiments import scaling
from recipes.paper import together
from recipes.paper.runs import Run
from recipes.tables import rows_of
from tests.conftest import make_model, write_tables
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.retriever import some_users
from tiger.utils.errors import DataError

SIZES = {"tents": 12, "toys": 20}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two data sets with the same ids of users, and of some items."""
    folder, random = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for name, size in SIZES.items():
        events = [
            (f"u{user}", f"i{item}", 10 * time)
            for user in range(9)
            for time, item in enumerate(random.integers(size, size=5))
        ]
        columns = {"item_id": [f"i{row}" for row in range(size)], "title": [f"{name} {row}" for row in range(size)]}
        write_tables(folder / name, columns | ({"price": [1.5] * size} if name == "toys" else {}), events)
    return [folder / name for name in SIZES]


@pytest.fixture(scope="module")
def built(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "both"
    files = [folder.parent / f"{name}.safetensors" for name in SIZES]
    for number, (file, size) in enumerate(zip(files, SIZES.values())):
        save_file({"embeddings": np.full((size, 3), number, dtype=np.float32)}, file)
    run("build", "--sets", *sets, "--out", folder, "--embeddings", *files)
    return folder


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["together.py", *map(str, words)])
        together.main()


def test_ids_say_their_set(built, sets):
    data = RecommendationData.load(built)
    assert data.num_items == 32 and data.item_ids[0] == "tents:i0" and data.item_ids[-1] == "toys:i19"
    assert sorted(data.user_ids.to_pylist()) == sorted(f"{name}:u{user}" for name in SIZES for user in range(9))
    assert data.items["price"].null_count == 12
    own = RecommendationData.load(sets[1])
    user = data.user_ids.to_pylist().index("toys:u4")
    assert (data.sequences[user] == 12 + own.sequences[own.user_ids.to_pylist().index("u4")]).all()
    assert load_file(built / "embeddings.safetensors")["embeddings"][:, 0].tolist() == [0] * 12 + [1] * 20
    with pytest.raises(DataError, match="of folders with different names"):
        run("build", "--sets", sets[0], sets[0], "--out", built.parent / "twice")


def test_each_set_is_measured_on_its_users(built, sets, tmp_path):
    data = RecommendationData.load(built)
    codes = np.random.default_rng(0).integers(0, 8, (32, 2))
    tokenizer = SemanticIdTokenizer(codes, data.item_ids, 8)
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, training={"seed": 3})
    tiger.save_pretrained(tmp_path / "model")
    words = ["--dataset", built, "--model", tmp_path / "model", "--results_dir", tmp_path / "results"]
    run("evaluate", "--sets", *sets, *words, "--num_beams", 32)
    for name in SIZES:
        rows = rows_of(tmp_path / "results" / name)
        assert set(rows) == {"tiger-together", "tiger-together-restricted"}
        whole, part = (rows[model]["as published, history removed"] for model in sorted(rows))
        assert whole["dataset"] == name and whole["seeds"] == [3]
        split, chosen = together.part_of(data, data.leave_one_out(), name)
        with torch.autocast("cpu", torch.bfloat16):
            answers, _ = tiger.recommend_rows(split.test_histories, k=32, num_beams=32)
        kept = [[row for row in found if row >= 0 and chosen[row]] for found in answers.tolist()]
        for row, lists in ((whole, answers.tolist()), (part, kept)):
            hits = np.mean([target in found[:10] for target, found in zip(split.test_targets, lists)])
            assert row["metrics"]["recall@10"] == pytest.approx(hits, abs=1e-5)
    split, chosen = together.part_of(data, data.leave_one_out(), "tents")
    assert len(split.users) == 9 and chosen.sum() == 12 and split.train.items.max() < 12
    with pytest.raises(DataError, match="has no items or users of boats"):
        together.part_of(data, data.leave_one_out(), "boats")


def test_a_run_of_several_sets_is_measured_on_each(tmp_path):
    run = Run("x", {"set": "together", "parts": ["a", "b"], "evaluate": True, "d_model": 8}, tmp_path, [])
    assert run.facts() == {"set": "together", "settings": {"d_model": 8}}
    training, measuring = run._commands
    assert "--d_model" in training and "--parts" not in training
    assert measuring[1:5] == ["evaluate", "--sets", "a", "b"] and measuring[0].endswith("together.py")


def test_shares_of_users_hold_each_other():
    sequences = Sequences.from_rows([np.arange(1 + user % 4) for user in range(400)])
    parts = {share: some_users(sequences, share, seed=1) for share in (0.125, 0.25, 0.5, 1)}
    assert parts[1] is sequences
    assert [len(part) for part in parts.values()] == [38, 75, 150, 400]  # of 300 users who have a target
    assert all((part.lengths > 1).all() for share, part in parts.items() if share < 1)
    named = Sequences(
        sequences.offsets, np.repeat(np.arange(400), sequences.lengths).astype(np.int32), sequences.timestamps
    )
    kept = {share: set(some_users(named, share, seed=1).items) for share in (0.125, 0.25, 0.5)}
    assert kept[0.125] < kept[0.25] < kept[0.5]
    assert kept[0.25] == set(some_users(named, 0.25, seed=1).items) != set(some_users(named, 0.25, seed=2).items)
    for share in (0, 1.5):
        with pytest.raises(DataError, match="train_share must be above 0"):
            some_users(sequences, share, 0)


def made_results():
    """Loss 4 / targets ** .5 by share of users; two widths; a run on two axes; one that was never evaluated."""
    common = {"num_train_epochs": 40, "per_device_train_batch_size": 100}
    changes = {
        "base": {},
        "users-half": {"train_share": 0.5},
        "users-quarter": {"train_share": 0.25},
        "users-quarter-steps": {"train_share": 0.25, "num_train_epochs": 160},
        "width-64": {"d_model": 64},
        "epochs-20": {"num_train_epochs": 20},
        "dropout-0": {"dropout_rate": 0.0},
        "epochs-80": {"num_train_epochs": 80},
    }
    facts = {
        name: {"set": "beauty", "settings": common | change, "parameters": 1000} for name, change in changes.items()
    }
    facts["width-64"]["parameters"] = 300
    runs = {}
    for name, fact in facts.items():
        targets, epochs = 10_000 * fact["settings"].get("train_share", 1), fact["settings"]["num_train_epochs"]
        row = {"epoch": epochs, "step": targets / 100 * epochs, "eval_loss": 4 / targets**0.5, "eval_ndcg@10": 0.04}
        worse = row | {"epoch": epochs / 2, "step": row["step"] / 2, "eval_loss": 9.0, "eval_ndcg@10": 0.01}
        runs[name] = [worse, {"epoch": epochs / 2, "loss": 1.0}, row]
    runs["epochs-80"] = []
    return {"runs": runs, "facts": facts}


def test_a_run_is_on_the_axis_of_its_one_change(tmp_path, monkeypatch, capsys):
    content = made_results()
    targets = scaling.lines_of(content, "training targets")
    assert [(point["run"], point["x"]) for point in targets["as many epochs"]] == [
        ("users-quarter", 2500),
        ("users-half", 5000),
        ("base", 10000),
    ]
    assert [point["run"] for point in targets["as many steps"]] == ["users-quarter-steps", "base"]
    assert scaling.exponent(targets["as many epochs"]) == pytest.approx(-0.5)
    (line,) = scaling.lines_of(content, "parameters").values()
    assert [(point["run"], point["x"]) for point in line] == [("width-64", 300), ("base", 1000)]
    (line,) = scaling.lines_of(content, "epochs").values()
    assert [point["run"] for point in line] == ["epochs-20", "base"]
    for name, part in (("curves", "runs"), ("facts", "facts")):
        (tmp_path / f"{name}.json").write_text(json.dumps(content[part]))
    monkeypatch.setattr("sys.argv", ["scaling.py", str(tmp_path), "--out", str(tmp_path / "out")])
    scaling.main()
    assert "loss falls as x to the power of 0.500" in capsys.readouterr().out
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 10_000
    again = scaling.read(tmp_path / "out" / "scaling.json")
    assert again == content
    with pytest.raises(DataError, match="no run `base`"):
        scaling.lines_of({"runs": {}, "facts": {}}, "epochs")
    (tmp_path / "old.json").write_text('{"runs": {}}')
    with pytest.raises(DataError, match="has no facts"):
        scaling.read(tmp_path / "old.json")
