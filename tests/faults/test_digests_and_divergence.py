"""Damage to tokenizers and checkpoints is named; weights that are no numbers go nowhere."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import make_recommender, make_tokenizer
from tests.retriever.test_trainer import make_trainer
from tests.training.test_run_record import write_checkpoint
from tiger.data.sequences import Sequences
from tiger.evaluation.evaluator import evaluate
from tiger.training.run_record import RunRecord, last_whole_checkpoint
from tiger.utils.digests import check_digests, write_digests
from tiger.utils.errors import DataError


def test_a_tokenizer_with_a_flipped_bit(tmp_path):
    make_tokenizer(40).save_pretrained(tmp_path)
    assert not check_digests(tmp_path)
    write_digests(tmp_path)
    assert check_digests(tmp_path)
    file = tmp_path / "semantic_ids.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="semantic_ids.safetensors is not as saved"):
        check_digests(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="lacks semantic_ids.safetensors"):
        check_digests(tmp_path)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, name):
    record = RunRecord(tmp_path, {})
    paths = []
    for step in (5, 10):
        paths.append(write_checkpoint(tmp_path, step))
        for part in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"):
            (tmp_path / f"checkpoint-{step}" / part).write_bytes(b"content")
        record.on_save(None, SimpleNamespace(is_world_process_zero=True, global_step=step), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert last_whole_checkpoint(tmp_path) == paths[1]
    damaged = tmp_path / "checkpoint-10" / name
    for damage in (lambda: damaged.write_bytes(b"contenu"), lambda: damaged.write_bytes(b""), damaged.unlink):
        damage()
        with pytest.warns(UserWarning, match=f"checkpoint-10.*{name}"):
            assert RunRecord(tmp_path, {}).checkpoint == paths[0]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    tiger = make_recommender(40)
    tiger.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    for value in (np.nan, np.inf, 1e30):
        with torch.no_grad():
            tiger.model.shared.weight[3, 2] = value
        with pytest.raises(DataError, match="shared.weight are NaN, infinite"):
            tiger.save_pretrained(tmp_path / "model")
        with pytest.raises(DataError, match="nothing is pushed: weights of shared.weight are NaN, infinite"):
            tiger.push_to_hub("me/tiger")  # told before the Hub is asked
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_weights_that_are_no_numbers_are_not_measured():
    tiger, histories = make_recommender(40), Sequences.from_rows([[1, 2], [3]])
    assert evaluate(tiger.recommend_rows, histories, np.array([3, 4])).metrics
    with torch.no_grad():
        tiger.model.shared.weight[3, 2] = np.nan
    with pytest.raises(DataError, match="the model scores items NaN: .*lower learning rate"):
        evaluate(tiger.recommend_rows, histories, np.array([3, 4]))


def test_training_stops_where_the_loss_is_no_number(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=30, learning_rate=1e20)
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step \d+: .*Lower --learning_rate"):
        trainer.train()


@pytest.mark.parametrize("noticed", ["logging_steps", "save_steps"])
def test_on_an_accelerator_it_stops_at_the_next_log_or_save(tmp_path, noticed):
    """The host reads the note there alone, and still names the step."""
    every = {"logging_steps": 1000, "save_steps": 1000} | {noticed: 10}
    every |= {"eval_strategy": "no", "load_best_model_at_end": False}  # an evaluation is a log, too
    trainer = make_trainer(tmp_path, max_steps=30, learning_rate=1e20, **every)
    trainer._reads_every_step = False
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step [1-9]: "):
        trainer.train()
    assert trainer.state.global_step == 10 and not list(tmp_path.rglob("checkpoint-*"))
