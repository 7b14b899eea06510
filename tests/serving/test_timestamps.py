"""Times of events over HTTP: those of each request reach its own histories, and bad ones its own answer."""

import numpy as np
import pytest

from tests.rankers.two_stage.test_candidates import DAY
from tests.rankers.two_stage.test_ranker import seasonal, tokenizer  # noqa: F401
from tests.recommender.test_histories import tiger  # noqa: F401
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search_options import SearchOptions
from tiger.serving.answers import RecommendCall, answer_rank, answer_recommend
from tiger.serving.live import LiveRecommender, UnknownItems
from tiger.serving.query import Query, QueryBatch

HISTORY = ["item-11", "item-12"]
TIMES = [125 * DAY, 126 * DAY]  # in the season of item 2


def test_requests_with_and_without_times_share_a_batch(tiger: TigerRecommender):  # noqa: F811
    now = LiveRecommender(tiger).now
    queries = [
        Query([HISTORY]),
        Query([HISTORY, ["nobody", "item-11"], []], timestamps=[None, [125 * DAY, 165 * DAY], []]),
        Query([["nobody"]], strict=True, timestamps=[[5]]),
        Query([HISTORY, HISTORY], timestamps=[TIMES, TIMES]),
        Query([HISTORY, []], at=185 * DAY),
    ]
    call = RecommendCall(k=2, rank=True, search=SearchOptions(num_beams=8), alone=None)
    together = answer_recommend(now, call, queries)
    assert isinstance(together[2], UnknownItems)
    for query, found in zip(queries, together):
        (alone,) = answer_recommend(now, call, [query])
        if not isinstance(found, UnknownItems):
            assert found.batch == 8 and found.items == alone.items
            np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    assert [items[0] for items in together[3].items] == ["item-2"] * 2
    assert [items[0] for items in together[4].items] == ["item-8"] * 2
    assert together[1].items[1][0] == "item-6" and together[1].unknown == [[], ["nobody"], []]
    assert together[1].items[0] == together[0].items[0]
    wanted = [["item-2", "item-6"]]
    ranked = answer_rank(
        now, [Query([HISTORY], False, [TIMES], None, wanted), Query([HISTORY], at=165 * DAY, candidates=wanted)]
    )
    assert [answer.items[0][0] for answer in ranked] == ["item-2", "item-6"]


def test_a_query_without_items():
    query = Query([["a", "b", "a"], ["c"]], timestamps=[[1, 2, 3], None])
    less = query.without([["a"], []])
    assert less.histories == [["b"], ["c"]] and less.timestamps == [[2], None]
    assert Query([["a", "b"]]).without([["a"]]).timestamps is None
    batch = QueryBatch.of([less, Query([[], []], at=7)])
    assert batch.timestamps == [[2], None, None, None] and batch.at == [None, None, 7, 7]


def test_over_http(tiger: TigerRecommender):  # noqa: F811
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")
    from fastapi.testclient import TestClient

    from tiger.serving.service import create_app

    with TestClient(create_app(tiger), base_url="http://localhost") as client:

        def first(path: str = "/recommend", **body) -> list[str]:
            body = {"k": 1, "num_beams": 8} | body if path == "/recommend" else body
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return [one["items"][0] for one in answer.json()["recommendations"]]

        two = {"histories": [HISTORY, HISTORY]}
        assert first(**two, timestamps=[TIMES, [float(time + 40 * DAY) for time in TIMES]]) == ["item-2", "item-6"]
        unknown = first(**two)
        assert first(**two, timestamps=None, at=None) == unknown
        assert first(**two, timestamps=[None, TIMES]) == [unknown[0], "item-2"]
        assert first(**two, timestamps=[TIMES, None], at=185 * DAY) == ["item-8"] * 2
        lists = [{"history": HISTORY, "candidates": ["item-2", "item-6"], "timestamps": TIMES}]
        assert first("/rank", lists=lists) == ["item-2"]
        assert first("/rank", lists=lists, at=165 * DAY) == ["item-6"]

        for path, body, message in (
            ("/recommend", two | {"timestamps": [TIMES]}, "timestamps: 1 lists for 2 histories"),
            ("/recommend", two | {"timestamps": [[5], None]}, "timestamps, row 0: 1 times for 2 items"),
            ("/recommend", two | {"timestamps": [None, TIMES[::-1]]}, "row 1: 10800000 comes after 10886400"),
            ("/recommend", two | {"timestamps": [[5, 10**12], None]}, "Divide milliseconds by 1000"),
            ("/recommend", two | {"timestamps": [[-5, 6], None]}, "timestamps, row 0: -5 is before 1970"),
            ("/recommend", two | {"timestamps": [[5.5, 6], None]}, "body.timestamps.0.0: Input should be a"),
            ("/recommend", two | {"timestamps": [["5", 6], None]}, "Input should be a valid integer"),
            ("/recommend", two | {"timestamps": [TIMES] * 65}, "body.timestamps: List should have at most 64 items"),
            ("/recommend", two | {"timestamps": [TIMES, None], "at": 5}, "at, row 0: 5 is before the history's"),
            ("/rank", {"lists": lists, "at": 5}, "at, row 0: 5 is before the history's last event, 10886400"),
            ("/rank", {"lists": [lists[0] | {"timestamps": [1]}]}, "timestamps, row 0: 1 times for 2 items"),
        ):  # fmt: skip
            answer = client.post(path, json=body)
            assert answer.status_code == 422 and message in answer.json()["error"], answer.text
        schema = client.get("/openapi.json").json()["components"]["schemas"]
        assert {"timestamps", "at"} <= set(schema["RecommendRequest"]["properties"])
        assert "timestamps" in schema["CandidateList"]["properties"] and "at" in schema["RankRequest"]["properties"]
        assert '"maximum": 100000000000' in str(schema["RecommendRequest"]).replace("'", '"')
        assert any("timestamps" in example for example in schema["RecommendRequest"]["examples"])
