import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, T5ForConditionalGeneration, TrainingArguments, set_seed

from tests.conftest import make_model, make_tokenizer
from tiger.data.sequences import Sequences
from tiger.recommender.trainer import TigerTrainer
from tiger.retriever.config import check_pair, t5_config
from tiger.retriever.dataset import EvaluationExamples, LengthBatchSampler, TrainingExamples
from tiger.retriever.model import TigerT5, next_item_loss
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]


def cycle_data(num_users=120, num_items=12, seed=0):
    """Users who walk round a circle of items: what follows is certain."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    starts = np.repeat(random.integers(0, num_items, num_users), lengths)
    items = ((starts + np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)) % num_items).astype(np.int32)
    return Sequences(offsets, items, np.zeros(len(items), dtype=np.int64))


def make_trainer(folder, **settings):
    set_seed(settings.get("seed", 0))
    sequences, tokenizer = cycle_data(), make_tokenizer(12)
    options = {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "learning_rate": 3e-3,
        "max_steps": 30,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "save_strategy": "steps",
        "save_steps": 10,
        "metric_for_best_model": "ndcg@10",
        "load_best_model_at_end": True,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TigerTrainer(
        model=make_model(tokenizer, d_model=32, dropout_rate=0.1),
        args=TrainingArguments(str(folder), **{**options, **settings}),
        train_dataset=TrainingExamples(sequences.drop_last(1)),
        eval_dataset=EvaluationExamples(sequences.drop_last(1), sequences.items[sequences.offsets[1:] - 1]),
        processing_class=tokenizer,
        num_beams=12,
        exclude_history=False,
    )


def losses(trainer):
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def test_learns_what_follows_and_keeps_the_best(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=300, eval_steps=100, save_steps=100, learning_rate=1e-2)
    trainer.add_callback(EarlyStoppingCallback(3))
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_recall@5"] > 0.9 and metrics["eval_ndcg@10"] > 0.8
    assert trainer.state.best_metric == pytest.approx(metrics["eval_ndcg@10"], abs=1e-6)
    checkpoint = Path(trainer.state.best_model_checkpoint)
    assert (checkpoint / "model.safetensors").exists() and (checkpoint / "semantic_ids.safetensors").exists()
    reopened = T5ForConditionalGeneration.from_pretrained(checkpoint)
    assert reopened.config.architectures == ["TigerT5"] and reopened.config.use_cache


def test_evaluation_equals_metrics_by_hand(tmp_path):
    trainer = make_trainer(tmp_path)
    output = trainer.predict(trainer.eval_dataset)
    ranks = [list(row).index(target) for row, target in zip(output.predictions, output.label_ids) if target in row]
    assert output.metrics["test_recall@10"] == pytest.approx(sum(rank < 10 for rank in ranks) / 120)
    assert output.metrics["test_ndcg@10"] == pytest.approx(
        sum(1 / np.log2(rank + 2) for rank in ranks if rank < 10) / 120
    )


def test_exclusion_reaches_evaluation(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.exclude_history = True
    examples = trainer.eval_dataset
    for user, row in enumerate(trainer.predict(examples).predictions):
        assert not set(row[row >= 0]) & set(examples.histories[user])


def test_a_killed_run_resumes_to_the_same_losses(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.retriever.test_trainer import make_trainer
make_trainer({str(tmp_path / "killed")!r}).train()
"""
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.time() + 120
    while not (tmp_path / "killed" / "checkpoint-20" / "trainer_state.json").exists():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Later checkpoints may have been written or half-written by then: go on from this one, within the second epoch.
    resumed = make_trainer(tmp_path / "killed")
    assert 1 < 20 / len(resumed.get_train_dataloader()) < 2
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-20"))
    expected, found = losses(whole), losses(resumed)
    assert sorted(found) == list(range(1, 31))
    assert [found[step] for step in range(21, 31)] == [expected[step] for step in range(21, 31)]
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_that_is_resumed_has_the_batches_of_that_epoch(tmp_path, monkeypatch, processes):
    trainer = make_trainer(tmp_path)
    loader = trainer.get_train_dataloader()
    if processes > 1:
        sampler = LengthBatchSampler(trainer.train_dataset, 32, multiple_of=2)
        loader = prepare_data_loader(
            DataLoader(trainer.train_dataset, batch_sampler=sampler, collate_fn=trainer.data_collator),
            num_processes=2,
            process_index=1,
            even_batches=False,
        )
        monkeypatch.setattr(trainer.accelerator, "prepare", lambda _: loader)
        loader = trainer.get_train_dataloader()

    def batches(loader):
        loader.set_epoch(1)
        return [batch["labels"] for batch in loader]

    whole = batches(loader)
    resumed = batches(skip_first_batches(loader, 3))
    assert len(whole) - 3 == len(resumed)
    assert all(torch.equal(*pair) for pair in zip(whole[3:], resumed))


def test_accumulated_batches_teach_as_one(tmp_path):
    """Two batches of unequal size, accumulated, give the gradient of their union."""
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=1, max_grad_norm=0.0)
    trainer.model.config.dropout_rate = 0.0
    examples = trainer.train_dataset
    first, second = (trainer.data_collator([examples[row] for row in rows]) for rows in ([0, 1, 2], [3, 4, 5, 6, 7]))
    count = sum(int(batch["labels"].ne(-100).sum()) for batch in (first, second))
    trainer.current_gradient_accumulation_steps = 2
    for batch in (first, second):
        trainer.training_step(trainer.model, dict(batch), num_items_in_batch=torch.tensor(count))
    gradients = {name: weights.grad.clone() for name, weights in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    total = sum(
        next_item_loss(trainer.model, **batch) * int(batch["labels"].ne(-100).sum()) for batch in (first, second)
    )
    (total / count).backward()
    for name, weights in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], weights.grad, atol=1e-6, rtol=1e-4)


def test_a_model_with_full_attention_trains_one_target_an_example(tmp_path):
    tokenizer, sequences = make_tokenizer(12), cycle_data()
    model = make_model(tokenizer, history_attention="full")
    args = TrainingArguments(str(tmp_path), max_steps=3, report_to=[], use_cpu=True, disable_tqdm=True)
    with pytest.raises(ValueError, match="shared=False"):
        TigerTrainer(model, args, TrainingExamples(sequences), processing_class=tokenizer)
    trainer = TigerTrainer(model, args, TrainingExamples(sequences, shared=False), processing_class=tokenizer)
    assert trainer.train().training_loss > 0


def test_the_callers_objects_stay_as_they_are(tmp_path, caplog):
    """A plain T5 is wrapped, which is logged, and its weights are trained; args are copied before they are changed."""
    tokenizer, sequences = make_tokenizer(12), cycle_data()
    plain = T5ForConditionalGeneration(make_model(tokenizer).config)
    before = plain.shared.weight.detach().clone()
    args = TrainingArguments(str(tmp_path), max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True)
    with caplog.at_level(logging.WARNING, "tiger"):
        trainer = TigerTrainer(plain, args, TrainingExamples(sequences), processing_class=tokenizer)
    assert "shares its weights" in caplog.text
    assert type(plain) is T5ForConditionalGeneration and type(trainer.model) is TigerT5
    assert args.remove_unused_columns and not trainer.args.remove_unused_columns
    trainer.train()
    assert not torch.equal(plain.shared.weight, before)
    assert all(theirs is ours for theirs, ours in zip(plain.parameters(), trainer.model.parameters()))
    caplog.clear()
    model = make_model(tokenizer)
    assert TigerTrainer(model, args, processing_class=tokenizer).model is model and not caplog.text

    class Other(T5ForConditionalGeneration):
        pass

    with pytest.raises(TypeError, match="trains a TigerT5, not a Other"):
        TigerTrainer(Other(model.config), args, processing_class=tokenizer)


def test_pairs_that_do_not_belong_together_are_refused(tmp_path):
    tokenizer = make_tokenizer(12)
    model = make_model(tokenizer)
    check_pair(model, tokenizer)
    with pytest.raises(ValueError, match="use the tokenizer saved with the model"):
        check_pair(model, make_tokenizer(12, seed=1))
    tokenizer.add_items([f"new-{n}" for n in range(20)], codes=np.zeros((20, 3), dtype=int))
    with pytest.raises(ValueError, match="use grow_vocabulary"):
        check_pair(model, tokenizer)
    with pytest.raises(ValueError, match="processing_class"):
        TigerTrainer(model, TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    with pytest.raises(DataError, match="history_attention"):
        t5_config(tokenizer, history_attention="sideways")


def test_other_tokens_than_the_models_are_refused():
    tokenizer = make_tokenizer(12)
    with pytest.raises(ValueError, match="tokens are codes, the tokenizer's are prefixes"):
        check_pair(make_model(tokenizer), tokenizer.with_tokens("prefixes"))
    with pytest.raises(ValueError, match="tokens are prefixes"):
        check_pair(make_model(tokenizer.with_tokens("prefixes")), tokenizer)


def test_embeddings_and_matrices_have_learning_rates_of_their_own(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=10, lr_scheduler_type="constant")
    trainer.embedding_learning_rate, trainer.muon_learning_rate = 0.01, 0.002
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    optimizer = trainer.create_optimizer()
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    named = {name: rates[id(weight)] for name, weight in trainer.model.named_parameters()}
    assert named.pop("shared.weight") == 0.01 and len(rates) == len(before)
    assert {rate for name, rate in named.items() if "norm" in name or "bias" in name} == {3e-3}
    assert {rate for name, rate in named.items() if not ("norm" in name or "bias" in name)} == {0.002}
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    assert all(not torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


def test_a_learning_rate_of_0_leaves_the_embeddings_as_they_are(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    trainer.embedding_learning_rate = 0.0
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    same = {name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])}
    assert same == {"shared.weight"}
