"""A training that runs out of patience ends at the same step, interrupted or not."""

from __future__ import annotations

import json

import pytest
from transformers import TrainerCallback, TrainingArguments

import tiger.training.retriever as module
from tests.training.test_pipeline import SIZES
from tests.training.test_report import write_log
from tiger.training.arguments import read_arguments
from tiger.training.patience import evaluations_since_best
from tiger.training.retriever import RetrieverArguments, train_retriever
from tiger.training.tokenizer import TokenizerArguments, train_tokenizer


class Interrupt(TrainerCallback):
    """Ctrl-C when the checkpoint of the third epoch is written."""

    def on_save(self, args, state, control, **kwargs):
        if round(state.epoch) == 3:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patience")
    data = str(write_log(folder / "data", repeats=0.0, users=40))
    sizes = {"embedding_dim": 8, "codebook_size": 8, "num_codebooks": 2}
    codes = {"encoder": "lsa", "quantizer": "residual-kmeans", "output_dir": str(folder / "tokenizer")}
    train_tokenizer(TokenizerArguments(dataset=data, **codes, **sizes))
    return folder


def train(folder, name: str) -> dict:
    """Train for twelve epochs at most, of which none improves the first; the Trainer's log and the model's record."""
    saves = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2, "eval_beams": 10}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "ndcg@10", "greater_is_better": True}
    steps = {"num_train_epochs": 12, "patience": 3, "learning_rate": 0.0, "per_device_train_batch_size": 512}
    places = {"dataset": str(folder / "data"), "tokenizer": str(folder / "tokenizer")}
    places |= {"model_dir": str(folder / name / "model"), "output_dir": str(folder / name / "training")}
    train_retriever(*read_arguments([RetrieverArguments, TrainingArguments], SIZES | saves | best | steps | places))
    log = json.loads((folder / name / "training" / "trainer_state.json").read_text())
    return {"log": log, "record": json.loads((folder / name / "model" / "tiger.json").read_text())["training"]}


def test_an_interrupted_training_ends_where_another_does(folder, monkeypatch):
    expected = train(folder, "whole")
    assert expected["log"]["epoch"] == 4  # the first is the best, and three are none the better

    with monkeypatch.context() as during:  # in the midst of the training
        make = module.retriever_trainer
        during.setattr(module, "retriever_trainer", lambda *given: make(*given[:-1], [*given[-1], Interrupt()]))
        with pytest.raises(KeyboardInterrupt):
            train(folder, "cut")
    with monkeypatch.context() as during:  # when it is over, while the recommender is made

        def interrupt(*given):
            raise KeyboardInterrupt

        during.setattr(module, "_recommender", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(folder, "late")
    for name in ("cut", "late"):
        found = train(folder, name)
        evaluations = [[row for row in one["log"]["log_history"] if "eval_loss" in row] for one in (found, expected)]
        assert [row["step"] for row in evaluations[0]] == [row["step"] for row in evaluations[1]]
        differing = {key for key in expected["record"] if found["record"].get(key) != expected["record"][key]}
        assert differing <= {"seconds", "arguments", "run", "memory"}
        arguments = found["record"]["arguments"], expected["record"]["arguments"]
        assert {key for key in arguments[1] if arguments[0].get(key) != arguments[1][key]} <= {"model_dir"}


@pytest.mark.parametrize(
    ("values", "greater", "since"), [([1, 3, 2, 3], True, 2), ([3, 1, 2], False, 1), ([], True, 0)]
)
def test_evaluations_since_the_best(tmp_path, values, greater, since):
    args = TrainingArguments(str(tmp_path), metric_for_best_model="eval_loss", greater_is_better=greater, report_to=[])
    log = [{"loss": 0.0}, *({"eval_loss": value} for value in values)]
    assert evaluations_since_best(log, args) == since
