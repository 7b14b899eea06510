"""Services that share a log of updates: one order, the same catalog everywhere, nothing lost by a restart."""

from __future__ import annotations

import copy
import json
import threading
import time

import numpy as np
import pytest

from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tiger.serving import replicated
from tiger.serving.live import ReloadFailed, SaveConflict, UnknownItems
from tiger.serving.replicated import ReplicatedRecommender
from tiger.serving.update_log import UpdateLog
from tiger.utils.errors import DataError
from tiger.utils.stores import open_store

NEW = "wool socks number 90"


@pytest.fixture
def place(tmp_path) -> str:
    return str(tmp_path / "log")


def service(recommender, place: str) -> ReplicatedRecommender:  # noqa: F811
    return ReplicatedRecommender(copy.copy(recommender), UpdateLog(place), updatable=True)


def answers(live: ReplicatedRecommender):
    found, scores = live.now.recommender.recommend([["i1", "i2"], ["n0"], []], k=12, num_beams=60)
    return found, scores.tolist()


def test_updates_are_replayed_in_one_order_by_all_and_after_a_restart(recommender, place):  # noqa: F811
    one, two = service(recommender, place), service(recommender, place)
    done = one.add(["n0", "i3"], [NEW, "known"])
    assert (done.added, done.known, done.catalogue, done.items) == (["n0"], ["i3"], 1, 41)
    removed = two.remove("i5")  # it catches up first: the second update, not another first
    assert (removed.catalogue, removed.items) == (2, 40) and one.now.catalogue == 1
    assert one.catch_up() == 1 and one.catch_up() == 0
    two.add(["n1"], [NEW])
    one.add(["n2"], [NEW])
    two.catch_up()
    late = service(recommender, place)
    assert [live.now.catalogue for live in (one, two, late)] == [4, 4, 4]
    tables = [live.now.recommender.tokenizer.token_table for live in (one, two, late)]
    assert np.array_equal(tables[0], tables[1]) and np.array_equal(tables[0], tables[2])
    assert answers(one) == answers(two) == answers(late)
    there = set(late.now.recommender.tokenizer.item_ids)
    assert {"n0", "n1", "n2"} <= there and "i5" not in there
    assert UpdateLog(place).read(1)["kind"] == "add" and UpdateLog(place).read(5) is None


def test_nothing_is_logged_that_is_refused_or_changes_nothing(recommender, place):  # noqa: F811
    live = service(recommender, place)
    with pytest.raises(UnknownItems):
        live.remove("nobody")
    with pytest.raises(DataError, match="has no text"):
        live.add(["n0"], [" "])
    assert live.add(["i1"], ["known"]).added == []
    assert open_store(place).names() == ["log.json"] and live.now.catalogue == 0
    with pytest.raises(ReloadFailed, match="with a log of its own"):
        live.reload()


def test_who_is_outrun_tries_again(recommender, place, monkeypatch):  # noqa: F811
    services = [service(recommender, place) for _ in range(4)]
    threads = [
        threading.Thread(target=live.add, args=([f"n{number}"], [f"{NEW}{number}"]))
        for number, live in enumerate(services)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for live in services:
        live.catch_up()
    assert {live.now.catalogue for live in services} == {4}
    assert {f"n{number}" for number in range(4)} <= set(services[0].now.recommender.tokenizer.item_ids)
    monkeypatch.setattr(replicated.UpdateLog, "append", lambda *_: False)
    with pytest.raises(SaveConflict, match="20 times"):
        services[0].remove("n0")
    assert services[0].now.catalogue == 4


def test_a_log_of_another_model_and_damage_are_refused(recommender, fitted, place, tmp_path):  # noqa: F811
    live = service(recommender, place)
    live.add(["n0"], [NEW])
    UpdateLog(place).begin(live.now.model)
    with pytest.raises(DataError, match="log of updates of another model"):
        UpdateLog(place).begin("0123456789abcdef")
    file = tmp_path / "log" / "000000000001.json"
    entry = json.loads(file.read_text())
    for change, message in (
        ({"semantic_ids": [[0, 0, 9]]}, "update 1 gives other semantic IDs here"),
        ({"vectors": "!"}, "update 1: "),
        ({"kind": "drop"}, "kind"),
        ({"format": 2}, "format"),
        ({"kind": "remove", "item_ids": ["nobody"]}, "update 1: "),
    ):
        file.write_text(json.dumps(entry | change))
        with pytest.raises(DataError, match=message):
            service(recommender, place)
    file.write_text("[")
    with pytest.raises(DataError, match="000000000001.json"):
        service(recommender, place)


def test_an_update_that_cannot_be_saved_is_not_made(recommender, place, monkeypatch):  # noqa: F811
    live = service(recommender, place)

    def full(*_):
        raise DataError("no space")

    monkeypatch.setattr(live._log._store, "create", full)
    with pytest.raises(OSError, match="no space"):
        live.add(["n0"], [NEW])
    assert live.now.catalogue == 0 and len(live.now.recommender.tokenizer) == 40


def test_services_over_http_say_which_catalog_and_follow_each_other(recommender, tmp_path):  # noqa: F811
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")
    from fastapi.testclient import TestClient

    from tiger.serving.service import ServiceSettings, create_app, live_recommender

    settings = ServiceSettings(update_log=str(tmp_path / "log"))
    recommender.save_pretrained(tmp_path / "model")
    apps = [create_app(settings=settings, live=live_recommender(copy.copy(recommender), settings)) for _ in range(2)]
    with TestClient(apps[0], "http://localhost") as one, TestClient(apps[1], "http://localhost") as two:
        done = one.post("/items", json={"items": [{"item_id": "n0", "text": NEW}]})
        assert done.status_code == 200 and done.json()["catalogue"] == 1
        confirmed = time.monotonic()
        while two.get("/items/n0").status_code != 200:
            assert time.monotonic() - confirmed < 2
            time.sleep(0.05)
        answer = two.post("/recommend", json={"histories": [["n0"]], "k": 3})
        assert answer.json()["catalogue"] == 1 and answer.headers["x-tiger-catalog"] == "1"
        assert one.get("/health").json()["behind"] is None
        (tmp_path / "log" / "000000000002.json").write_text("[")
        began = time.monotonic()
        while two.get("/health").json()["behind"] is None:
            assert time.monotonic() - began < 3
            time.sleep(0.05)
        assert two.post("/models/reload").status_code == 409
    with pytest.raises(ValueError, match="not both"):
        create_app()
    with pytest.raises(DataError, match="give one of them"):
        ServiceSettings(save=tmp_path, update_log="x")
