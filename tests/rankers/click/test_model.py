from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Adafactor, TrainingArguments, set_seed

from tests.conftest import auc_error
from tests.processes import run_python
from tests.rankers.click.test_dataset import make_sequences
from tiger.data.sequences import Sequences
from tiger.evaluation.metrics import auc
from tiger.rankers.click.dataset import (
    Impressions,
    ImpressionsCollator,
    draw_negatives,
    sampled_impressions,
)
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.model import SemanticIdRanker, check_ranker, ranker_config
from tiger.rankers.click.trainer import RANKER_REFUSED, RankerTrainer
from tiger.utils.errors import DataError

NUM_ITEMS = 60


def make_features(kind="prefix_ngram", budget=300):
    return ItemFeatures.fit(kind, budget, CODES, 8)


CODES = np.random.default_rng(0).integers(0, 8, (NUM_ITEMS, 3))
DENSE = np.random.default_rng(1).standard_normal((NUM_ITEMS, 6)).astype(np.float32)
IDS = [f"item-{index}" for index in range(NUM_ITEMS)]


def make_ranker(features, **sizes):
    set_seed(0)
    options = {"d_model": 16, "hidden_sizes": (16,)} | sizes
    return SemanticIdRanker(ranker_config(features, dense_dim=6, **options)).eval()


def make_lists(num_users=80, seed=0):
    sequences = make_sequences(num_users, seed)
    events = np.arange(len(sequences.items))
    return sampled_impressions(sequences, events, draw_negatives(sequences, events, NUM_ITEMS))


def batch_of(features, lists, indices, max_history=20):
    dense = DENSE if features.uses_dense else None
    return ImpressionsCollator(lists, features.rows(IDS, CODES), dense, max_history)(indices)


@pytest.mark.parametrize("kind", ["random_hash", "prefix_ngram", "spm", "dense", "spm+dense"])
@pytest.mark.parametrize("head", ["mlp", "dcn"])
def test_logits_of_a_list_do_not_depend_on_the_others(kind, head):
    features, lists = make_features(kind), make_lists()
    ranker = make_ranker(features, head=head)
    together = batch_of(features, lists, list(range(30)))
    with torch.no_grad():
        whole = ranker(**together)
        for index in (0, 7, 29):
            alone = ranker(**batch_of(features, lists, [index]))
            present = alone.logits[0][lists.labels[index] >= 0]
            torch.testing.assert_close(present, whole.logits[index][lists.labels[index] >= 0], atol=1e-5, rtol=1e-4)
    assert torch.isfinite(whole.loss)


def test_empty_histories_are_read():
    features = make_features()
    ranker = make_ranker(features)
    rows = torch.from_numpy(features.rows(IDS, CODES))
    candidates = torch.tensor([[3, 4]])
    with torch.no_grad():
        none = ranker(rows, torch.empty(1, 0, dtype=torch.int64), candidates).logits
        padded = ranker(rows, torch.full((1, 5), -1), candidates).logits
    torch.testing.assert_close(none, padded)
    assert torch.isfinite(none).all()


def test_listwise_loss_is_a_softmax_over_the_list():
    features = make_features()
    ranker = make_ranker(features, loss="listwise")
    rows = torch.from_numpy(features.rows(IDS, CODES))
    history, candidates = torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5, -1]])
    labels = torch.tensor([[0.0, 1.0, 0.0, -100.0]])
    out = ranker(rows, history, candidates, labels=labels)
    expected = -out.logits[0, :3].log_softmax(-1)[1]
    torch.testing.assert_close(out.loss, expected)
    # A batch whose lists have no positive teaches nothing, and stops nothing.
    idle = ranker(rows, history, candidates, labels=torch.tensor([[0.0, 0.0, 0.0, -100.0]])).loss
    idle.backward()
    assert idle == 0 and not any(part.grad.abs().max() for part in ranker.head.parameters())


def test_save_and_load(tmp_path):
    features = make_features("spm+dense")
    ranker = make_ranker(features)
    ranker.save_pretrained(tmp_path)
    again = SemanticIdRanker.from_pretrained(tmp_path).eval()
    batch = batch_of(features, make_lists(), [1, 2, 3])
    torch.testing.assert_close(again(**batch).logits, ranker(**batch).logits, atol=1e-6, rtol=1e-5)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    check_ranker(again, features)
    with pytest.raises(ValueError, match="was trained with item features"):
        check_ranker(again, make_features("dense"))


def train(tmp_path, lists, kind="random_hash", steps=150, sparse=True, num_context=0, **settings):
    features = make_features(kind)
    ranker = make_ranker(features, sparse=sparse, num_context=num_context)
    args = TrainingArguments(
        str(tmp_path),
        max_steps=steps,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **settings,
    )
    rows, dense = features.rows(IDS, CODES), DENSE if features.uses_dense else None
    trainer = RankerTrainer(ranker, args, lists, lists, item_rows=rows, dense=dense, table_learning_rate=0.1)
    trainer.train()
    return trainer


def circle_lists(num_users=300, seed=0):
    """Users who walk round a circle of items, and negatives from anywhere."""
    random = np.random.default_rng(seed)
    offsets = np.arange(0, 6 * num_users + 1, 6)
    items = (np.repeat(random.integers(0, NUM_ITEMS, num_users), 6) + np.tile(np.arange(6), num_users)) % NUM_ITEMS
    sequences = Sequences(offsets, items.astype(np.int32), np.tile(np.arange(6), num_users))
    events = np.flatnonzero(sequences.timestamps == 5)
    return sampled_impressions(sequences, events, random.integers(0, NUM_ITEMS, (len(events), 4)).astype(np.int32))


@pytest.mark.parametrize("sparse", [True, False])
def test_learns_what_follows_what(tmp_path, sparse):
    trainer = train(tmp_path, circle_lists(), "random_hash+dense", sparse=sparse, steps=300)
    metrics = trainer.evaluate(circle_lists(seed=1))
    assert metrics["eval_auc"] > 0.9 and metrics["eval_log_loss"] < 0.4


def test_context_is_read(tmp_path):
    """The click depends on a number beside the candidate alone."""
    lists = circle_lists()
    context = np.random.default_rng(3).normal(size=(*lists.labels.shape, 2)).astype(np.float32)
    lists = replace(lists, labels=(context[..., 1] > 0).astype(np.float32), context=context)
    trainer = train(tmp_path, lists, num_context=2)
    assert trainer.evaluate()["eval_auc"] > 0.95
    np.testing.assert_array_equal(lists.select(np.array([4, 2])).context, context[[4, 2]])
    with pytest.raises(DataError, match="have 2 context columns, the ranker reads 0"):
        train(tmp_path, lists)


def test_shuffled_labels_teach_nothing(tmp_path):
    lists = circle_lists(3000)
    labels = np.random.default_rng(0).permuted(lists.labels, axis=1)
    shuffled = Impressions(lists.histories, lists.users, lists.ends, lists.candidates, labels)
    trainer = train(tmp_path, shuffled, steps=100)
    fresh = circle_lists(3000, seed=5)
    labels = np.random.default_rng(1).permuted(fresh.labels, axis=1)
    fresh = Impressions(fresh.histories, fresh.users, fresh.ends, fresh.candidates, labels)
    assert abs(trainer.evaluate(fresh)["eval_auc"] - 0.5) < 4 * auc_error(fresh.labels) < 0.03


def test_sparse_and_dense_tables_read_only_their_rows(tmp_path):
    trainer = train(tmp_path, circle_lists(), steps=5)
    features = make_features("random_hash")
    untouched = np.setdiff1d(np.arange(301), features.rows(IDS, CODES))
    table = trainer.model.table.weight.detach()
    assert torch.equal(table[untouched], make_ranker(features).table.weight.detach()[untouched])
    assert table[300].abs().max() == 0


def test_refuses_what_teaches_nothing(tmp_path):
    lists = circle_lists()
    clicks = Impressions(lists.histories, lists.users, lists.ends, lists.candidates, np.ones_like(lists.labels))
    with pytest.raises(DataError, match="only labels 1"):
        train(tmp_path, clicks)
    features = make_features("dense")
    with pytest.raises(ValueError, match="pass dense"):
        make_ranker(features)(**batch_of(make_features("spm"), lists, [0]))
    with pytest.raises(ValueError, match="say how long"):
        ranker_config(features)
    with pytest.raises(ValueError, match="head must be one of"):
        ranker_config(make_features(), head="tree")


def test_scores_rank(tmp_path):
    trainer = train(tmp_path, circle_lists(), "random_hash+dense", steps=300)
    predicted = trainer.predict(circle_lists(seed=2))
    assert auc(predicted.label_ids.ravel(), predicted.predictions.ravel()) > 0.9


def make_trainer(folder, sparse=True, **options):
    features = make_features("random_hash")
    args = TrainingArguments(str(folder), report_to=[], use_cpu=True, max_steps=2, **options.pop("settings", {}))
    ranker, rows = make_ranker(features, sparse=sparse), features.rows(IDS, CODES)
    lists = options.pop("lists", circle_lists())
    return RankerTrainer(ranker, args, lists, lists, item_rows=rows, **options)


@pytest.mark.parametrize(("sparse", "max_grad_norm"), [(True, 1.0), (False, 0.0)])
def test_two_processes_train_one_ranker(tmp_path, sparse, max_grad_norm):
    script = f"""
import pathlib
import torch
from tests.rankers.click.test_model import circle_lists, train
from tiger.training.processes import leave_group
trainer = train({str(tmp_path)!r}, circle_lists(), steps=4, sparse={sparse}, max_grad_norm={max_grad_norm},
                ddp_backend="gloo", logging_steps=1)
assert trainer.args.world_size == 2 and type(trainer.model_wrapped).__name__ == "DistributedDataParallel"
metrics = trainer.evaluate()
table = trainer.model.table.weight.detach().contiguous()
both = [torch.empty_like(table) for _ in range(2)]
torch.distributed.all_gather(both, table)
assert torch.equal(*both), "the processes hold other weights"
assert all(row["grad_norm"] > 0 for row in trainer.state.log_history if "grad_norm" in row)
trainer.optimizer = None
groups = trainer.create_optimizer(trainer.model_wrapped).param_groups
assert any(weight is trainer.model.table.weight for weight in groups[0]["params"])
print("AUC", metrics["eval_auc"])
del trainer
leave_group()
tasks = pathlib.Path("/proc/self/task")  # where threads are told by name, none of the group's is left
names = [task.joinpath("comm").read_text() for task in tasks.iterdir()] if tasks.is_dir() else []
assert not any(name.startswith("pt_gloo") for name in names), names
"""
    file = tmp_path / "train.py"
    file.write_text(script)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = run_python(*launcher, file)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {line for line in done.stdout.splitlines() if line.startswith("AUC")}
    assert len(found) == 1


def test_sparse_gradients_are_not_summed_by_nccl(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(DataError, match="NCCL .*sparse=False"):
        make_trainer(tmp_path)
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(DataError, match="several GPUs of one process"):
        make_trainer(tmp_path, sparse=False)


def test_options_of_the_trainer(tmp_path):
    def mean(prediction):
        return {"mean": float(prediction.predictions.mean())}

    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_drop_last": True}
    workers["max_grad_norm"] = 0.0  # the norm is measured all the same, without the sparse table
    trainer = make_trainer(tmp_path, compute_metrics=mean, settings=workers)
    trainer.eval_dataset = {"a": circle_lists(), "b": circle_lists(seed=1)}
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_a_mean"] != metrics["eval_b_mean"] and "eval_a_auc" not in metrics
    assert len(trainer.get_train_dataloader()) == 300 // 8
    for name, value in (("data_collator", list), ("model_init", list)):
        with pytest.raises(DataError, match=f"RankerTrainer does not take {name}: "):
            make_trainer(tmp_path, **{name: value})
    with pytest.raises(DataError, match="does not take optim=adafactor beside a sparse table"):
        make_trainer(tmp_path, settings={"optim": "adafactor"})
    assert type(make_trainer(tmp_path, False, settings={"optim": "adafactor"}).create_optimizer()) is Adafactor
    with pytest.raises(DataError, match="Impressions, not a list"):
        make_trainer(tmp_path).evaluate([1])


@pytest.mark.parametrize("refusal", RANKER_REFUSED[-2:], ids=lambda refusal: refusal.option)
def test_an_option_is_refused_by_name(tmp_path, refusal):
    asked = {"train_sampling_strategy": "group_by_length", "batch_eval_metrics": True}
    with pytest.raises(DataError, match=f"^RankerTrainer does not take {refusal.option}: .*; .*[.]$"):
        make_trainer(tmp_path, settings={refusal.option: asked[refusal.option]})


def test_numbers_that_are_none_stop_it(tmp_path):
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step \d+: .*Lower --learning_rate"):
        train(tmp_path, circle_lists(), steps=20, sparse=False, weight_decay=1e30)
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.table.weight[3] = torch.nan
    for name in ("evaluate", "save_model"):
        with pytest.raises(DataError, match="table.weight are NaN, infinite"):
            getattr(trainer, name)()
    assert not list(tmp_path.rglob("*.safetensors"))
