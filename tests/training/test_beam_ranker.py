"""A click ranker that learns the order of beams, trained from files: what it may see, and what it leaves behind."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from transformers import TrainingArguments

import tiger
from tests.recipes.test_ranking_experiment import write_dataset
from tests.training.test_pipeline import SMALL
from tiger.data.cooccurrence import floored_totals
from tiger.data.dataset import RecommendationData
from tiger.evaluation.training_split import counts_validation
from tiger.recommender.recommender import TigerRecommender
from tiger.training.click_ranker import RankerArguments, train_click_ranker
from tiger.training.evaluation import EvaluationArguments, stages_of
from tiger.training.validation_counts import with_validation_counts
from tiger.utils.errors import DataError


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    tiger.train(
        str(write_dataset(folder / "data", users=120)), folder / "run", **SMALL, steps=["tokenizer", "retriever"]
    )
    return folder


def train_ranker(work: Path, out: Path, dataset: Path | None = None, **changes):
    recommender = TigerRecommender.from_pretrained(work / "run" / "model")
    recommender.save_pretrained(out / "model")
    options = {"features": "unigram", "budget": 64, "d_model": 8, "num_beams": 20, "negatives": "beams"}
    options |= {"beam_epochs": 6, "beam_learning_rate": 1e-2, "beam_hidden": 16} | changes
    args = RankerArguments(
        str(dataset or work / "data"),
        str(work / "run" / "tokenizer"),
        str(out / "ranker"),
        options.pop("recommender", str(out / "model")),
        **options,
    )
    settings = {"report_to": "none", "disable_tqdm": True, "num_train_epochs": 1, "save_strategy": "no"}
    train_click_ranker(args, TrainingArguments(str(out / "training"), use_cpu=True, **settings))
    return out


def shuffle_test_targets(source: Path, target: Path) -> Path:
    """The same log, but that each user's last event is of an item that another user's last event was of."""
    data = RecommendationData.load(source)
    last = data.sequences.offsets[1:] - 1
    log = pq.read_table(source / "interactions.parquet")
    ids = np.array(log["item_id"].to_pylist(), dtype=object)
    assert ids[last[0]] == data.item_ids[data.sequences.items[last[0]]]  # both are in one order
    ids[last] = np.random.default_rng(0).permutation(ids[last])
    target.mkdir()
    (target / "items.parquet").write_bytes((source / "items.parquet").read_bytes())
    table = log.set_column(log.column_names.index("item_id"), "item_id", pa.array(ids.tolist()))
    pq.write_table(table, target / "interactions.parquet")
    return target


def test_test_targets_reach_nothing(work, tmp_path):
    one = train_ranker(work, tmp_path / "one")
    dataset = shuffle_test_targets(work / "data", tmp_path / "shuffled")
    two = train_ranker(work, tmp_path / "two", dataset)
    for name in ("model.safetensors", "totals.safetensors", "config.json"):
        assert (one / "ranker" / name).read_bytes() == (two / "ranker" / name).read_bytes(), name
    reports = [json.loads((folder / "ranker" / "report.json").read_text()) for folder in (one, two)]
    assert reports[0]["beams"] == reports[1]["beams"]
    found = reports[0]["beams"]
    assert 0 < found["with the target"] <= found["lists"] == 70  # others than the 50 that chose the T5
    assert found["held out ndcg@10"][found["epochs"]] == max(found["held out ndcg@10"])


def test_the_saved_recommender_ranks_with_it(work, tmp_path):
    out = train_ranker(work, tmp_path)
    recommender = TigerRecommender.from_pretrained(out / "model")
    has_memory = recommender.memory is not None
    assert recommender.ranker.learned_from == "valid" and recommender.ranker.reads_memory is has_memory
    data = RecommendationData.load(work / "data")
    histories, _ = data.leave_one_out(None).part("test")
    args = EvaluationArguments(num_beams=20, bf16=False)
    by_name = {name: rows for name, rows, _ in stages_of(recommender, histories, args, True)}
    answers, _ = recommender.recommend_rows(histories, k=10, num_beams=20)
    assert np.array_equal(by_name["tiger-ranked"], answers)
    assert "tiger-ranked" not in {name for name, _, _ in stages_of(recommender, histories, args, True, "valid")}
    assert recommender.rank([["i1"]], [["i2", "i3"]])[0][0] in (["i2", "i3"], ["i3", "i2"])
    recommender.add_items(["new"], texts=["soap soap number 7"])
    assert np.isfinite(recommender.recommend([["i1", "new"]], k=5, num_beams=10)[1]).all()
    recommender.remove_items(["i5"])
    assert "i5" not in recommender.recommend([["i1"]], k=10, num_beams=20)[0][0]


@pytest.mark.parametrize("negatives", ["beams", "sampled"])
def test_validation_events_are_counted_again_once_it_is_fitted(work, tmp_path, capsys, negatives):
    recommender = TigerRecommender.from_pretrained(work / "run" / "model")
    data = RecommendationData.load(work / "data")
    split = data.leave_one_out(None)
    plain = train_ranker(work, tmp_path / "plain", negatives=negatives)
    with_validation_counts(recommender, split)
    shutil.copytree(work / "run", tmp_path / "counted" / "run")
    recommender.save_pretrained(tmp_path / "counted" / "run" / "model")
    capsys.readouterr()
    out = train_ranker(tmp_path / "counted", tmp_path / "out", work / "data", negatives=negatives)
    assert capsys.readouterr().out.count("validation events are counted from now on") == 1
    after = TigerRecommender.from_pretrained(out / "model")
    assert counts_validation(after.training) and after.training == recommender.training
    np.testing.assert_array_equal(after.memory.tables.totals, recommender.memory.tables.totals)
    assert after.memory.tables.totals.sum() == floored_totals(split.test_histories, data.num_items).sum()
    for name in ("model.safetensors", "config.json"):  # what it has learned is that without them
        assert (out / "ranker" / name).read_bytes() == (plain / "ranker" / name).read_bytes(), name
    told = [json.loads((one / "ranker" / "report.json").read_text())["counts_validation"] for one in (plain, out)]
    assert told == [False, True]


def test_gated_rows_and_decoded_vectors_from_files(work, tmp_path):
    kind = {"features": "random_hash+unigram+dense_from_codes", "gate": True, "negatives": "sampled"}
    out = train_ranker(work, tmp_path, **kind)
    assert not (out / "ranker" / "dense.safetensors").exists()
    data = RecommendationData.load(work / "data")
    counts = np.bincount(data.leave_one_out(None).train.items, minlength=data.num_items)
    assert counts.min() < 5 < counts.max()
    np.testing.assert_array_equal(load_file(out / "ranker" / "totals.safetensors")["totals"], np.maximum(counts, 5))
    recommender = TigerRecommender.from_pretrained(out / "model")
    ranker, tokenizer = recommender.ranker.ranker, recommender.tokenizer
    assert ranker.config.gate_columns == [0, 1] and ranker.config.dense_dim == tokenizer.quantizer.input_dim
    assert not np.allclose(ranker.gate.slope.detach(), np.log(np.expm1(1)))  # it has learned
    recommender.add_items(["new"], texts=["soap soap number 7"])
    assert np.isfinite(recommender.rank([["i1", "new"]], [["new", "i2"]])[1][0]).all()


def test_what_it_refuses(work, tmp_path):
    with pytest.raises(DataError, match="give --recommender"):
        train_ranker(work, tmp_path, recommender=None)
    with pytest.raises(DataError, match="negatives must be sampled or beams, got 'hard'"):
        train_ranker(work, tmp_path, negatives="hard")
