"""An update of the catalog while something is answered: all of it is of the moment at which it began."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_recommender
from tests.rankers.test_base import LongestId, values_of
from tiger.recommender.recommender import TigerRecommender
from tiger.serving import offline
from tiger.serving.item_columns import item_columns
from tiger.serving.offline import recommend_users

ITEMS = 30
IDS = [f"item-{row}" for row in range(ITEMS)]


class FarFromLast(LongestId):
    """Prefers items whose numbers are far from that of the history's last item."""

    def score(self, histories, candidates):
        last = np.array([self.values[history[-1]] for history in histories])[:, None]
        return np.where(candidates < 0, -np.inf, np.abs(self.values[candidates] - last)).astype(np.float32)


def make_tiger(kind=TigerRecommender):
    tiger = make_recommender(ITEMS, items=pa.table({"item_id": IDS, "title": [f"title of {item}" for item in IDS]}))
    tiger.ranker = FarFromLast(values_of(IDS))
    return kind.from_state(tiger.state)


class Restless(TigerRecommender):
    """Another thread removes the first item whenever somebody has looked: every row then means the next item."""

    @property
    def state(self):
        now = self.now
        other = TigerRecommender.from_state(now)
        other.remove_items([now.tokenizer.item_ids[0]])
        self.now = other.state
        return now

    @state.setter
    def state(self, state):
        self.now = state


@pytest.mark.parametrize(
    "ask",
    [
        lambda tiger: tiger.recommend([["item-3", "item-9"], ["item-20"]], k=5, num_beams=20, rank=False)[0],
        lambda tiger: tiger.recommend([["item-3", "item-9"]], k=5, num_beams=20, filter="title != 'x'")[0],
        lambda tiger: tiger.rank([["item-3"]], [["item-7", "item-12", "item-4"]])[1][0].tolist(),
        lambda tiger: tiger.titles(["item-5", "item-20"]),
        lambda tiger: item_columns(tiger, [["item-5", "item-20"]], ["title"]),
    ],
)
def test_answers_are_those_of_before_the_update(ask):
    assert ask(make_tiger(Restless)) == ask(make_tiger())


def test_answers_to_a_log_are_those_of_before_the_update(tmp_path, monkeypatch):
    columns = {
        "user_id": list("aabbc"),
        "item_id": [IDS[row] for row in (3, 9, 20, 4, 29)],
        "timestamp": [1, 2] * 2 + [1],
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")

    def answers(name, tiger):
        recommend_users(tiger, tmp_path / "log.parquet", tmp_path / name, k=3, num_beams=20, bf16=False)
        return sorted(map(str, pq.read_table(tmp_path / name).to_pylist()))

    tiger, partition = make_tiger(), offline._partition
    expected = answers("before", tiger)

    def followed_by_an_update(*arguments):
        found = partition(*arguments)
        tiger.remove_items(["item-0"])
        return found

    monkeypatch.setattr(offline, "_partition", followed_by_an_update)
    assert answers("meanwhile", tiger) == expected and len(tiger.tokenizer) == ITEMS - 1
