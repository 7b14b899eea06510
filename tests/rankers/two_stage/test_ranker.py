import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import make_model
from tests.rankers.two_stage.test_candidates import DAY, catalogue, codes, sequences, vectors
from tests.retriever.test_memory import make_memory
from tiger.evaluation.metrics import next_item_metrics
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.ranker import SETTINGS, TREES, TwoStageRanker, _Examples
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.serving.offline import recommend_users
from tiger.utils.errors import DataError

SIZE = 40
SETTINGS_OF_TREES = {"max_trees": 40, "learning_rate": 0.2, "num_leaves": 7}


def follow(seed: int, num_users: int = 600):
    """Histories whose next item is 10 further on: the log says it, among many pairs that say nothing."""
    random = np.random.default_rng(seed)
    users = []
    for _ in range(num_users):
        item, day, events = int(random.integers(SIZE)), 100, []
        for _ in range(4):
            day += int(random.integers(1, 30))
            events += [(item, day), (int(random.integers(SIZE)), day + 1)]
            item = (item + 10) % SIZE
        users.append(events[:-1])
    everything = sequences(users)
    targets = everything.items[everything.offsets[1:] - 1]
    return everything.drop_last(1), targets.astype(np.int64)


def seasons(seed: int, num_users: int):
    """Histories whose next item is that of the season, which only the day tells: items 0 to 9, ten days each."""
    random = np.random.default_rng(seed)
    days = random.integers(100, 200, num_users)
    histories = sequences([[(int(random.integers(10, SIZE)), int(day) - 1), (10 + day % 30, day)] for day in days])
    return histories, (days - 100) // 10


@pytest.fixture(scope="module")
def seasonal(tokenizer):
    """A ranker of the seasons, and the log, in which each item of a season is bought once a day, alone."""
    train = sequences([[((day - 100) // 10, day)] for day in range(100, 200) for _ in range(3)])
    candidates = Candidates.fit(train, catalogue(), codes=codes(), vectors=vectors(), num_proposed=SIZE)
    histories, targets = seasons(1, 400)
    options = SETTINGS_OF_TREES | {"time_dropout": 0.3}
    return TwoStageRanker.fit(candidates, candidates.propose(histories), targets, tokenizer.fingerprint, **options)


@pytest.fixture(scope="module")
def tokenizer():
    return SemanticIdTokenizer(codes(), [f"item-{row}" for row in range(SIZE)], 8)


@pytest.fixture(scope="module")
def fitted(tokenizer):
    train, _ = follow(0)
    candidates = Candidates.fit(train, catalogue(), codes=codes(), vectors=vectors(), num_proposed=20)
    histories, targets = follow(1)
    beams = np.random.default_rng(0).permuted(np.tile(np.arange(SIZE), (len(targets), 1)), axis=1)[:, :5]
    scores = np.sort(np.random.default_rng(1).normal(size=beams.shape), axis=1)[:, ::-1].astype(np.float32)
    return TwoStageRanker.fit(
        candidates, candidates.propose(histories, beams, scores), targets, tokenizer.fingerprint, **SETTINGS_OF_TREES
    )


def proposals(count: int):
    beams = np.random.default_rng(2).permuted(np.tile(np.arange(SIZE), (count, 1)), axis=1)[:, :5]
    return beams, np.tile(np.linspace(-1, -5, 5, dtype=np.float32), (count, 1))


def test_the_trees_beat_the_order_they_are_given(fitted):
    histories, targets = follow(2, 300)
    beams, scores = proposals(300)
    rows, t5, trees = fitted.order(histories, beams, scores, k=10, exclude_history=False)
    given = fitted.candidates.propose(histories, exclude_history=False).rows[:, :10]
    assert next_item_metrics(rows, targets)["ndcg@10"] > 1.3 * next_item_metrics(given, targets)["ndcg@10"]
    assert (np.diff(trees, axis=1) <= 0).all()
    user, place = np.argwhere(np.isin(rows, beams[0]) & (np.arange(300) == 0)[:, None])[0]
    assert t5[user, place] == scores[0, list(beams[0]).index(rows[user, place])]
    assert 0 < fitted.record["held out ndcg@10"] <= 1 and fitted.record["users held out"] == 300


def test_what_is_left_out_is_not_read(tokenizer):
    train, _ = follow(0, 200)
    histories, targets = follow(1, 200)
    beams, scores = proposals(200)
    candidates = Candidates.fit(train, catalogue(), codes=codes(), vectors=vectors(), num_proposed=20)
    ranker = TwoStageRanker.fit(
        candidates, candidates.propose(histories, beams, scores), targets, without=("t5", "codes"), **SETTINGS_OF_TREES
    )
    assert {name.split(":")[0] for name in ranker.columns} == {"log", "text", "item", "time"}
    other = np.roll(beams, 1, axis=0)
    one, two = (ranker.order(histories, given, scores, k=5) for given in (beams, other))
    assert np.array_equal(one[0], two[0]) and np.isneginf(one[1]).all()


def test_equal_seeds_give_equal_trees(tokenizer):
    train, _ = follow(0, 200)
    histories, targets = follow(1, 200)
    candidates = Candidates.fit(train, catalogue(), num_proposed=20)
    one, two = (
        TwoStageRanker.fit(candidates, candidates.propose(histories), targets, **SETTINGS_OF_TREES) for _ in range(2)
    )
    assert one.trees[0].model_to_string() == two.trees[0].model_to_string() and one.record == two.record


def test_several_seeds_take_the_mean(tokenizer, tmp_path):
    train, _ = follow(0, 200)
    histories, targets = follow(1, 200)
    candidates = Candidates.fit(train, catalogue(), num_proposed=20)
    proposals = candidates.propose(histories)
    fits = [
        TwoStageRanker.fit(candidates, proposals, targets, "", seed=seed, **SETTINGS_OF_TREES | {"max_trees": 5})
        for seed in (0, 0)
    ]
    two = TwoStageRanker.fit(candidates, proposals, targets, num_seeds=2, **SETTINGS_OF_TREES | {"max_trees": 5})
    assert len(two.trees) == len(two.record["trees"]) == 2
    assert two.trees[0].model_to_string() == fits[0].trees[0].model_to_string()
    alone = TwoStageRanker(candidates, two.trees[1:], two.columns, "")
    mean = (fits[0].best(proposals, 5)[2][:, 0], alone.best(proposals, 5)[2][:, 0])
    assert (two.best(proposals, 5)[2][:, 0] <= np.maximum(*mean) + 1e-6).all()
    one, other, both = (
        np.where(proposals.rows < 0, 0, ranker._predict(proposals)) for ranker in (fits[0], alone, two)
    )
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)
    assert not np.allclose(one, other)


def test_no_target_among_the_candidates():
    train, _ = follow(0, 200)
    histories, targets = follow(1, 200)
    candidates = Candidates.fit(train, catalogue(), num_proposed=20)
    with pytest.raises(DataError, match="no target is among its candidates"):
        TwoStageRanker.fit(candidates, candidates.propose(histories), np.full(len(targets), -5))


def test_in_a_recommender_and_back_from_disk(fitted, tokenizer, tmp_path, monkeypatch):
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), ranker=fitted)
    histories = [["item-3", "item-20", "item-13"], ["item-1"], []]
    items, scores = tiger.recommend(histories, k=6, num_beams=8, both_scores=True)
    assert scores.shape == (3, 6, 2) and all(len(set(answer)) == 6 for answer in items)
    assert not set(items[0]) & set(histories[0])
    # What the T5 did not propose has no probability under it, and is there all the same.
    proposed = {item for item in tiger.recommend([histories[0]], k=8, num_beams=8, rank=False)[0][0]}
    for item, (t5, tree) in zip(items[0], scores[0]):
        assert np.isfinite(t5) == (item in proposed) and np.isfinite(tree)
    users = [[f"item-{row}" for row in history] for history in follow(2, 10)[0]]
    ordered, beams = (tiger.recommend(users, k=8, num_beams=8, rank=rank)[0] for rank in (True, False))
    assert any(not set(answer) <= set(found) for answer, found in zip(ordered, beams))
    ranked, values = tiger.rank([histories[0]], [["item-23", "item-2"]])
    assert sorted(ranked[0]) == ["item-2", "item-23"] and values[0][0] >= values[0][1]

    with pytest.raises(DataError, match="include_items"):
        tiger.push_to_hub("me/model")
    tiger.save_pretrained(tmp_path / "model")
    again = TigerRecommender.from_pretrained(tmp_path / "model")
    assert isinstance(again.ranker, TwoStageRanker) and again.ranker.record == fitted.record
    other_items, other_scores = again.recommend(histories, k=6, num_beams=8, both_scores=True)
    assert other_items == items and np.allclose(other_scores, scores, atol=1e-5)

    again.remove_items([items[1][0]])
    assert items[1][0] not in again.recommend(histories, k=6, num_beams=8)[0][1]

    # What is wrong with a ranker is no matter to who makes it anew.
    with monkeypatch.context() as patched:
        patched.setattr("tiger.rankers.two_stage.ranker.FORMAT", 1)
        with pytest.raises(DataError, match="recipes/two_stage.py again"):
            TigerRecommender.from_pretrained(tmp_path / "model")
        assert TigerRecommender.from_pretrained(tmp_path / "model", rank=False).ranker is None

    folder = tmp_path / "ranker"
    fitted.save_pretrained(folder)
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | {"semantic_ids": "other"}))
    with pytest.raises(DataError, match="other semantic IDs"):
        TwoStageRanker.from_pretrained(folder, tokenizer, catalogue())
    (folder / SETTINGS).write_text(json.dumps(settings))
    (folder / TREES).write_text(json.dumps({"lightgbm": ["tree\nnonsense"]}))
    with pytest.raises(DataError, match="trees.json"):
        TwoStageRanker.from_pretrained(folder, tokenizer, catalogue())


def test_in_bfloat16(fitted, tokenizer):
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), ranker=fitted)
    histories = [["item-3", "item-20", "item-13"], []]
    with torch.autocast("cpu", torch.bfloat16):
        items, scores = tiger.recommend(histories, k=5, num_beams=SIZE)
        whole = fitted.candidates.describe(sequences([[(3, 100), (20, 101)]]), np.arange(SIZE)[None])
    plain = fitted.candidates.describe(sequences([[(3, 100), (20, 101)]]), np.arange(SIZE)[None])
    assert np.array_equal(whole.columns, plain.columns, equal_nan=True)
    assert all(len(answer) == 5 for answer in items) and np.isfinite(scores).all()


def test_all_users_of_a_log_file_to_file(fitted, tokenizer, tmp_path):
    tiger = TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), ranker=fitted)
    users, items = ["ann", "ann", "bob"], ["item-3", "item-20", "item-5"]
    log = pa.table({"user_id": users, "item_id": items, "timestamp": [86400, 2 * 86400, 86400]})
    pq.write_table(log, tmp_path / "log.parquet")
    recommend_users(tiger, tmp_path / "log.parquet", tmp_path / "out.parquet", k=4, num_beams=8, bf16=False)
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["user_id"] for row in found] == ["ann"] * 4 + ["bob"] * 4
    assert {row["item_id"] for row in found[:4]}.isdisjoint(items[:2])


def test_trees_learn_what_to_do_without_times(tokenizer, seasonal):
    assert seasonal.reads_times and not seasonal.assume_last_day and seasonal.record["time_dropout"] == 0.3
    assert seasonal.record["held out ndcg@10"] > 0.95
    # Without a day, ten of forty items are equally likely: .454 if it knows the ten, .114 if it knows nothing.
    assert 0.2 < seasonal.record["held out ndcg@10, no timestamps"] < 0.5
    histories, targets = seasons(2, 300)
    none = np.empty((300, 0))
    with_times, without = (
        seasonal.order(part, none.astype(int), none, k=10) for part in (histories, histories.without_timestamps())
    )
    assert (with_times[0][:, 0] == targets).mean() > 0.9 > 0.4 > (without[0][:, 0] == targets).mean()
    given = seasonal.candidates.propose(histories)
    hidden = seasonal.best(seasonal.candidates.without_times(given), 10)
    assert all(np.array_equal(one, two) for one, two in zip(without, hidden))
    assert all(np.array_equal(one, two) for one, two in zip(with_times, seasonal.best(given, 10)))


def test_which_users_times_are_hidden_depends_on_the_seed():
    hides = [np.random.default_rng([seed, 1]).random(600) < 0.3 for seed in (0, 1)]
    assert [int(one.sum()) for one in hides] == [170, 174]
    candidates = Candidates.fit(follow(0, 200)[0], catalogue(), num_proposed=20)
    histories, targets = follow(2, 300)
    given, hidden = candidates.propose(histories), hides[0][:300]
    data = _Examples(given, targets, hidden, candidates.names, candidates.names).lists(np.ones(300, dtype=bool))
    hit = (given.rows == targets[:, None]).any(axis=1)
    assert len(data.data) == (given.rows[hit] >= 0).sum()  # no row comes or goes
    for name in ("item: total", "log: soon a total, 5", "time: events from day -7 to 0"):
        column = data.data[:, candidates.names.index(name)]
        per_user = np.split(column, np.cumsum(data.group)[:-1])
        unknown = [bool(np.isnan(values).all()) for values in per_user]
        assert unknown == hidden[hit].tolist() or name.startswith("time")
        assert all(gone for gone, values in zip(unknown, hidden[hit]) if values)
    assert np.isfinite(data.data[:, candidates.names.index("log: next, 5")]).all()
    assert np.isfinite(given.columns[hit][..., candidates.names.index("item: total")]).all()  # theirs is a copy


def test_trees_that_know_all_times_count_a_history_without_as_ending_on_the_last_day(tokenizer, fitted, tmp_path):
    train, _ = follow(0, 200)
    histories, targets = follow(1, 200)
    candidates = Candidates.fit(train, catalogue(), codes=codes(), vectors=vectors(), num_proposed=20)
    given = candidates.propose(histories)
    options = SETTINGS_OF_TREES | {"without": ("t5",)}
    old = TwoStageRanker.fit(candidates, given, targets, tokenizer.fingerprint, **options)
    assert old.assume_last_day and "held out ndcg@10, no timestamps" not in old.record
    last = int(train.timestamps.max()) // DAY
    none = np.empty((200, 0))
    asked = replace(histories.without_timestamps(), at=np.full(200, last * DAY + 5))
    without = old.order(histories.without_timestamps(), none.astype(int), none, k=10)
    at_the_end = old.order(asked, none.astype(int), none, k=10)
    assert all(np.array_equal(one, two) for one, two in zip(without, at_the_end))
    rows = np.tile(np.arange(SIZE), (200, 1))
    np.testing.assert_array_equal(old.score(list(histories), rows), old.score_sequences(asked, rows))
    # It stays so on disk, in a file of today and in one of then.
    old.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert settings["format"] == 6 and settings["assume_last_day"] is True
    (tmp_path / SETTINGS).write_text(
        json.dumps({name: value for name, value in settings.items() if name != "assume_last_day"} | {"format": 4})
    )
    again = TwoStageRanker.from_pretrained(tmp_path, tokenizer, catalogue())
    assert again.assume_last_day
    read = again.order(histories.without_timestamps(), none.astype(int), none, k=10)
    assert np.array_equal(read[0], without[0])
    (tmp_path / SETTINGS).write_text(json.dumps(settings | {"assume_last_day": "yes"}))
    with pytest.raises(DataError, match="assume_last_day"):
        TwoStageRanker.from_pretrained(tmp_path, tokenizer, catalogue())
    (tmp_path / SETTINGS).write_text(json.dumps(settings | {"assume_last_day": False}))
    assert not TwoStageRanker.from_pretrained(tmp_path, tokenizer, catalogue()).assume_last_day


def test_timestamps_matter_where_there_are_any(fitted):
    histories, _ = follow(3, 50)
    candidates = fitted.candidates
    rows = candidates.propose(histories).rows
    later = type(histories)(histories.offsets, histories.items, histories.timestamps + 900 * DAY)
    column = candidates.names.index("time: days since its first event")
    one, two = (candidates.describe(part, rows).columns[..., column] for part in (histories, later))
    assert np.array_equal(two - one, np.full(one.shape, 900.0))


@pytest.mark.parametrize("learned", [True, False])
def test_trees_are_not_asked_for_searches_that_they_have_not_learned_from(fitted, tokenizer, tmp_path, learned):
    """The scores of the T5 and those that are mixed with a memory's differ, and the trees read them."""
    known = fitted.candidates, fitted.trees, fitted.columns, tokenizer.fingerprint
    ranker = TwoStageRanker(*known, learned_with_memory=learned)
    made = TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), ranker=ranker, memory=make_memory())
    made.save_pretrained(tmp_path / "model")
    tiger = TigerRecommender.from_pretrained(tmp_path / "model")
    history = [["item-3", "item-20"]]
    assert len(tiger.recommend(history, k=5, num_beams=8, memory=learned)[0][0]) == 5
    with pytest.raises(DataError, match=f"learned from searches {'with' if learned else 'without'} a memory"):
        tiger.recommend(history, k=5, num_beams=8, memory=not learned)
    assert len(tiger.recommend(history, k=5, num_beams=8, memory=not learned, rank=False)[0][0]) == 5
    # What reads no scores, and what was saved before this was kept, takes either.
    bare = [name for name in fitted.columns if not name.startswith("t5")]
    assert (
        TwoStageRanker(fitted.candidates, fitted.trees, bare, "", learned_with_memory=learned).learned_with_memory
        is None
    )
    file = tmp_path / "model" / "ranker" / SETTINGS
    settings = json.loads(file.read_text())
    assert settings.pop("learned_with_memory") is learned
    file.write_text(json.dumps(settings))
    old = TwoStageRanker.from_pretrained(file.parent, tokenizer, catalogue())
    assert old.learned_with_memory is None
    file.write_text(json.dumps(settings | {"learned_with_memory": "yes"}))
    with pytest.raises(DataError, match="learned_with_memory"):
        TwoStageRanker.from_pretrained(file.parent, tokenizer, catalogue())


def test_the_fit_keeps_what_it_is_told_of_the_beams(fitted, tokenizer):
    histories, targets = follow(1)
    beams = np.tile(np.arange(5), (len(targets), 1))
    given = fitted.candidates.propose(histories, beams, np.zeros(beams.shape, dtype=np.float32))
    options = SETTINGS_OF_TREES | {"max_trees": 2}
    for told in (True, False, None):
        ranker = TwoStageRanker.fit(
            fitted.candidates, given, targets, tokenizer.fingerprint, with_memory=told, **options
        )
        assert ranker.reads_t5 and ranker.learned_with_memory is told
