"""The recipes as a user runs them: one process after another, over files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.demo import write_demo
from recipes.tables import ROOT, ranking_summary, results_tables, slices_table, summary_table, updated
from tests.processes import run_python
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import next_item_metrics
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.run_record import last_whole_checkpoint

SMALL = (
    "--d_model 32 --d_kv 16 --num_heads 2 --d_ff 64 --num_layers 1 --eval_users 200 --eval_beams 10 --logging_steps 20"
).split()


def run(*command, expect=0):
    """Run a Python command from the root, as the Makefile does."""
    done = run_python(*command)
    assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A small demo catalogue with its tokenizer."""
    folder = tmp_path_factory.mktemp("work")
    write_demo(demo(folder), num_items=300, num_users=600, seed=0)
    run(
        *("recipes/tokenizer.py", "recipes/demo-full/tokenizer.yaml", "--codebook_size", 32),
        *("--dataset", demo(folder), "--output_dir", folder / "tokenizer"),
    )
    return folder


def demo(work):
    return work / "datasets" / "demo"


def train(work, name, *options, launcher=(), expect=0):
    return run(
        *launcher,
        *("recipes/retriever.py", "recipes/demo-full/retriever.yaml"),
        *("--dataset", demo(work), "--tokenizer", work / "tokenizer"),
        *("--model_dir", work / name / "model", "--output_dir", work / name / "training", *SMALL, *options),
        expect=expect,
    )


@pytest.fixture(scope="module")
def trained(work):
    train(work, "one", "--num_train_epochs", 3)
    return work / "one" / "model"


def test_tokenizer_recipe_reports_what_it_made(work):
    report = json.loads((work / "tokenizer" / "report.json").read_text())
    assert report["num_items"] == 300 and report["encoder"].startswith("lsa")
    assert min(report["codes_used"]) > 24 and 0 <= report["collision_share"] < 1
    assert (work / "tokenizer" / "code_usage.png").read_bytes()[1:4] == b"PNG"


def test_a_new_process_recommends_from_the_saved_model(work, trained):
    ids = RecommendationData.load(demo(work)).item_ids
    done = run("-m", "tiger.cli", "recommend", trained, "--history", *ids[:3], "-k", 10, "--json")
    answer = json.loads(done.stdout)
    assert list((trained.parent / "training").rglob("events.out.tfevents.*"))
    assert len(answer) == 10 and {row["item_id"] for row in answer} <= set(ids[3:])
    assert all(row["title"] for row in answer)


def test_evaluation_beside_the_baselines(work, trained):
    done = run(
        *("recipes/evaluate.py", "recipes/demo/evaluate.yaml", "--dataset", demo(work), "--models", trained),
        *("--results_dir", work / "results", "--num_beams", 20),
    )
    assert "recommended:" in done.stdout and "hybrid" in done.stdout
    results = {path.stem: json.loads(path.read_text()) for path in (work / "results").iterdir()}
    assert set(results) == {*("popularity", "transition", "content", "hybrid", "hybrid-with-validation"), "tiger"}
    assert {row["setting"] for row in results["hybrid"]} == {
        f"{ties}, history {history}" for ties in ("as published", "ties shuffled") for history in ("removed", "kept")
    }
    row = results["tiger"][0]
    assert row["setting"] == "as published, history removed" and row["empty_places"] == 0
    # The same by hand.
    data = RecommendationData.load(demo(work))
    split = data.leave_one_out()
    answers, _ = TigerRecommender.from_pretrained(trained).recommend_rows(split.test_histories, num_beams=20)
    recall = float(np.mean((answers == split.test_targets[:, None]).any(1)))
    assert abs(row["metrics"]["recall@10"] - recall) < 0.02  # the recipe decodes in bfloat16


def test_a_ranker_is_trained_into_a_recommender(work, trained):
    own = work / "with-ranker"
    shutil.copytree(trained, own)
    command = [
        *("recipes/ranker.py", "recipes/demo/ranker.yaml", "--dataset", demo(work), "--report_to", "none"),
        *("--tokenizer", work / "tokenizer", "--ranker_dir", work / "ranker"),
        *("--output_dir", work / "ranker-training", "--features", "unigram+dense", "--d_model", 16),
        *("--per_device_train_batch_size", 64),
    ]
    done = run(*command, "--recommender", own)
    assert "now ranks with it" in done.stdout
    assert json.loads((work / "ranker" / "report.json").read_text())["validation"]["eval_auc"] > 0.6
    data = RecommendationData.load(demo(work))
    history = [[data.item_ids[row] for row in next(iter(data.leave_one_out().train))]]
    tiger = TigerRecommender.from_pretrained(own)
    ranked, both = tiger.recommend(history, k=5, num_beams=20, both_scores=True)
    (proposed,), _ = tiger.recommend(history, k=20, num_beams=20, rank=False)
    assert (np.diff(both[0, :, 1]) <= 0).all() and set(ranked[0]) <= set(proposed)
    done = run("-m", "tiger.cli", "rank", own, "--history", *history[0], "--candidates", *ranked[0], "--json")
    orders = [[row["item_id"] for row in json.loads(done.stdout)], tiger.rank(history, ranked)[0][0]]
    assert orders[0] == orders[1] and set(orders[0]) == set(ranked[0])  # by the ranker alone: the T5 is not asked
    other = run(*command, "--recommender", own, "--shuffle_ties", 3, expect=2)
    assert "was trained with shuffle_ties None" in other.stderr


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(work, trained):
    before = (trained / "model.safetensors").stat().st_mtime
    assert "is a finished run" in train(work, "one", "--num_train_epochs", 3).stdout
    assert (trained / "model.safetensors").stat().st_mtime == before
    done = train(work, "one", "--num_train_epochs", 3, "--learning_rate", "1e-4", expect=2)
    assert "other settings" in done.stderr and "learning_rate: 0.002 -> 0.0001" in done.stderr
    done = train(work, "one", "--model_dir", work, expect=2)
    assert "would be lost" in done.stderr and (demo(work)).is_dir()


def test_two_processes_train_one_model(work):
    # `--multi_gpu` is how `accelerate launch` spells several processes; the recipe itself sees that there is no GPU.
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1)
    launcher += ("--num_cpu_threads_per_process", 1, "--mixed_precision", "no", "--main_process_port", 0)
    options = ("--max_steps", 60, "--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", 20)
    options += ("--save_steps", 20, "--dropout_rate", 0, "--bf16", "false", "--eval_users", 151)
    train(work, "two", *options, "--per_device_train_batch_size", 64, launcher=launcher)
    train(work, "alone", *options, "--per_device_train_batch_size", 128)

    two, alone = (
        json.loads((work / name / "training" / "checkpoint-60" / "trainer_state.json").read_text())
        for name in ("two", "alone")
    )
    # Batches of 64 on each of two processes or of 128 on one hold other users, but teach as much.
    found, expected = ([row["eval_loss"] for row in log["log_history"] if "eval_loss" in row] for log in (two, alone))
    np.testing.assert_allclose(found, expected, rtol=0.03)
    assert two["epoch"] == pytest.approx(alone["epoch"], rel=0.05)

    # What two processes measured together, on 151 users, is what one measures.
    tiger = TigerRecommender.from_pretrained(work / "two" / "model")
    assert tiger.training["processes"] == 2
    split = RecommendationData.load(demo(work)).leave_one_out()
    users = EvaluationExamples(split.valid_histories, split.valid_targets).sample(151)
    answers, _ = tiger.recommend_rows(users.histories, k=10, num_beams=10)
    assert next_item_metrics(answers, users.targets)["ndcg@10"] == pytest.approx(two["best_metric"], abs=1e-6)


def test_mistakes_are_told_in_a_line(work):
    done = run("recipes/retriever.py", "recipes/demo-full/retriever.yaml", "--learning_rat", "1", expect=2)
    assert "Did you mean 'learning_rate'" in done.stderr and "Traceback" not in done.stderr
    done = run("recipes/tokenizer.py", "recipes/demo-full/tokenizer.yaml", "--dataset", work / "nowhere", expect=2)
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr
    write_demo(work / "other", num_items=120, num_users=50, seed=1)
    done = train(work, "wrong", "--dataset", work / "other", expect=2)
    assert "has other items" in done.stderr


def test_a_tokenizer_fitted_anew_does_not_go_on_with_old_weights(work, trained, tmp_path):
    run(
        *(
            "recipes/tokenizer.py",
            "recipes/demo-full/tokenizer.yaml",
            "--codebook_size",
            32,
            "--quantizer",
            "residual-kmeans",
        ),
        *("--dataset", demo(work), "--output_dir", tmp_path / "tokenizer"),
    )
    done = train(work, "one", "--num_train_epochs", 3, "--tokenizer", tmp_path / "tokenizer", expect=2)
    assert "semantic_ids: " in done.stderr


def test_tables_of_the_pages_are_those_of_the_results_files():
    readme = (ROOT / "README.md").read_text()
    results = ROOT / "recipes" / "results"
    assert readme == updated(readme, "summary", summary_table(results))
    page = (ROOT / "docs" / "results.md").read_text()
    assert page == updated(page, "results", results_tables(results))
    assert page == updated(page, "ranking", ranking_summary(results))
    assert page == updated(page, "slices", slices_table(results))


def test_example_of_the_parts_of_training_runs_as_pasted(work, trained, tmp_path):
    (code,) = re.findall(r"```python\n(# Train.*?)```", (ROOT / "docs" / "extend.md").read_text(), flags=re.S)
    script = tmp_path / "example.py"
    script.write_text(code)
    done = run_python(script, cwd=work)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (work / "my-tiger" / "tiger.json").exists()


def test_files_of_the_page_can_be_read_and_are_too_few_to_train_on(tmp_path):
    (code,) = re.findall(r"```python\n(from pathlib.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.S)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    mine = tmp_path / "datasets" / "written"
    assert RecommendationData.load(mine).num_items == 3
    done = run(
        *("recipes/pipeline.py", "recipes/default", "--dataset", mine, "--out", tmp_path / "run"),
        *("--steps", "tokenizer", "retriever"),
        expect=2,
    )
    assert "leaves nothing to train on" in done.stderr and "Traceback" not in done.stderr


def test_on_a_slice_of_beauty(shared_data, work, tmp_path):
    """The same recipes on real data: the users of the first events, and the items that they touched."""
    source = shared_data / "amazon" / "beauty"
    log = pq.read_table(source / "interactions.parquet").slice(0, 6000)
    items = pq.read_table(source / "items.parquet")
    kept = set(log["item_id"].to_pylist())
    items = items.filter([item in kept for item in items["item_id"].to_pylist()])
    (tmp_path / "beauty").mkdir()
    pq.write_table(log, tmp_path / "beauty" / "interactions.parquet")
    pq.write_table(items, tmp_path / "beauty" / "items.parquet")
    run(
        *("recipes/tokenizer.py", "recipes/demo-full/tokenizer.yaml", "--quantizer", "residual-kmeans"),
        *("--dataset", tmp_path / "beauty", "--output_dir", tmp_path / "tokenizer"),
    )
    train(tmp_path, "run", "--dataset", tmp_path / "beauty", "--num_train_epochs", 2, "--logging_steps", 5)
    done = run(
        *("recipes/evaluate.py", "recipes/beauty/evaluate.yaml", "--dataset", tmp_path / "beauty"),
        *("--models", tmp_path / "run" / "model", "--results_dir", tmp_path / "results", "--num_beams", 20),
    )
    assert "tiger" in done.stdout
    names = ("hybrid", "popularity", "tiger")
    hybrid, popularity, model = (json.loads((tmp_path / "results" / f"{name}.json").read_text())[0] for name in names)
    assert hybrid["metrics"]["ndcg@10"] > popularity["metrics"]["ndcg@10"]
    assert model["empty_places"] == 0
    state = json.loads(Path(last_whole_checkpoint(tmp_path / "run" / "training"), "trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert losses[-1] < losses[0] - 0.3  # two passes over 600 users teach little, but they teach
    tiger = TigerRecommender.from_pretrained(tmp_path / "run" / "model")
    answers, scores = tiger.recommend([items["item_id"].to_pylist()[:2]])
    assert set(answers[0]) <= kept and np.isfinite(scores).all()


def test_one_command_for_a_dataset_of_ones_own(work):
    small = [f"retriever.{pair[2:]}={value}" for pair, value in zip(SMALL[::2], SMALL[1::2])]
    command = [
        *("recipes/pipeline.py", "recipes/default", "--dataset", demo(work), "--out", work / "own"),
        *("--set", *small, "retriever.num_train_epochs=1", "retriever.min_steps=0", "two_stage.max_trees=20"),
        *("two_stage.num_beams=10", "two_stage.keep=trees", "evaluate.num_beams=10"),
    ]
    done = run(*command)
    assert "two-stage" in done.stdout
    results = json.loads((work / "own" / "results" / "two-stage-with-validation.json").read_text())
    assert all("p against hybrid-with-validation" in row["over users"] for row in results)
    shown = {row["setting"]: row["metrics"] for row in results}
    assert 0 < shown["as published, history removed"]["ndcg@10"] <= 1
    tiger = TigerRecommender.from_pretrained(work / "own" / "model")
    assert tiger.ranker.record["trees"][0] >= 1 and tiger.tokenizer.codebook_size == 64
    assert tiger.add_items(["brand new"], table=[{"title": "A tent for two"}]) == ["brand new"]
    # By texts or vectors alone, of which the item table keeps nothing; their texts may change all the same.
    assert tiger.add_items(["by text"], ["A tent for three"]) == ["by text"]
    assert tiger.add_items(["by vector"], embeddings=tiger.embed_items(["x"], ["A lamp"])) == ["by vector"]
    tiger.update_items(["by text", "by vector"], table=[{"title": "A stove"}, {"title": "A pan"}])
    assert len(tiger.recommend([[], ["by text"], ["by vector", "brand new"]], k=5)[0][0]) == 5
    report = run("-m", "tiger.cli", "evaluate", work / "own" / "model", demo(work), "--part", "valid", "--json")
    assert "learned from validation items" in report.stderr and json.loads(report.stdout)["recall@10"] < 1
    other = run(*command[:-1], "tokenizer.seed=3", "--steps", "tokenizer", expect=2)
    assert "fitted with other settings" in other.stderr
    wrong = run(*command[:-1], "twostage.num_beams=10", expect=2)
    assert "give step.key=value" in wrong.stderr
