"""The SASRec control: what it starts from, what it sees, and that it goes on where it was interrupted."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from recipes.experiments import sasrec
from recipes.experiments.slices import SETTING
from recipes.tables import rows_of
from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.utils.errors import DataError

SMALL = {"d_model": 16, "num_heads": 2, "num_epochs": 3, "batch": 64, "bf16": False}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "small")


def arguments(out, dataset="", **settings):
    return sasrec.SASRecArguments(str(dataset), str(out), **{**SMALL, **settings})


def make_model(num_items=30, **settings):
    torch.manual_seed(0)
    return sasrec.SASRec(num_items, arguments("", **settings)).eval()


def test_states_see_nothing_that_comes_later():
    model = make_model()
    histories = torch.tensor([[3, 5, 8, 1], [3, 5, 9, -1]])
    first, second = model(histories)
    torch.testing.assert_close(first[:2], second[:2])
    assert not torch.allclose(first[2], second[2])
    torch.testing.assert_close(model(histories[1:, :3])[0], second[:3])


def test_untrained_it_answers_with_the_neighbors_of_the_last_item(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    model, args = make_model(), arguments(tmp_path)
    model.start_from([vectors[:, :10], vectors[:, 10:]])
    table = model.items.weight[:30]
    assert float(table.std()) == pytest.approx(args.table_std, rel=0.1)
    rows, scores = sasrec.recommend(model, args, Sequences.from_rows([np.array([4, 7]), np.array([2])]), 5, False)
    assert rows[0, 0] == 7 and rows[1, 0] == 2  # most like itself
    normed = torch.nn.functional.layer_norm(table[7], (16,))
    np.testing.assert_array_equal(rows[0], (table @ normed).topk(5).indices.numpy())
    removed, values = sasrec.recommend(model, args, Sequences.from_rows([np.array([4, 7])]), 30, True)
    assert (
        not set(removed[0, :28]) & {4, 7}
        and removed[0, 28:].tolist() == [-1, -1]
        and np.isneginf(values[0, 28:]).all()
    )


def test_targets_follow_their_histories():
    examples = [{"items": np.array([1, 2, 3, 4]), "first_target": 2}, {"items": np.array([5, 6]), "first_target": 1}]
    histories, targets = sasrec.batch_of(examples)
    assert histories.tolist() == [[1, 2, 3], [5, 6, -1]] and targets.tolist() == [[-1, 3, 4], [6, -1, -1]]


def test_the_learning_rate_rises_and_falls():
    rates = [sasrec.schedule(step, 100) for step in range(100)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[51] == pytest.approx(0.5) and rates[99] < 0.001


def test_shares_of_the_vectors(tmp_path, dataset):
    data = RecommendationData.load(dataset)
    split = data.leave_one_out()
    found = sasrec.vectors_of(arguments(tmp_path, start_from="log:3,words:1"), data, split)
    assert [part.shape for part in found] == [(data.num_items, 12), (data.num_items, 4)]
    with pytest.raises(DataError, match="expected log, words, texts"):
        sasrec.vectors_of(arguments(tmp_path, start_from="news:1"), data, split)
    with pytest.raises(DataError, match="give their vectors by --embeddings"):
        sasrec.vectors_of(arguments(tmp_path, start_from="texts"), data, split)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, dataset, monkeypatch):
    data = RecommendationData.load(dataset)
    split = data.leave_one_out()
    whole = sasrec.Training(arguments(tmp_path / "whole", dataset), data, split)
    whole.run()
    epoch = sasrec.Training._epoch

    def interrupted(self, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        return epoch(self, number, *rest)

    monkeypatch.setattr(sasrec.Training, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sasrec.Training(arguments(tmp_path / "other", dataset), data, split).run()
    monkeypatch.undo()
    stopped = sasrec.Training(arguments(tmp_path / "other", dataset, seconds=0.0), data, split)
    stopped.run()
    assert len(stopped.curve) == stopped.record()["epochs"] == 2  # no further epoch
    resumed = sasrec.Training(arguments(tmp_path / "other", dataset), data, split)
    assert len(resumed.curve) == 2
    resumed.run()
    assert resumed.curve == whole.curve and len(whole.curve) == 3
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    with pytest.raises(DataError, match="a run with other settings or data"):
        sasrec.Training(arguments(tmp_path / "other", dataset, dropout=0.5), data, split)


def test_rows_and_ranks_are_those_of_the_best_epoch(tmp_path, dataset, monkeypatch):
    words = [
        "--dataset",
        dataset,
        "--out",
        tmp_path / "run",
        "--ranks_dir",
        tmp_path / "ranks",
        "--start_from",
        "log:1",
    ]
    words += [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["recipes/experiments/sasrec.py", *map(str, words)])
    sasrec.main()
    rows = rows_of(tmp_path / "run" / "results")["sasrec-init"]
    assert set(rows) == {SETTING, SETTING.replace("removed", "kept")}
    row = rows[SETTING]
    curve = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert row["training"]["validation ndcg@10"] == max(one["ndcg@10"] for one in curve) and row["seeds"] == [0]
    assert row["encoder"] is None and "more than the hybrid, ndcg@10" in row["over users"]
    places = load_file(tmp_path / "ranks" / "sasrec-init-seed0.safetensors")[SETTING].astype(float)
    assert row["metrics"]["recall@10"] == pytest.approx((places < 10).mean(), abs=1e-5)
