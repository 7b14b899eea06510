import numpy as np
import pytest

from tiger.data.sequences import SECONDS_PER_DAY, Sequences
from tiger.rankers.click.dataset import (
    ImpressionsCollator,
    NegativeSampling,
    counts_before,
    draw_negatives,
    first_seen,
    history_ends,
    labeled_impressions,
    sampled_impressions,
)
from tiger.utils.errors import DataError

NUM_ITEMS = 60


def make_sequences(num_users=80, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 9, num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = random.integers(0, 50, offsets[-1])
    times = np.concatenate([np.sort(times[a:b]) for a, b in zip(offsets, offsets[1:])])
    return Sequences(offsets, random.integers(0, NUM_ITEMS, offsets[-1]).astype(np.int32), times.astype(np.int64))


def test_first_seen_and_history_ends():
    sequences = Sequences(
        np.array([0, 3, 5]), np.array([4, 1, 4, 1, 2], dtype=np.int32), np.array([10, 20, 20, 5, 30])
    )
    assert first_seen(sequences, 6)[[1, 2, 4]].tolist() == [5, 30, 10]
    assert first_seen(sequences, 6)[0] == np.iinfo(np.int64).max
    users, times = np.array([0, 0, 0, 1, 1]), np.array([10, 20, 21, 5, 31])
    assert history_ends(sequences, users, times).tolist() == [0, 1, 3, 3, 5]


def test_negatives_were_there_and_not_had():
    sequences = make_sequences()
    events = np.arange(len(sequences.items))
    seen = first_seen(sequences, NUM_ITEMS)
    drawn = draw_negatives(sequences, events, NUM_ITEMS)
    assert drawn.shape == (len(events), 4) and (drawn >= 0).mean() > 0.9
    for event, row in zip(events, drawn):
        user, now = sequences.users[event], sequences.timestamps[event]
        own = slice(sequences.offsets[user], sequences.offsets[user + 1])
        had = set(sequences.items[own][sequences.timestamps[own] <= now].tolist())
        for item in row[row >= 0]:
            assert seen[item] <= now and item not in had
        assert len(set(row[row >= 0])) == (row >= 0).sum()


def test_negatives_of_the_past_know_nothing_of_the_future():
    sequences = make_sequences()
    early = np.flatnonzero(sequences.timestamps < 25)
    drawn = draw_negatives(sequences, early, NUM_ITEMS)
    # Everything after the cut is changed, and nothing that was drawn before it changes.
    items = sequences.items.copy()
    items[sequences.timestamps >= 25] = (items[sequences.timestamps >= 25] + 7) % NUM_ITEMS
    other = Sequences(sequences.offsets, items, sequences.timestamps)
    assert np.array_equal(draw_negatives(other, early, NUM_ITEMS), drawn)
    lists, others = (sampled_impressions(log, early, drawn) for log in (sequences, other))
    index = np.arange(len(lists))
    assert np.array_equal(lists.history(index, 20), others.history(index, 20))


def shop(days_and_items, num_buyers=1000):
    """A user for each of these purchases, and ``num_buyers`` users who bought item 0 on day 10."""
    bought = [*days_and_items, *[(10, 0)] * num_buyers]
    days, items = np.array(bought).T
    return Sequences(np.arange(len(bought) + 1), items.astype(np.int32), days.astype(np.int64) * SECONDS_PER_DAY)


def test_popular_negatives_follow_counts_up_to_the_event():
    # Up to day 10 items 1, 2 and 3 were bought 10, 5 and 1 times, item 1 long ago; item 4 comes later, and often.
    sequences = shop([(1, 1)] * 10 + [(9, 2)] * 5 + [(10, 3)] + [(11, 4)] * 500)
    events = np.arange(516, len(sequences.items))

    def shares(first=1, **options):
        allowed = np.arange(6) >= first
        drawn = draw_negatives(sequences, events, 6, uniform=0, popular=1, allowed=allowed, **options)[:, 0]
        return np.bincount(drawn[drawn >= 0], minlength=6) / len(events)

    assert shares(smoothing=0) == pytest.approx([0, 10 / 16, 5 / 16, 1 / 16, 0, 0], abs=0.04)
    assert shares(smoothing=5) == pytest.approx([0, 15 / 31, 10 / 31, 6 / 31, 0, 0], abs=0.04)
    assert shares(smoothing=0, days=2) == pytest.approx([0, 0, 5 / 6, 1 / 6, 0, 0], abs=0.04)
    assert shares(smoothing=0, days=1) == pytest.approx([0, 0, 0, 1, 0, 0])
    assert shares(first=3) == pytest.approx([0, 0, 0, 1, 0, 0])
    assert shares(first=4) == pytest.approx(np.zeros(6))


def test_where_all_times_are_alike_the_whole_log_counts():
    sequences = shop([(10, 1)] * 30 + [(10, 2)] * 10)
    drawn = draw_negatives(
        sequences, np.arange(40, 1040), 3, uniform=0, popular=1, allowed=np.array([False, True, True])
    )
    assert np.bincount(drawn[:, 0], minlength=3) / 1000 == pytest.approx([0, 31 / 42, 11 / 42], abs=0.04)


@pytest.mark.parametrize("wrong", [{"days": 0}, {"smoothing": -1}, {"popular": -1}])
def test_sampling_that_makes_no_sense(wrong):
    with pytest.raises(DataError, match="must be"):
        NegativeSampling(**wrong)


def test_counts_before_a_time():
    sequences = make_sequences()
    items, times = np.array([[3, 5, 0], [3, 5, 59]]), np.array([[20], [51]])
    expected = [
        [((sequences.items == item) & (sequences.timestamps < time)).sum() for item in row]
        for row, (time,) in zip(items, times)
    ]
    assert counts_before(sequences, items, times).tolist() == expected and np.sum(expected) > 5


def test_histories_end_before_the_time_of_the_event():
    sequences = make_sequences()
    events = np.arange(len(sequences.items))
    lists = sampled_impressions(sequences, events, np.full((len(events), 1), -1))
    for event, history in zip(events, lists.history(events, 3)):
        user = sequences.users[event]
        own = slice(sequences.offsets[user], sequences.offsets[user + 1])
        before = sequences.items[own][sequences.timestamps[own] < sequences.timestamps[event]][-3:]
        assert history[history >= 0].tolist() == before.tolist()
    assert np.array_equal(lists.times, sequences.timestamps)
    assert np.array_equal(lists.select(np.arange(3, 9)).times, sequences.timestamps[3:9])
    assert (lists.labels[:, 1] == -100).all() and (lists.labels[:, 0] == 1).all()


def test_labeled_lists_keep_users_and_order():
    sequences = make_sequences()
    labels = np.arange(len(sequences.items)) % 2
    events = np.flatnonzero(sequences.timestamps < 40)
    lists = labeled_impressions(sequences, events, labels, sequences, together=3)
    present = lists.labels >= 0
    assert lists.candidates[present].tolist() == sequences.items[events].tolist()
    assert lists.labels[present].tolist() == labels[events].tolist()
    assert (np.repeat(lists.users, present.sum(1)) == sequences.users[events]).all()


def test_collator_names_each_item_once():
    sequences = make_sequences()
    events = np.arange(40)
    lists = sampled_impressions(sequences, events, np.full((40, 2), -1))
    rows = np.arange(NUM_ITEMS * 2, dtype=np.int32).reshape(NUM_ITEMS, 2)
    dense = np.random.default_rng(0).standard_normal((NUM_ITEMS, 4)).astype(np.float32)
    batch = ImpressionsCollator(lists, rows, dense, max_history=4)(list(range(10, 20)))
    names = batch["rows"][:, 0] // 2
    assert len(names.unique()) == len(names)
    assert names[batch["candidates"][:, 0]].tolist() == sequences.items[10:20].tolist()
    assert (batch["candidates"][:, 1:] == -1).all()
    history = np.where(batch["history"] >= 0, names[batch["history"].clamp(min=0)], -1)
    assert np.array_equal(history, lists.history(np.arange(10, 20), 4))
    assert np.array_equal(batch["dense"].numpy(), dense[names])
