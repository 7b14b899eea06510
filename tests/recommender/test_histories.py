"""Times of events when recommending: the features of evaluation, and unknown where there are none."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_model
from tests.rankers.two_stage.test_candidates import DAY, catalogue
from tests.rankers.two_stage.test_ranker import seasonal, seasons, tokenizer  # noqa: F401
from tiger.data.sequences import Sequences
from tiger.rankers.two_stage.candidates import Candidates
from tiger.rankers.two_stage.features import CandidateFeatures, reads_time
from tiger.recommender.histories import known_histories, read_moments, read_times
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.offline import recommend_users
from tiger.utils.errors import DataError


@pytest.fixture
def tiger(tokenizer, seasonal):  # noqa: F811
    return TigerRecommender(make_model(tokenizer), tokenizer, items=catalogue(), ranker=seasonal)


@pytest.fixture
def computed(monkeypatch) -> list[np.ndarray]:
    """Features of each batch, as the ranker reads them."""
    found, compute = [], CandidateFeatures.compute

    def kept(self, batch):
        found.append(compute(self, batch))
        return found[-1]

    monkeypatch.setattr(CandidateFeatures, "compute", kept)
    return found


def as_given(histories: Sequences) -> tuple[list[list[str]], list[list[int]]]:
    """Item ids and times as a user gives them."""
    items = [[f"item-{row}" for row in history] for history in histories]
    return items, [part.tolist() for part in np.split(histories.timestamps, histories.offsets[1:-1])]


def test_with_timestamps_the_features_are_those_of_evaluation(tiger, computed):
    histories, targets = seasons(3, 40)
    items, times = as_given(histories)
    rows, scores = tiger.recommend_rows(histories, k=5, num_beams=8)  # what evaluation calls
    answers, values = tiger.recommend(items, k=5, num_beams=8, timestamps=times)
    assert len(computed) == 2 and np.array_equal(*computed, equal_nan=True)
    assert np.array_equal(values, scores) and answers == [[f"item-{row}" for row in answer] for answer in rows]
    assert np.mean([answer[0] == f"item-{target}" for answer, target in zip(answers, targets)]) > 0.9
    ranked, logits = tiger.rank(items, [["item-2", "item-7"]] * 40, timestamps=times)
    want = tiger.ranker.score_sequences(histories, np.tile([2, 7], (40, 1)))
    np.testing.assert_array_equal(np.stack(logits), -np.sort(-want, axis=1))
    assert [one[0] for one in ranked] == ["item-2" if two >= seven else "item-7" for two, seven in want]


def test_without_timestamps_their_features_are_unknown(tiger, computed):
    histories, _ = seasons(3, 40)
    items, times = as_given(histories)
    names = tiger.ranker.candidates.names
    timed = [number for number, name in enumerate(names) if reads_time(name)]
    rest = [number for number in range(len(names)) if number not in timed]
    mixed = [own if user % 3 else None for user, own in enumerate(times)]
    options = {"k": 5, "num_beams": 8}
    found = [tiger.recommend(items, timestamps=given, **options) for given in (times, None, [None] * 40, mixed)]
    known, unknown, nones, both = computed
    assert np.isnan(unknown[..., timed]).all() and np.array_equal(unknown, nones, equal_nan=True)
    assert np.array_equal(known[..., rest], unknown[..., rest], equal_nan=True)
    told = np.arange(40) % 3 > 0
    assert np.array_equal(both, np.where(told[:, None, None], known, unknown), equal_nan=True)
    assert found[3][0] == [found[0 if yes else 1][0][user] for user, yes in enumerate(told)]
    assert found[0][0] != found[1][0] == found[2][0]


def test_times_of_unknown_items_go_with_them(tiger, tokenizer):  # noqa: F811
    with pytest.warns(UserWarning, match="'nobody'") as caught:
        known = known_histories(
            tokenizer, [["item-1", "nobody", "item-2"], ["nobody"], []], [[5, 7, 9], [8], []], [None, 8, 2]
        )
    assert caught[0].filename != known_histories.__code__.co_filename
    assert known.items.tolist() == [1, 2] and known.timestamps.tolist() == [5, 9] and known.at.tolist() == [0, 8, 2]
    assert known.ends.tolist() == [9, 8, 2]
    day = 137 * DAY
    times = [[day, day], [day, day, day]]
    with pytest.warns(UserWarning, match="left out"):
        answers, scores = tiger.recommend(
            [["item-11", "item-12"], ["nobody", "item-11", "item-12"]], k=3, num_beams=8, timestamps=times
        )
    assert answers[0] == answers[1] and answers[0][0] == "item-3" and np.array_equal(*scores)


def test_the_time_of_the_request(tiger):
    items, times = [["item-11", "item-12"]] * 3, [[125 * DAY, 126 * DAY], None, [125 * DAY, 126 * DAY]]
    options = {"k": 1, "num_beams": 8}
    assert tiger.recommend(items, timestamps=times, at=165 * DAY, **options)[0] == [["item-6"]] * 3
    mixed = tiger.recommend(items, timestamps=times, at=[None, 165 * DAY, np.int64(185 * DAY)], **options)[0]
    assert mixed == [["item-2"], ["item-6"], ["item-8"]]
    last = tiger.recommend(items[:1], timestamps=times[:1], at=126 * DAY, both_scores=True, **options)
    none = tiger.recommend(items[:1], timestamps=times[:1], both_scores=True, **options)
    assert last[0] == none[0] == [["item-2"]] and np.array_equal(last[1], none[1])
    assert tiger.recommend([[]], at=145 * DAY, **options)[0] == [["item-4"]]  # an empty history has a time, too
    ranked, _ = tiger.rank(items[:1], [["item-2", "item-6"]], at=165 * DAY)
    assert ranked == [["item-6", "item-2"]]


def test_all_users_of_a_log_get_what_each_gets_alone(tiger, tmp_path):
    histories, _ = seasons(4, 12)
    items, times = as_given(histories)
    users = [f"user {user}" for user in histories.users]
    log = {"user_id": users, "item_id": sum(items, []), "timestamp": histories.timestamps}
    pq.write_table(pa.table(log).take(np.random.default_rng(0).permutation(len(users))), tmp_path / "log.parquet")
    recommend_users(tiger, tmp_path / "log.parquet", tmp_path / "out.parquet", k=3, num_beams=8, bf16=False)
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    answers, scores = tiger.recommend(items, k=3, num_beams=8, timestamps=times)
    unlike, _ = tiger.recommend(items, k=3, num_beams=8)
    by_user = {user: [row for row in found if row["user_id"] == f"user {user}"] for user in range(12)}
    assert [[row["item_id"] for row in by_user[user]] for user in range(12)] == answers != unlike
    given = [[row["score"] for row in by_user[user]] for user in range(12)]
    np.testing.assert_allclose(given, scores, atol=1e-5)


@pytest.mark.parametrize(
    ("timestamps", "at", "message"),
    [
        ([[1, 2]], None, "timestamps: 1 lists for 2 histories"),
        ([[1], [3]], None, "timestamps, row 0: 1 times for 2 items"),
        ([None, [3, 4]], None, "timestamps, row 1: 2 times for 1 items"),
        ([[2, 1], [3]], None, "timestamps, row 0: 1 comes after 2. Give items and times oldest first"),
        ([[1, 2], [-3]], None, "timestamps, row 1: -3 is before 1970"),
        ([[1, 1_700_000_000_000], [3]], None, "timestamps, row 0: 1700000000000 .* Divide milliseconds by 1000"),
        ([[1, 10**30], [3]], None, "Divide milliseconds by 1000"),
        ([[1, 2.5], [3]], None, "timestamps, row 0: '2.5' is no time. Give whole seconds"),
        ([[1, "2024-01-31"], [3]], None, "'2024-01-31' is no time"),
        ([[True, 2], [3]], None, "'True' is no time"),
        ([[1, None], [3]], None, "'None' is no time"),
        ([5, [3]], None, "timestamps, row 0: 5 is no list of seconds"),
        (["12", [3]], None, "timestamps, row 0: '12' is no list of seconds"),
        ([[1, 9], [3]], 8, "at, row 0: 8 is before the history's last event, 9"),
        (None, [1, 2, 3], "at: 3 times for 2 histories"),
        (None, -1, "at, row 0: -1 is before 1970"),
        (None, [None, 10**12], "at, row 1: .* Divide milliseconds by 1000"),
        (None, "now", "at: 'now' is no time"),
        (None, 1.5, "at, row 0: '1.5' is no time"),
    ],
)
def test_bad_times_are_refused(tiger, timestamps, at, message):
    for call in (
        lambda **times: tiger.recommend([["item-1", "item-2"], ["item-3"]], k=1, num_beams=2, **times),
        lambda **times: tiger.rank([["item-1", "item-2"], ["item-3"]], [["item-5"]] * 2, **times),
    ):
        with pytest.raises(DataError, match=message):
            call(timestamps=timestamps, at=at)


def test_times_are_read_as_they_are_given():
    read = read_times([2, 0, 1], [np.array([3, 3]), (), None])
    assert [times.tolist() for times in read] == [[3, 3], [], [0]]
    assert [times.tolist() for times in read_times([1, 2], None)] == [[0], [0, 0]]
    assert read_moments(None, read) is None and read_moments(4, read).tolist() == [4, 4, 4]


def test_rankers_that_read_no_times_give_the_same_with_them(tokenizer):  # noqa: F811
    tiger = TigerRecommender(make_model(tokenizer), tokenizer)
    items, scores = tiger.recommend([["item-1", "item-2"]], k=4, num_beams=8)
    again, same = tiger.recommend([["item-1", "item-2"]], k=4, num_beams=8, timestamps=[[5, 6]], at=9)
    assert again == items and np.array_equal(scores, same)


def test_last_day_of_a_log():
    assert Candidates.fit(Sequences.from_rows([np.array([1, 2])]), catalogue()).last_day == 0
