"""Every option of ``TrainingArguments`` works with ``TigerTrainer``, or is refused by name."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset
from transformers import TrainingArguments
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS
from transformers.trainer_utils import BestRun, HPSearchBackend

from tests.conftest import make_model, make_tokenizer
from tests.processes import run_python
from tests.retriever.test_trainer import cycle_data
from tiger.evaluation.metrics import next_item_metrics
from tiger.recommender.trainer import REFUSED, TigerTrainer
from tiger.retriever.data_collator import TrainingCollator
from tiger.retriever.dataset import EvaluationExamples, LengthBatchSampler, TrainingExamples
from tiger.retriever.optimizer import MuonAdamW
from tiger.utils.errors import DataError
from tiger.utils.trainer import refuse

TOKENIZER, DATA = make_tokenizer(12), cycle_data()
TRAIN = TrainingExamples(DATA.drop_last(1))
VALID = EvaluationExamples(DATA.drop_last(1), DATA.items[DATA.offsets[1:] - 1], max_history=7)


def arguments(folder, **settings):
    options = {"per_device_train_batch_size": 32, "max_steps": 2, "save_strategy": "no", "logging_steps": 1}
    options |= {"report_to": [], "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    return TrainingArguments(str(folder), **{**options, **settings})


def make_trainer(folder, model=None, train=TRAIN, valid=VALID, parts=None, **settings):
    model = make_model(TOKENIZER) if model is None and "model_init" not in (parts or {}) else model
    options = {"processing_class": TOKENIZER, "num_beams": 12, "exclude_history": False} | (parts or {})
    return TigerTrainer(model, arguments(folder, **settings), train, valid, **options)


def weights_after(trainer):
    trainer.train()
    return [weight.detach().clone() for weight in trainer.model.parameters()]


def test_own_metrics_and_batches(tmp_path):
    """compute_metrics gets rows and targets, data_collator the examples; Trainer's own choice reads the metrics."""
    collated = []

    def collate(examples):
        collated.append(len(examples))
        return TrainingCollator(TOKENIZER)(examples)

    def first_hit(prediction):
        assert prediction.predictions.shape == (120, 10) and prediction.label_ids.shape == (120,)
        return {"first": float((prediction.predictions[:, 0] == prediction.label_ids).mean())}

    parts = {"compute_metrics": first_hit, "data_collator": collate}
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    settings |= {"metric_for_best_model": "first", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, parts=parts, **settings)
    trainer.train()
    assert collated and trainer.state.best_metric == trainer.evaluate()["eval_first"]
    assert "eval_recall@10" not in trainer.evaluate()


def test_several_evaluation_sets_by_name(tmp_path):
    some, rest = VALID.select(np.arange(50)), VALID.select(np.arange(50, 120))
    settings = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "best",
        "metric_for_best_model": "b_ndcg@10",
    }
    trainer = make_trainer(tmp_path, valid={"a": some, "b": rest}, **settings)
    trainer.train()
    metrics = trainer.evaluate()
    together = trainer.evaluate(VALID)
    mean = (50 * metrics["eval_a_recall@5"] + 70 * metrics["eval_b_recall@5"]) / 120
    assert together["eval_recall@5"] == pytest.approx(mean, abs=1e-6)
    assert trainer.state.best_metric is not None and metrics["eval_b_loss"] > 0


def test_parts_of_examples(tmp_path):
    """A Subset trains and measures its own examples alone, and several together are as one."""
    rows = np.random.default_rng(0).permutation(len(TRAIN))[:60]
    batches = list(LengthBatchSampler(Subset(TRAIN, rows.tolist()), 32))
    assert sorted(place for batch in batches for place in batch) == list(range(60))
    for batch in batches:
        assert TRAIN.num_targets[rows[batch]].sum() <= 32
        assert np.ptp(TRAIN.history_lengths[rows[batch]]) <= 2
    both = ConcatDataset([Subset(TRAIN, range(40)), Subset(TRAIN, range(40, len(TRAIN)))])
    users = [3, 5, 7, 90]
    trainer = make_trainer(tmp_path / "both", train=both, valid=Subset(VALID, users))
    whole = make_trainer(tmp_path / "whole", valid=VALID.select(np.array(users)))
    for a, b in zip(weights_after(trainer), weights_after(whole)):
        assert torch.equal(a, b)
    assert trainer.evaluate()["eval_loss"] == whole.evaluate()["eval_loss"]
    np.testing.assert_array_equal(trainer.predict(Subset(VALID, users)).label_ids, VALID.targets[users])
    assert trainer.recommender().max_history == 20


def test_other_examples_are_refused(tmp_path):
    with pytest.raises(DataError, match="train_dataset is of a list, TigerTrainer reads TrainingExamples"):
        make_trainer(tmp_path, train=[{"items": [1, 2]}])
    with pytest.raises(DataError, match="eval_dataset is of a TrainingExamples, TigerTrainer reads Evaluation"):
        make_trainer(tmp_path, valid={"a": Subset(TRAIN, [1])})
    with pytest.raises(ValueError, match="shared=False"):
        make_trainer(tmp_path, make_model(TOKENIZER, history_attention="full"), Subset(TRAIN, [1, 2]))


def test_a_model_from_model_init_is_checked_and_made_anew(tmp_path):
    made = []

    def init():
        made.append(make_model(TOKENIZER))
        return made[-1]

    trainer = make_trainer(tmp_path, parts={"model_init": init, "embedding_learning_rate": 0.01})
    first, second = weights_after(trainer), weights_after(trainer)
    assert len(made) == 3 and trainer.model is made[-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    with pytest.raises(ValueError, match="use the tokenizer saved with the model"):
        make_trainer(tmp_path, parts={"model_init": lambda: make_model(make_tokenizer(12, seed=1))})


@pytest.fixture
def search(monkeypatch):
    """A function that makes a trainer try some options, as wandb would give them, and returns what it saw."""

    class Backend:
        trials: list[dict] = []
        seen: list[tuple] = []

        @staticmethod
        def ensure_available():
            pass

        @staticmethod
        def default_hp_space(trial):
            return trial

        @staticmethod
        def run(trainer, count, direction):
            for trial in Backend.trials:
                trainer.train(trial=trial)
                rates = [group["initial_lr"] for group in trainer.optimizer.param_groups]
                Backend.seen.append((rates, len(trainer.get_train_dataloader())))
            return BestRun("1", trainer.evaluate()["eval_loss"], Backend.trials[-1])

    def run(trainer, *trials):
        Backend.trials, Backend.seen = [dict(trial) for trial in trials], []
        assert trainer.hyperparameter_search(backend="wandb", n_trials=2).hyperparameters == trials[-1]
        return Backend.seen

    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=SimpleNamespace(id="trial")))
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.WANDB, Backend)
    return run


INIT = {"model_init": lambda: make_model(TOKENIZER)}


def test_a_search_changes_learning_rate_and_batches(tmp_path, search):
    trainer = make_trainer(tmp_path, parts=INIT)
    (low, many), (high, still) = search(
        trainer, {"learning_rate": 1e-3, "per_device_train_batch_size": 8}, {"learning_rate": 3e-2}
    )
    assert low[0] == 1e-3 and high[0] == 3e-2 and many == still == len(LengthBatchSampler(TRAIN, 8))
    with pytest.raises(RuntimeError, match="model_init"):
        search(make_trainer(tmp_path), {})


def test_a_search_changes_the_trainers_own_rates(tmp_path, search, caplog):
    trainer = make_trainer(tmp_path, parts=INIT | {"embedding_learning_rate": 0.1})
    (first, _), (second, _) = search(trainer, {"embedding_learning_rate": 0.2}, {"muon_learning_rate": 0.3})
    assert first[:2] == [0.2, 5e-5] and second[:2] == [0.2, 0.3]
    assert "no corresponding field" not in caplog.text


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        ({"label_smoothing_factor": 0.1}, "does not take label_smoothing_factor: "),
        ({"optim": "adafactor", "muon_learning_rate": 0.1}, "does not take optim=adafactor beside "),
        ({"dataloader_drop_last": 1}, "does not take dataloader_drop_last: "),
    ],
)
def test_a_search_sets_no_refused_option(tmp_path, search, trial, told):
    trainer = make_trainer(tmp_path, parts=INIT)
    with pytest.raises(DataError, match=told):
        search(trainer, trial)
    assert trainer.state.global_step == 0


def test_two_processes_train_one_model(tmp_path):
    """The optimizers and the norm of gradients find their weights within the wrapper of several processes."""
    script = f"""
import torch
from tests.retriever.test_trainer_options import make_trainer
from tiger.training.processes import leave_group
parts = {{"muon_learning_rate": 0.01, "embedding_learning_rate": 0.02}}
trainer = make_trainer({str(tmp_path)!r}, parts=parts, ddp_backend="gloo", max_grad_norm=0.05, max_steps=3)
trainer.train()
wrapped = trainer.model_wrapped
assert trainer.args.world_size == 2 and type(wrapped).__name__ == "DistributedDataParallel"
weights = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
both = [torch.empty_like(weights) for _ in range(2)]
torch.distributed.all_gather(both, weights)
assert torch.equal(*both), "the processes hold other weights"
norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
assert len(norms) == 3 and min(norms) > 0.05
groups = [[weight.data_ptr() for weight in group["params"]] for group in trainer.optimizer.param_groups]
trainer.optimizer = None
again = trainer.create_optimizer(wrapped)
assert [[weight.data_ptr() for weight in group["params"]] for group in again.param_groups] == groups
assert groups[0] == [trainer.model.shared.weight.data_ptr()] and len(groups[1]) > 10
for weight in trainer.model.parameters():
    weight.grad = torch.ones_like(weight)
assert abs(float(trainer._clip_grad_norm(wrapped)) - len(weights) ** 0.5) < 1e-2
assert trainer.model.shared.weight.grad.max() < 0.05
print("loss", trainer.evaluate()["eval_loss"])
del trainer, wrapped
leave_group()
"""
    (tmp_path / "train.py").write_text(script)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = run_python(*launcher, tmp_path / "train.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len({line for line in done.stdout.splitlines() if line.startswith("loss")}) == 1


def test_batches_shrink_until_they_fit(tmp_path):
    sizes = []

    def collate(examples):
        batch = TrainingCollator(TOKENIZER)(examples)
        sizes.append(int(batch["labels"][..., 0].ge(0).sum()))
        if sizes[-1] > 16:
            raise RuntimeError("CUDA out of memory.")
        return batch

    trainer = make_trainer(tmp_path, parts={"data_collator": collate}, auto_find_batch_size=True, max_steps=10)
    trainer.train()
    assert trainer.state.global_step == 10 and max(sizes) > 16 >= max(sizes[-10:])
    assert len(sizes) < 30 and 8 <= trainer._train_batch_size <= 16


def test_the_optimizer_is_the_one_that_is_asked_for(tmp_path):
    assert type(make_trainer(tmp_path, optim="adafactor").create_optimizer()).__name__ == "Adafactor"
    sgd = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})}
    assert isinstance(make_trainer(tmp_path, parts=sgd).create_optimizer(), torch.optim.SGD)
    own = make_trainer(tmp_path, parts={"embedding_learning_rate": 0.01}, optim="adamw_torch")
    assert isinstance(own.create_optimizer(), MuonAdamW)
    given = {"optimizers": (torch.optim.SGD(make_model(TOKENIZER).parameters()), None)}
    for rate in ({"embedding_learning_rate": 0.01}, {"muon_learning_rate": 0.01}):
        for name, parts, settings in (
            ("optim=adafactor", {}, {"optim": "adafactor"}),
            ("optim_args", {}, {"optim_args": "x=1"}),
            ("optimizer_cls_and_kwargs", sgd, {}),
            ("optimizers", given, {}),
        ):
            with pytest.raises(DataError, match=f"does not take {name} beside embedding_learning_rate or muon"):
                make_trainer(tmp_path, parts=rate | parts, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_eval_metrics": True, "per_device_eval_batch_size": 50},
        {"eval_do_concat_batches": False, "per_device_eval_batch_size": 50},
        {"eval_accumulation_steps": 1, "per_device_eval_batch_size": 50},
        {"include_for_metrics": ["inputs", "loss"]},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3},
        {"train_sampling_strategy": "group_by_length"},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"include_num_input_tokens_seen": "all"},
        {"accelerator_config": {"non_blocking": True}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_options_that_change_no_number(tmp_path, settings):
    plain, other = make_trainer(tmp_path / "plain"), make_trainer(tmp_path / "other", **settings)
    for a, b in zip(weights_after(plain), weights_after(other)):
        torch.testing.assert_close(a, b)
    for _ in range(2):
        expected, found = plain.evaluate(), other.evaluate()
        for name in ("eval_loss", "eval_recall@10", "eval_ndcg@5"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    np.testing.assert_array_equal(
        np.concatenate([*other.predict(VALID).predictions]).reshape(120, 10), plain.predict(VALID).predictions
    )


def test_the_loss_alone(tmp_path):
    """prediction_loss_only searches no items."""
    trainer = make_trainer(tmp_path, prediction_loss_only=True)
    trainer._trie = None
    assert set(trainer.evaluate()) == set(make_trainer(tmp_path).evaluate()) - {
        f"eval_{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10)
    }


def test_an_evaluation_that_was_cut_short_leaves_nothing(tmp_path):
    trainer = make_trainer(tmp_path, batch_eval_metrics=True, per_device_eval_batch_size=50)
    expected = trainer.evaluate()["eval_recall@5"]
    step, calls = trainer.prediction_step, []

    def failing(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(*args, **options)

    trainer.prediction_step = failing
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate()
    assert trainer.evaluate()["eval_recall@5"] == expected
    found = trainer.predict(VALID)
    assert next_item_metrics(found.predictions, found.label_ids)["recall@5"] == expected


# How each refused option is asked for, where it is no field that a TrainingArguments here can be made with.
ASKED = {
    "fsdp": {"fsdp": True},
    "deepspeed": {"deepspeed": {"zero_optimization": {"stage": 3}}},
    "parallelism_config": {"parallelism_config": object()},
    "accelerator_config.split_batches": {"accelerator_config": SimpleNamespace(split_batches=True)},
    "accelerator_config.dispatch_batches": {"accelerator_config": SimpleNamespace(dispatch_batches=True)},
    "accelerator_config.even_batches": {"accelerator_config": SimpleNamespace(even_batches=False)},
    "label_smoothing_factor": {"label_smoothing_factor": 0.1},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "use_liger_kernel": {"use_liger_kernel": True},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "label_names": {"label_names": ["targets"]},
    "train_sampling_strategy": {"train_sampling_strategy": "sequential"},
    "dataloader_persistent_workers": {"dataloader_persistent_workers": True},
    "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "non_padding"},
    "dataloader_drop_last": {"dataloader_drop_last": True},
    "eval_use_gather_object": {"eval_use_gather_object": True},
    "hub_strategy": {"push_to_hub": True, "hub_strategy": "all_checkpoints"},
}


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: refusal.option)
def test_an_option_is_refused_by_name(tmp_path, refusal):
    """When the trainer is made, in one line with reason and remedy."""
    args = arguments(tmp_path)
    for name, value in ASKED[refusal.option].items():
        setattr(args, name, value)
    with pytest.raises(DataError, match=f"^TigerTrainer does not take {refusal.option}: .*; .*[.]$") as error:
        TigerTrainer(make_model(TOKENIZER), args, TRAIN, VALID, processing_class=TOKENIZER)
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert refusal.option.partition(".")[0] in names


def test_sharding_by_the_launcher_is_refused(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(DataError, match="does not take fsdp: .*accelerate launch"):
        refuse("TigerTrainer", args, REFUSED)


def test_other_losses_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not take compute_loss_func"):
        make_trainer(tmp_path, parts={"compute_loss_func": lambda *_: 0})
    graphs = {"parts": {"cuda_graphs": True}, "auto_find_batch_size": True}
    with pytest.raises(DataError, match="cuda_graphs works .*auto_find_batch_size"):
        make_trainer(tmp_path, **graphs)


def test_default_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = TigerTrainer(make_model(TOKENIZER), processing_class=TOKENIZER)
    assert trainer.args.output_dir == "tmp_trainer"
