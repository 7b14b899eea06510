"""The peers, SASRec and HSTU: what they start from, what they see, and that they go on where they were interrupted."""

import importlib
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from recipes.experiments.slices import SETTING
from recipes.tables import ROOT, rows_of
from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.data.sequences import Sequences
from tiger.utils.errors import DataError

SMALL = {"d_model": 16, "num_heads": 2, "num_epochs": 3, "batch": 64, "bf16": False}
KINDS = ("sasrec", "hstu")
DAY = 86_400


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """Vectors of the dataset's 120 items."""
    file = tmp_path_factory.mktemp("vectors") / "embeddings.random.safetensors"
    save_file({"embeddings": np.random.default_rng(1).standard_normal((120, 6)).astype(np.float32)}, file)
    return str(file)


@pytest.fixture
def peers(monkeypatch):
    """The scripts, which import each other from beside them."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "experiments"))
    names = ("peer", "peer_training", *KINDS)
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def arguments(peers, kind, out, dataset="", **settings):
    made = {"sasrec": peers.sasrec.SASRecArguments, "hstu": peers.hstu.HSTUArguments}[kind]
    return made(str(dataset), str(out), **{**SMALL, **settings})


def make_model(peers, kind, num_items=30, vectors=None, **settings):
    torch.manual_seed(0)
    return peers.peer.Peer(num_items, arguments(peers, kind, "", **settings), vectors).eval()


def states_of(model, histories, times=None):
    times = torch.zeros_like(histories) if times is None else times
    return model(histories, times, model.table())


def random_vectors(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_states_see_nothing_that_comes_later(peers, kind):
    model = make_model(peers, kind, vectors=random_vectors(30, 5))
    histories = torch.tensor([[3, 5, 8, 1], [3, 5, 9, -1]])
    times = torch.tensor([[10, 20, 30, 40], [10, 20, 50, -1]]) * DAY
    first, second = states_of(model, histories, times)
    torch.testing.assert_close(first[:2], second[:2])
    assert not torch.allclose(first[2], second[2])
    torch.testing.assert_close(states_of(model, histories[1:, :3], times[1:, :3])[0], second[:3])
    # Nor does a gradient reach what comes later.
    table = model.table().detach().requires_grad_()
    model(histories[:1], times[:1], table)[0, 1, 0].backward()
    assert table.grad[[3, 5]].abs().sum(dim=1).gt(0).all() and table.grad[[8, 1]].eq(0).all()


def test_the_block_of_hstu_is_the_papers(peers):
    """Against sums over places, one at a time."""
    torch.manual_seed(0)
    size, heads, longest = 8, 2, 5
    block = peers.hstu.HSTUBlock(size, heads, 0.3, longest).eval()
    torch.nn.init.normal_(block.distances)
    torch.nn.init.normal_(block.times)
    states, times = torch.randn(1, 4, size), torch.tensor([[0, 0, 3 * DAY, 3 * DAY + 100]])
    found = block(states, times)[0]

    def silu(values):
        return values / (1 + torch.exp(-values))

    def normed(values, norm):
        values = (values - values.mean()) / torch.sqrt(values.var(unbiased=False) + 1e-6)
        return values * norm.weight + norm.bias

    made = [silu(block.into.weight @ normed(state, block.norm)) for state in states[0]]
    for place in range(4):
        seen = torch.zeros(size)
        for earlier in range(place + 1):
            seconds = int(times[0, place] - times[0, earlier])
            bias = block.distances[place - earlier] + block.times[int(math.log(max(seconds, 1)) / 0.301)]
            for head in (slice(0, 4), slice(4, 8)):
                query, key = made[place][16:24][head], made[earlier][24:32][head]
                seen[head] += silu(query @ key + bias) / longest * made[earlier][8:16][head]
        expected = states[0, place] + block.out.weight @ (normed(seen, block.second_norm) * made[place][:8])
        torch.testing.assert_close(found[place], expected, rtol=1e-5, atol=1e-6)


def test_the_bias_of_hstu_reads_times_and_can_be_left_out(peers):
    histories = torch.tensor([[3, 5, 8]])
    early, late = torch.tensor([[0, DAY, 2 * DAY]]), torch.tensor([[0, DAY, 400 * DAY]])
    timed, blind = (make_model(peers, "hstu", time_bias=time_bias) for time_bias in (True, False))
    assert not torch.allclose(states_of(timed, histories, early), states_of(timed, histories, late))
    assert torch.equal(states_of(blind, histories, early), states_of(blind, histories, late))
    # Between the longest time that there is and the largest bucket.
    assert timed.layers[0].bias(torch.tensor([[0, 2**40]])).isfinite().all()


def test_content_is_added_to_the_rows(peers):
    vectors = random_vectors(30, 5)
    model = make_model(peers, "hstu", vectors=vectors)
    with torch.no_grad():
        model.content.weight.copy_(torch.randn(16, 5))
    centered = vectors - vectors.mean(axis=0)
    centered *= np.sqrt(5) / np.linalg.norm(centered, axis=1, keepdims=True)
    expected = model.items.weight[:30].detach().numpy() + centered @ model.content.weight.detach().numpy().T
    np.testing.assert_allclose(model.table()[:30].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.table()[30], model.items.weight[30])  # the padding's row


def test_names_and_encoders(peers):
    texts = {"content": True, "embeddings": "here/embeddings.minilm.safetensors"}
    cases = [
        ("sasrec", {}, "sasrec", None),
        ("sasrec", {"start_from": "log:1", "embeddings": "a.safetensors"}, "sasrec-init", None),
        ("sasrec", {"start_from": "texts", "embeddings": "a.safetensors"}, "sasrec-init", "a"),
        ("hstu", {}, "hstu-ids", None),
        ("hstu", {"start_from": "log:1", **texts}, "hstu", "minilm"),
        ("sasrec", texts, "sasrec-content", "minilm"),
    ]
    for kind, settings, name, encoder in cases:
        args = arguments(peers, kind, "", **settings)
        assert (args.name, args.encoder) == (name, encoder), settings


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_it_answers_with_the_neighbors_of_the_last_item(peers, kind, tmp_path):
    vectors = random_vectors(30, 16)
    model, args = make_model(peers, kind, vectors=random_vectors(30, 4)), arguments(peers, kind, tmp_path)
    model.start_from([vectors[:, :10], vectors[:, 10:]])
    table = model.table()[:30]
    assert float(table.detach().std()) == pytest.approx(args.table_std, rel=0.1)
    histories = Sequences.from_rows([np.array([4, 7]), np.array([2])])
    rows, scores = peers.peer.recommend(model, args, histories, 5, False)
    assert rows[0, 0] == 7 and rows[1, 0] == 2  # most like itself
    normed = torch.nn.functional.layer_norm(table[7], (16,))
    np.testing.assert_array_equal(rows[0], (table @ normed).topk(5).indices.numpy())
    removed, values = peers.peer.recommend(model, args, Sequences.from_rows([np.array([4, 7])]), 30, True)
    assert (
        not set(removed[0, :28]) & {4, 7}
        and removed[0, 28:].tolist() == [-1, -1]
        and np.isneginf(values[0, 28:]).all()
    )


def test_answers_read_the_times_of_the_last_events(peers):
    """As the states of a whole history of more items than the model reads, cut by hand."""
    model, args = make_model(peers, "hstu", max_history=3), arguments(peers, "hstu", "", max_history=3)
    torch.nn.init.normal_(model.layers[0].times, std=3.0)
    items, times = np.array([9, 4, 7, 2, 5]), np.array([1, 2, 3, 90, 91]) * DAY
    histories = Sequences(np.array([0, 5, 6]), np.append(items, 8).astype(np.int32), np.append(times, 5 * DAY))
    rows, scores = peers.peer.recommend(model, args, histories, 4, False)
    state = states_of(model, torch.from_numpy(items[None, 2:]), torch.from_numpy(times[None, 2:]))[0, -1]
    best = (model.items.weight[:30] @ state).topk(4)
    assert rows[0].tolist() == best.indices.tolist()
    np.testing.assert_allclose(scores[0], best.values.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_some_steps_make_a_model_of_the_small_set_better(peers, kind, tmp_path, dataset, embeddings):
    """Ten steps: 300 users with five targets each, twice, in batches of 300."""
    data = RecommendationData.load(dataset)
    settings = {"content": True, "embeddings": embeddings, "num_epochs": 2, "batch": 300, "learning_rate": 1e-2}
    args = arguments(peers, kind, tmp_path / kind, dataset, **settings)
    training = peers.peer_training.Training(args, data, data.leave_one_out())
    before = [weight.detach().clone() for weight in training.model.parameters()]
    training.run()
    first, second = training.curve
    assert second["loss"] < first["loss"]
    assert 0 < second["ndcg@10"] <= second["recall@10"] <= 1
    assert all(not torch.equal(one, two) for one, two in zip(before, training.model.parameters()))
    with pytest.raises(DataError, match="content: give the texts' vectors"):
        peers.peer.make_peer(arguments(peers, kind, tmp_path, content=True), data, data.leave_one_out())


def test_patience_ends_a_run(peers, tmp_path, dataset):
    data = RecommendationData.load(dataset)
    args = arguments(peers, "sasrec", tmp_path, dataset, num_epochs=9, patience=2)
    training = peers.peer_training.Training(args, data, data.leave_one_out())
    for values, ends in (([], False), ([1, 2], False), ([2, 1], False), ([2, 1, 1], True), ([3, 1, 2], True)):
        training.curve = [{"ndcg@10": value} for value in values]
        assert training.finished() == ends, values
    assert training.best_epoch == 1


def test_targets_follow_their_histories(peers):
    examples = [{"items": np.array([1, 2, 3, 4]), "first_target": 2}, {"items": np.array([5, 6]), "first_target": 1}]
    histories, targets = peers.peer_training.batch_of(examples)
    assert histories.tolist() == [[1, 2, 3], [5, 6, -1]] and targets.tolist() == [[-1, 3, 4], [6, -1, -1]]


def test_the_learning_rate_rises_and_falls(peers):
    rates = [peers.peer_training.schedule(step, 100) for step in range(100)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[51] == pytest.approx(0.5) and rates[99] < 0.001


def test_shares_of_the_vectors(peers, tmp_path, dataset):
    data = RecommendationData.load(dataset)
    split = data.leave_one_out()
    found = peers.peer.vectors_of(arguments(peers, "sasrec", tmp_path, start_from="log:3,words:1"), data, split)
    assert [part.shape for part in found] == [(data.num_items, 12), (data.num_items, 4)]
    with pytest.raises(DataError, match="expected log, words, texts"):
        peers.peer.vectors_of(arguments(peers, "sasrec", tmp_path, start_from="news:1"), data, split)
    with pytest.raises(DataError, match="give their vectors by --embeddings"):
        peers.peer.vectors_of(arguments(peers, "sasrec", tmp_path, start_from="texts"), data, split)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_goes_on_to_the_same_weights(peers, kind, tmp_path, dataset, monkeypatch):
    training = peers.peer_training.Training
    data = RecommendationData.load(dataset)
    split = data.leave_one_out()
    whole = training(arguments(peers, kind, tmp_path / "whole", dataset), data, split)
    whole.run()
    epoch = training._epoch

    def interrupted(self, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        return epoch(self, number, *rest)

    monkeypatch.setattr(training, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training(arguments(peers, kind, tmp_path / "other", dataset), data, split).run()
    monkeypatch.undo()
    stopped = training(arguments(peers, kind, tmp_path / "other", dataset, seconds=0.0), data, split)
    stopped.run()
    assert len(stopped.curve) == stopped.record()["epochs"] == 2  # no further epoch
    resumed = training(arguments(peers, kind, tmp_path / "other", dataset), data, split)
    assert len(resumed.curve) == 2
    resumed.run()
    assert resumed.curve == whole.curve and len(whole.curve) == 3
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    with pytest.raises(DataError, match="a run with other settings or data"):
        training(arguments(peers, kind, tmp_path / "other", dataset, dropout=0.5), data, split)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_ranks_are_those_of_the_best_epoch(peers, kind, tmp_path, dataset, monkeypatch):
    name = {"sasrec": "sasrec-init", "hstu": "hstu"}[kind]
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
    monkeypatch.setattr("sys.argv", [f"recipes/experiments/{kind}.py", *map(str, words)])
    getattr(peers, kind).main()
    rows = rows_of(tmp_path / "run" / "results")[name]
    assert set(rows) == {SETTING, SETTING.replace("removed", "kept")}
    row = rows[SETTING]
    curve = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert row["training"]["validation ndcg@10"] == max(one["ndcg@10"] for one in curve) and row["seeds"] == [0]
    assert row["encoder"] is None and "more than the hybrid, ndcg@10" in row["over users"]
    places = load_file(tmp_path / "ranks" / f"{name}-seed0.safetensors")[SETTING].astype(float)
    assert row["metrics"]["recall@10"] == pytest.approx((places < 10).mean(), abs=1e-5)
