"""Other data, other settings or another model in place of a run's own are refused, not taken for it."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import TrainingArguments

import tiger
from tests.recipes.test_ranking_experiment import write_dataset
from tests.training.test_pipeline import SIZES, SMALL, changes
from tiger.cli.main import main
from tiger.data.dataset import RecommendationData
from tiger.data.identity import data_digests
from tiger.recommender.manifest import read_manifest
from tiger.training.arguments import read_arguments
from tiger.training.click_ranker import RankerArguments, train_click_ranker
from tiger.training.retriever import RetrieverArguments, train_retriever
from tiger.training.run_record import RunRecord
from tiger.training.run_settings import check_folders, model_settings, recorded_settings, run_settings
from tiger.training.two_stage import TwoStageArguments, train_two_stage
from tiger.utils.errors import DataError

STEPS = ["tokenizer", "retriever"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset, ``data``, and what was trained on it, ``run``."""
    work = tmp_path_factory.mktemp("work")
    tiger.train(str(write_dataset(work / "data")), work / "run", **SMALL, steps=STEPS)
    shutil.copytree(work, f"{work}.kept")
    return work


@pytest.fixture
def work(trained):
    """The same, as it was when it was trained: paths are recorded, so that a copy would be another run."""
    yield trained
    shutil.rmtree(trained)
    shutil.copytree(f"{trained}.kept", trained)


def train(work: Path, steps=STEPS, **settings):
    return tiger.train(str(work / "data"), work / "run", **(SMALL | settings), steps=steps)


def change_titles(work: Path) -> None:
    items = pq.read_table(work / "data" / "items.parquet")
    titles = pa.array(items["title"].to_pylist()[::-1])
    pq.write_table(items.set_column(1, "title", titles), work / "data" / "items.parquet")


def permute_log(folder: Path) -> None:
    """Every event with another item."""
    log = pq.read_table(folder / "interactions.parquet")
    ids = log["item_id"].to_pylist()
    other = dict(zip(sorted(set(ids)), np.random.default_rng(0).permutation(sorted(set(ids))).tolist()))
    items = pa.array([other[item] for item in ids])
    pq.write_table(log.set_column(1, "item_id", items), folder / "interactions.parquet")


def drop_events(source: Path, target: Path, count: int) -> Path:
    """A dataset without each user's last events."""
    data = RecommendationData.load(source)
    stay = np.arange(len(data.sequences.items)) < np.repeat(data.sequences.offsets[1:] - count, data.sequences.lengths)
    table = pq.read_table(source / "interactions.parquet").filter(pa.array(stay))
    target.mkdir()
    shutil.copy(source / "items.parquet", target)
    pq.write_table(table, target / "interactions.parquet")
    assert [len(events) for events in RecommendationData.load(target).sequences] == [8 - count] * 300
    return target


def forget(file: Path, *names: str) -> None:
    """Rewrite a JSON file as an older version wrote it."""
    content = json.loads(file.read_text())
    for name in names:
        content.pop(name)
    file.write_text(json.dumps(content))


def evaluated(capsys, *words, code=0):
    exit_code = 0
    try:
        main(["evaluate", *map(str, words), "--num_beams", "10", "--no_bf16"])
    except SystemExit as stop:
        exit_code = stop.code
    captured = capsys.readouterr()
    assert exit_code == code, captured.err
    return captured


def test_all_that_is_made_of_a_dataset_keeps_its_digests(work):
    data = RecommendationData.load(work / "data")
    expected = data_digests(data, data.leave_one_out())
    assert json.loads((work / "run" / "tokenizer" / "report.json").read_text())["data"] == expected
    run = json.loads((work / "run" / "training" / "run.json").read_text())
    manifest = read_manifest(work / "run" / "model")
    assert run["data"] == expected == manifest["training"]["data"]
    assert run["identity"] == manifest["training"]["run"] and run["finished"]


def test_changed_titles_are_refused_by_every_step(work):
    change_titles(work)
    for step in STEPS:
        with pytest.raises(DataError, match="items.parquet is not what the tokenizer in .* was made from: put back"):
            train(work, [step])
    with pytest.raises(DataError, match="items.parquet is not what the model was made from"):
        train(work, ["two_stage"])
    # Without the tokenizer's record, the run's own.
    forget(work / "run" / "tokenizer" / "report.json", "data")
    (work / "run" / "tokenizer" / "files.json").unlink()
    with pytest.raises(DataError, match="items.parquet is not what the run in .*training was made from: .*--out"):
        train(work)


def test_a_changed_log_is_refused_by_every_step(work):
    before = changes(work / "run")
    permute_log(work / "data")
    for step in STEPS:
        with pytest.raises(DataError, match="training part of interactions.parquet is not what the tokenizer in"):
            train(work, [step])
    for step in ("two_stage", "evaluate"):
        with pytest.raises(DataError, match="training part of interactions.parquet is not what the model"):
            train(work, [step])
    assert changes(work / "run") == before


def test_held_out_events_count_for_a_run_and_not_for_a_tokenizer(work):
    log = pq.read_table(work / "data" / "interactions.parquet")
    last = pa.array([*log["item_id"].to_pylist()[:-1], "i0"])
    pq.write_table(log.set_column(1, "item_id", last), work / "data" / "interactions.parquet")
    train(work, ["tokenizer"])
    with pytest.raises(DataError, match="data: interactions.parquet is not what the run in"):
        train(work, ["retriever"])
    train(work, ["evaluate"])  # a new test of an old model


def test_the_same_data_written_anew_is_no_other(work):
    before = changes(work / "run")
    log = pq.read_table(work / "data" / "interactions.parquet")
    pq.write_table(log, work / "data" / "interactions.parquet", compression="gzip", row_group_size=100)
    train(work)
    assert changes(work / "run") == before


def test_directories_without_digests_are_read(work, capsys):
    forget(work / "run" / "training" / "run.json", "data", "identity", "sha256")
    forget(work / "run" / "tokenizer" / "report.json", "data")
    (work / "run" / "tokenizer" / "files.json").unlink()
    manifest = json.loads((work / "run" / "model" / "tiger.json").read_text())
    del manifest["training"]["data"], manifest["training"]["run"], manifest["settings_sha256"]
    (work / "run" / "model" / "tiger.json").write_text(json.dumps(manifest))
    before = changes(work / "run")
    train(work)
    assert changes(work / "run") == before
    capsys.readouterr()
    shown = evaluated(capsys, work / "run" / "model", work / "data", "--json")
    assert "warning: the model doesn't say what it was trained on" in shown.err
    assert set(json.loads(shown.out)) == {"users", "recall@5", "ndcg@5", "recall@10", "ndcg@10"}


def test_evaluate_refuses_a_log_whose_targets_were_trained_on(work, tmp_path, capsys):
    removed = ("--remove_history", "--json")  # a third of the events repeat: those it knows without having seen them
    own = evaluated(capsys, work / "run" / "model", work / "data", *removed)
    assert "warning" not in own.err and "other_log" not in json.loads(own.out)
    snapshot = drop_events(work / "data", tmp_path / "snapshot", 2)
    refused = evaluated(capsys, work / "run" / "model", snapshot, code=2)
    assert refused.out == "" and len(refused.err.splitlines()) == 1
    assert "the training part of interactions.parquet is not what the model was made from" in refused.err
    assert "--allow-other-log" in refused.err
    allowed = evaluated(capsys, work / "run" / "model", snapshot, "--allow-other-log", *removed)
    found = json.loads(allowed.out)
    assert found["other_log"] is True and found["recall@10"] > json.loads(own.out)["recall@10"]  # it has seen them
    said = evaluated(capsys, work / "run" / "model", snapshot, "--allow-other-log").out.splitlines()
    assert said[0] == "measured on another log than the model was trained on: targets may be what it has seen"
    assert said[1].split() == ["users", "300"]
    # A log that lacks a user's last event alone has another training part as well.
    evaluated(capsys, work / "run" / "model", drop_events(work / "data", tmp_path / "one", 1), code=2)
    # Items that the model has gained since, and users in another order, change nothing.
    recommender = tiger.TigerRecommender.from_pretrained(work / "run" / "model")
    recommender.add_items(["new"], table=[{"title": "soap soap number 7"}])
    recommender.save_pretrained(tmp_path / "grown")
    log = pq.read_table(work / "data" / "interactions.parquet")
    pq.write_table(pa.concat_tables([log.slice(800), log.slice(0, 800)]), work / "data" / "interactions.parquet")
    again = evaluated(capsys, tmp_path / "grown", work / "data", "--json")
    assert "warning" not in again.err and json.loads(again.out)["users"] == 300


def test_rankers_learn_from_the_log_of_their_recommender(work, tmp_path):
    snapshot = str(drop_events(work / "data", tmp_path / "snapshot", 1))
    model, tokenizer = str(work / "run" / "model"), str(work / "run" / "tokenizer")
    with pytest.raises(DataError, match="not what the model was made from"):
        train_two_stage(TwoStageArguments(model, snapshot))
    forget(work / "run" / "tokenizer" / "report.json", "data")  # as of codes that were not learned from a log
    (work / "run" / "tokenizer" / "files.json").unlink()
    training = TrainingArguments(str(tmp_path / "training"), report_to="none")
    with pytest.raises(DataError, match="training part of interactions.parquet is not what .*model was made from"):
        train_click_ranker(RankerArguments(snapshot, tokenizer, str(tmp_path / "ranker"), model), training)
    with pytest.raises(DataError, match="--output_dir .*training lies in --ranker_dir"):
        train_click_ranker(RankerArguments(snapshot, tokenizer, str(tmp_path)), training)


def test_a_finished_run_without_checkpoints_is_finished(work):
    for checkpoint in (work / "run" / "training").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    before = changes(work / "run")
    train(work)
    assert changes(work / "run") == before
    for name, value, told in (
        ("seed", 5, "seed: 0 -> 5"),
        ("max_grad_norm", 0.1, "max_grad_norm: 1.0 -> 0.1"),
        ("adam_beta2", 0.9, "adam_beta2: 0.999 -> 0.9"),
        ("label_smoothing_factor", 0.1, "label_smoothing_factor: 0.0 -> 0.1"),
        ("bf16", True, "bf16: False -> True"),
        ("warmup_steps", 0.5, "warmup_steps: 0.02 -> 0.5"),
        ("metric_for_best_model", "recall@10", "metric_for_best_model: ndcg@10 -> recall@10"),
    ):
        with pytest.raises(DataError, match=told):
            train(work, retriever=SIZES | {name: value})
    train(work, retriever=SIZES | {"logging_steps": 7, "save_total_limit": 1, "per_device_eval_batch_size": 64})
    assert changes(work / "run") == before


@pytest.mark.parametrize(
    "saves", [{"save_only_model": True}, {"save_strategy": "no", "load_best_model_at_end": False, "patience": None}]
)
def test_runs_that_save_no_checkpoints_are_finished_too(work, saves):
    settings = SIZES | saves | {"output_dir": str(work / "other" / "training"), "model_dir": str(work / "other" / "m")}
    train(work, retriever=settings)
    assert json.loads((work / "other" / "training" / "run.json").read_text())["finished"]
    before = changes(work / "other")
    train(work, retriever=settings)
    with pytest.raises(DataError, match="seed: 0 -> 5"):
        train(work, retriever=settings | {"seed": 5})
    assert changes(work / "other") == before


def test_another_runs_model_is_not_taken_for_that_of_a_finished_run(work, capsys):
    other = SIZES | {"seed": 5, "output_dir": str(work / "run" / "training5")}
    train(work, retriever=other)
    assert "model holds the model of another run, which this training will replace" in capsys.readouterr().out
    assert read_manifest(work / "run" / "model")["training"]["seed"] == 5
    with pytest.raises(DataError, match="model holds the model of another run than .*training, which is finished"):
        train(work)
    shutil.rmtree(work / "run" / "model")
    train(work)  # from its last checkpoint
    assert read_manifest(work / "run" / "model")["training"]["seed"] == 0


def test_folders_in_each_other_are_refused_before_training(work, tmp_path):
    settings = {"dataset": str(work / "data"), "tokenizer": str(work / "run" / "tokenizer"), "report_to": "none"}
    for output, model, told in (
        ("a", "a", "lies in --model_dir"),
        ("a/training", "a", "lies in --model_dir"),
        ("a", "a/checkpoint-5", "where checkpoints and logs"),
        ("a", "a/runs/model", "where checkpoints and logs"),
    ):
        folders = {"output_dir": str(tmp_path / output), "model_dir": str(tmp_path / model)}
        with pytest.raises(DataError, match=told):
            train_retriever(*read_arguments([RetrieverArguments, TrainingArguments], settings | folders))
    assert list(tmp_path.iterdir()) == []
    check_folders("a", "a/model", "tokenizer", "model_dir")  # nothing of it is written over
    check_folders("ab", "a", "abc", "model_dir")
    with pytest.raises(DataError, match="--model_dir t/m lies in the tokenizer's folder t"):
        check_folders("a", "t/m", "t", "model_dir")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="lies in --model_dir"):
        check_folders(tmp_path / "link" / "m", tmp_path / "m", "t", "model_dir")


def test_settings_on_which_a_model_depends(tmp_path):
    training = TrainingArguments(str(tmp_path), report_to="none", adam_epsilon=1e-6, eval_steps=5)
    settings = model_settings(training)
    assert {"adam_beta1", "adam_beta2", "max_grad_norm", "fp16", "data_seed", "lr_scheduler_kwargs"} <= set(settings)
    assert not {"output_dir", "logging_steps", "hub_token", "ddp_timeout", "eval_steps", "use_cpu"} & set(settings)
    assert settings["adam_epsilon"] == 1e-6 and settings["lr_scheduler_type"] == "linear"
    assert json.loads(json.dumps(settings)) == settings
    assert model_settings(training, choosing=True)["eval_steps"] == 5
    recorded = recorded_settings(training)
    assert recorded["adam_epsilon"] == 1e-6 and recorded["seed"] == 42
    assert not {"adam_beta1", "accelerator_config", "eval_steps"} & set(recorded)
    args = RetrieverArguments("d", "t", "m", patience=3)
    assert run_settings(args, training, events=4)["eval_steps"] == 5
    assert "model_dir" not in run_settings(args, training) and run_settings(args, training, events=4)["events"] == 4


def test_what_older_records_lack_is_not_compared(tmp_path):
    record = RunRecord(tmp_path, {"seed": 1}, data={"items": "a"})
    record.finish()
    assert RunRecord(tmp_path, {"seed": 1, "max_grad_norm": 1.0}, data={"items": "a", "train": "b"}).finished
    with pytest.raises(DataError, match="items.parquet is not what the run in"):
        RunRecord(tmp_path, {"seed": 1}, data={"items": "c"})
    with pytest.raises(DataError, match="seed: 1 -> 2"):
        RunRecord(tmp_path, {"seed": 2}, data={"items": "a"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = RunRecord(tmp_path / "new", {"seed": 2}, data={"items": "c"})
    assert not other.finished and other.identity != record.identity and other.finished_as is None
    other._write(finished=False)
    assert not RunRecord(tmp_path / "new", {"seed": 2}).finished
    with pytest.raises(DataError, match="its data can't be"):
        (tmp_path / "run.json").write_text(json.dumps({"settings": {}, "seconds": 1, "finished": True, "data": [1]}))
        RunRecord(tmp_path, {"seed": 1})


def test_a_run_of_an_earlier_recipe_is_gone_on_with_by_its_settings(work, capsys):
    """Its record leaves the softmax open and lacks what there was not yet: it was trained without both."""
    plain = SMALL["retriever"] | {"output_softmax": "children", "recent_items": 0}
    shutil.rmtree(work / "run")
    train(work, retriever=plain)
    file = work / "run" / "training" / "run.json"
    record = json.loads(file.read_text())
    record.pop("sha256")
    assert record["settings"]["output_softmax"] == "children"
    record["settings"]["output_softmax"] = None
    record["settings"].pop("recent_items")
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match="recent_items: 0 -> 32.*retriever.NAME=VALUE") as error:
        train(work)
    assert "output_softmax: children -> items" in str(error.value)
    train(work, retriever=plain)
    assert "is a finished run" in capsys.readouterr().out
