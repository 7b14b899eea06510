"""Times of events on the command line and in its lines, and evaluation without them."""

import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.test_main import tiger  # noqa: F401
from tests.rankers.two_stage.test_candidates import DAY
from tests.rankers.two_stage.test_ranker import seasonal, seasons, tokenizer  # noqa: F401
from tests.recommender.test_histories import as_given
from tests.recommender.test_histories import tiger as recommender  # noqa: F401
from tiger.evaluation.metrics import next_item_metrics
from tiger.recommender.recommender import TigerRecommender

TIMES = (125 * DAY, 126 * DAY)  # in the season of item 2


@pytest.fixture
def folder(recommender, tmp_path):  # noqa: F811
    recommender.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_one_history(tiger, folder):  # noqa: F811
    history = ("recommend", folder, "--history", "item-11", "item-12", "-k", 1, "--num_beams", 8, "--json")

    def first(*more) -> str:
        return json.loads(tiger(*history, *more).out)[0]["item_id"]

    assert first("--timestamps", *TIMES) == "item-2" and first("--at", 165 * DAY) == "item-6"
    assert first("--timestamps", *TIMES, "--at", 185 * DAY) == "item-8"
    ranked = ("rank", folder, "--history", "item-11", "item-12", "--candidates", "item-2", "item-6", "--json")
    assert json.loads(tiger(*ranked, "--timestamps", *TIMES).out)[0]["item_id"] == "item-2"
    assert json.loads(tiger(*ranked, "--at", 165 * DAY).out)[0]["item_id"] == "item-6"
    for more, message in (
        (("--timestamps", 5), "timestamps, row 0: 1 times for 2 items"),
        (("--timestamps", 5, 10**12), "Divide milliseconds by 1000"),
        (("--timestamps", 7, 5), "5 comes after 7"),
        (("--timestamps", *TIMES, "--at", 9), "at, row 0: 9 is before the history's last event"),
    ):
        shown = tiger(*history, *more, code=2)
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and message in shown.err
    lines = tiger("recommend", folder, "--histories", "-", "--timestamps", 5, code=2)
    assert "--timestamps and --at belong to --history" in lines.err


def test_lines(tiger, folder, monkeypatch):  # noqa: F811
    history = {"history": ["item-11", "item-12"]}
    rows = [
        history | {"timestamps": TIMES, "user": 1},
        history,
        history | {"timestamps": None, "at": 165 * DAY},
        history | {"timestamps": TIMES, "at": 185 * DAY},
        ["item-11", "item-12"],
    ]
    options = ("recommend", folder, "--histories", "-", "-k", 1, "--num_beams", 8)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(row) + "\n" for row in rows)))
    found = [json.loads(line) for line in tiger(*options).out.splitlines()]
    items = [row["items"][0]["item_id"] for row in found]
    assert items[0] == "item-2" and items[2:4] == ["item-6", "item-8"] and items[1] == items[4]
    assert list(found[0]) == ["user", "items"] and list(found[2]) == ["items"]
    for row, message in (
        (history | {"timestamps": [5]}, "standard input, line 2, timestamps: 1 times for 2 items"),
        (history | {"timestamps": 5}, "standard input, line 2, timestamps: 5 is no list of seconds"),
        (history | {"timestamps": [5, 1.7e12]}, "line 2, timestamps: '1700000000000.0' is no time"),
        (history | {"timestamps": TIMES, "at": "now"}, "standard input, line 2, at: 'now' is no time"),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f'["item-1"]\n{json.dumps(row)}\n'))
        assert message in tiger(*options, "--batch_users", 1, code=2).err


def test_evaluation_with_and_without(tiger, folder, recommender, tmp_path):  # noqa: F811
    histories, targets = seasons(5, 60)
    items, times = as_given(histories)
    log = {
        "user_id": [f"u{user:02}" for user in range(60) for _ in range(3)],
        "item_id": [item for own, target in zip(items, targets) for item in (*own, f"item-{target}")],
        "timestamp": [time for own in times for time in (*own, own[-1] + 5)],
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(log), tmp_path / "data" / "interactions.parquet")
    pq.write_table(recommender.items, tmp_path / "data" / "items.parquet")
    options = ("evaluate", folder, tmp_path / "data", "--num_beams", 10, "--no_bf16", "--json")
    known, unknown = json.loads(tiger(*options).out), json.loads(tiger(*options, "--no_timestamps").out)
    saved = TigerRecommender.from_pretrained(folder)  # whose content vectors are rounded to float16
    for found, given in ((known, times), (unknown, None)):
        answers, _ = saved.recommend(items, num_beams=10, timestamps=given)
        ranked = np.array([[int(item[5:]) for item in answer] for answer in answers])
        for name, value in next_item_metrics(ranked, targets).items():
            assert found[name] == pytest.approx(value), name
    assert known["ndcg@10"] > 0.9 > 0.6 > unknown["ndcg@10"]
    assert "timestamps" not in known and unknown["timestamps"] is False
    assert "measured without timestamps" in tiger(*options[:-1], "--no_timestamps").out
