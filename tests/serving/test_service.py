import copy
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from safetensors import SafetensorError

from tests.rankers.click.test_ranker import make_ranker
from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tiger.cli.main import main
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.search_options import SearchOptions
from tiger.serving.answers import RecommendCall, answer_recommend
from tiger.serving.live import LiveRecommender
from tiger.serving.query import Query
from tiger.utils.errors import DataError

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

import httpx2  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from tiger.serving import service  # noqa: E402
from tiger.serving.service import EdgeSettings, ServiceSettings, create_app  # noqa: E402


def client_of(recommender, settings=ServiceSettings(), **options):  # noqa: F811
    return TestClient(create_app(recommender, settings), base_url="http://localhost", **options)


@pytest.fixture
def client(recommender):  # noqa: F811
    with client_of(recommender) as client:
        yield client


def recommend(client, *histories, **options):
    answer = client.post("/recommend", json={"histories": histories, "num_beams": 40, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def close(found: list[dict], items, scores) -> bool:
    """Whether an answer is the library's; scores that differ by rounding may stand in another order."""
    return all(
        sorted(one["items"]) == sorted(ids) and np.allclose(one["scores"], values[: len(ids)], atol=1e-4)
        for one, ids, values in zip(found, items, scores, strict=True)
    )


def test_answers_as_the_library_does(client, recommender):  # noqa: F811
    histories = [["i1", "i2", "i3"], [], [f"i{n}" for n in range(20)]]
    for options in ({}, {"exclude_history": False}, {"k": 1, "num_beams": 3}, {"k": 40}):
        items, scores = recommender.recommend(histories, **{"num_beams": 40, **options})
        assert close(recommend(client, *histories, **options)["recommendations"], items, scores)
    # A seed gives what it gives in the library, whatever else is asked meanwhile.
    items, scores = recommender.recommend(histories, num_beams=40, temperature=2.0, seed=3)
    found = recommend(client, *histories, temperature=2.0, seed=3)["recommendations"]
    assert [one["items"] for one in found] == items
    assert len(recommend(client, ["i1"], k=3.0)["recommendations"][0]["items"]) == 3  # JSON knows one kind of number
    fewer = client.post("/recommend", json={"histories": [["i1"]], "k": 20, "num_beams": 1}).json()
    assert len(fewer["recommendations"][0]["items"]) == 20  # at least k beams


def test_unknown_items_are_named(client):
    found = recommend(client, ["i1", "nobody", "i2", "nobody"], ["i3"], k=3)
    assert [one["unknown"] for one in found["recommendations"]] == [["nobody"], []]
    assert found["recommendations"][0]["items"] == recommend(client, ["i1", "i2"], k=3)["recommendations"][0]["items"]
    answer = client.post("/recommend", json={"histories": [["i1", "nobody"]], "strict": True})
    assert answer.status_code == 404 and answer.json() == {"error": "items that the catalog lacks: 'nobody'."}


def rank(client, *lists):
    lists = [{"history": history, "candidates": candidates} for history, candidates in lists]
    return client.post("/rank", json={"lists": lists})


def test_ranks_candidates(recommender):  # noqa: F811
    dense = recommender.encoder.encode(recommender.items["title"].to_pylist())
    recommender.ranker = make_ranker(recommender.tokenizer, dense, "unigram+dense")
    items, scores = recommender.rank([["i1"], []], [["i3", "i4", "i5"], ["i7"]])
    with client_of(recommender) as client:
        found = rank(client, (["i1", "nobody"], ["i3", "i4", "i5"]), ([], ["i7"])).json()["recommendations"]
        assert [one["items"] for one in found] == items and found[0]["unknown"] == ["nobody"]
        np.testing.assert_allclose(found[0]["scores"], scores[0], atol=1e-4)
        ranked, logits = recommender.recommend([["i1"]], k=5, num_beams=40)
        assert close(recommend(client, ["i1"], k=5)["recommendations"], ranked, logits)
        wrong = rank(client, (["i1"], ["i3", "nobody"]))
        assert wrong.status_code == 404 and "'nobody'" in wrong.json()["error"]
        assert client.post("/items", json=new_items("new")).status_code == 200
        found = rank(client, (["i1"], ["new", "i3"]))
        assert set(found.json()["recommendations"][0]["items"]) == {"new", "i3"}


def new_items(*ids, text="tent rope map"):
    return {"items": [{"item_id": item, "text": text} for item in ids]}


def test_items_come_and_go(client, recommender):  # noqa: F811
    before = client.app.state.live.now
    expected = before.recommender.recommend([["i1"]], k=40, num_beams=40)
    # Thirty of one text need more collision tokens than there are: the model grows, the one that answers does not.
    new = [f"new{n}" for n in range(30)]
    answer = client.post("/items", json=new_items(*new, "i3")).json()
    assert answer == {"added": new, "known": ["i3"], "removed": [], "items": 70, "catalogue": 1}
    found = recommend(client, ["i1"], k=69, num_beams=70)
    assert found["catalogue"] == 1 and set(new) < set(found["recommendations"][0]["items"])
    assert client.delete("/items/i5").json()["items"] == 69
    assert "i5" not in recommend(client, ["i1"], k=68, num_beams=70)["recommendations"][0]["items"]
    answer = client.delete("/items/i5")
    assert answer.status_code == 404 and "'i5'" in answer.json()["error"]
    assert recommend(client, ["i5"])["recommendations"][0]["unknown"] == ["i5"]
    assert client.post("/items", json=new_items("new3", text="another")).json()["catalogue"] == 2  # nothing to do
    # What answered before is what it was: whoever still reads it is not disturbed.
    assert len(before.recommender.tokenizer) == 40 and before.catalogue == 0
    again = before.recommender.recommend([["i1"]], k=40, num_beams=40)
    assert again[0] == expected[0] and np.array_equal(again[1], expected[1])
    assert before.recommender.model.config.vocab_size < client.app.state.live.now.recommender.model.config.vocab_size


def test_ids_with_slashes(client):
    assert client.post("/items", json=new_items("a/b?c")).status_code == 200
    assert client.delete("/items/a/b%3Fc").json()["removed"] == ["a/b?c"]


def test_updates_that_cannot_be(client, recommender):  # noqa: F811
    twice = client.post("/items", json=new_items("new", "new"))
    assert twice.status_code == 422 and "more than once" in twice.json()["error"]
    for text in ("", "  ", "x" * 20_001):
        assert client.post("/items", json=new_items("new", text=text)).status_code == 422
    assert client.get("/health").json()["items"] == 40
    for n in range(39):
        assert client.delete(f"/items/i{n}").status_code == 200
    last = client.delete("/items/i39")
    assert last.status_code == 409 and "all its items" in last.json()["error"]
    encoder, recommender.encoder = recommender.encoder, None
    with client_of(recommender) as client:
        answer = client.post("/items", json=new_items("new"))
        assert answer.status_code == 409 and "without a text encoder" in answer.json()["error"]
        assert client.get("/health").json()["can_add"] is False
    recommender.encoder, recommender.tokenizer.quantizer = encoder, None
    with client_of(recommender) as client:
        answer = client.post("/items", json=new_items("new"))
        assert answer.status_code == 409 and "without a quantizer" in answer.json()["error"]
    with client_of(recommender, ServiceSettings(read_only=True)) as client:
        assert client.post("/items", json=new_items("new")).status_code == 404
        assert client.delete("/items/i1").status_code == 405  # it can be read


def test_updates_are_saved_or_not_made(recommender, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "model"
    recommender.save_pretrained(folder)
    with client_of(recommender, ServiceSettings(save=folder)) as client:
        client.post("/items", json=new_items("new"))
        assert "new" in TigerRecommender.from_pretrained(folder).tokenizer.item_ids

        def no_space(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tiger.recommender.checkpoint.pq.write_table", no_space)
        answer = client.delete("/items/new")
        assert answer.status_code == 503 and "No space left" in answer.json()["error"]

        def no_space_either(*args, **kwargs):
            raise SafetensorError("I/O error: No space left on device")

        monkeypatch.setattr(recommender.model, "save_pretrained", no_space_either)
        answer = client.delete("/items/new")
        assert answer.status_code == 503 and "No space left" in answer.json()["error"]
        client.app.state.pending_updates.update(Future() for _ in range(16))
        full = client.delete("/items/new")
        assert full.status_code == 429 and full.headers["Retry-After"] == "1"
        client.app.state.pending_updates.clear()
        assert client.get("/health").json()["items"] == 41 and client.get("/health").json()["catalogue"] == 1
        assert len(TigerRecommender.from_pretrained(folder).tokenizer) == 41


def test_bad_bodies(client):
    def post(content, kind="application/json", path="/recommend"):
        answer = client.post(path, content=content, headers={"content-type": kind})
        assert 400 <= answer.status_code < 500 and isinstance(answer.json()["error"], str), answer.text
        return answer.status_code, answer.json()["error"]

    assert post(b'{"histories": [["i1"]')[0] == 400
    assert post(b"")[0] == 422 and post(b"\xff\xfe")[0] == 400 and post(b"null")[0] == 422
    assert post(b"[" * 100_000)[0] == 400  # deeper than Python goes
    assert post(b'{"histories": [[]], "k": ' + b"9" * 5000 + b"}")[0] == 400  # longer than Python reads
    assert post(b'{"histories": [[]]}', kind="text/plain")[0] == 415
    for wrong in (
        '"histories": []',
        '"histories": ["i1"]',
        '"histories": [[1]]',
        '"histories": [[""]]',
        '"histories": [["\\ud800"]]',
        '"histories": [["' + "x" * 201 + '"]]',
        '"histories": [[' + ",".join(['"i1"'] * 1001) + "]]",
        '"histories": [' + ",".join(["[]"] * 65) + "]",
        '"histories": [[]], "k": 0',
        '"histories": [[]], "k": -1',
        '"histories": [[]], "k": 201',
        '"histories": [[]], "k": "5"',
        '"histories": [[]], "k": true',
        '"histories": [[]], "num_beams": 0',
        '"histories": [[]], "num_beams": 501',
        '"histories": [[]], "temperature": -1',
        '"histories": [[]], "unseen_share": NaN',
        '"histories": [[]], "temperature": NaN',
        '"histories": [[]], "temperature": Infinity',
        '"histories": [[]], "temperature": 0',
        '"histories": [[]], "seed": -1',
        '"histories": [[]], "model": "/etc/passwd"',
        '"histories": [[]], "\\ud800": 1',
    ):
        status, error = post("{" + wrong + "}")
        assert status == 422 and error.startswith("body"), wrong
    assert client.delete("/items/" + "x" * 201).status_code == 422
    assert client.get("/nothing").status_code == 404 and client.get("/recommend").status_code == 405
    assert recommend(client, ["i1"], k=3)  # unharmed


def test_a_full_queue_turns_requests_away(recommender, monkeypatch):  # noqa: F811
    begun, going = threading.Semaphore(0), threading.Semaphore(0)

    def held(*arguments):
        begun.release()
        assert going.acquire(timeout=10)
        return answer(*arguments)

    answer = service.answer_recommend
    monkeypatch.setattr(service, "answer_recommend", held)
    body = {"histories": [["i1"]] * 64, "k": 1, "num_beams": 1}
    with client_of(recommender, ServiceSettings(max_queue=64)) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/recommend", json=body)
        assert begun.acquire(timeout=10)
        second = pool.submit(client.post, "/recommend", json=body)
        while client.get("/health").json()["queued"] < 64:
            time.sleep(0.005)
        full = client.post("/recommend", json=body)
        assert full.status_code == 429 and full.headers["retry-after"] == "1" and "full" in full.json()["error"]
        going.release()
        going.release()
        assert first.result(10).status_code == second.result(10).status_code == 200
        assert "tiger_rejected_requests_total 1.0" in client.get("/metrics").text
    with pytest.raises(DataError, match="max_queue"):
        ServiceSettings(max_queue=63)
    for delay in (-1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="max_delay_ms"):
            ServiceSettings(max_delay_ms=delay)


def test_health_and_metrics(client, recommender):  # noqa: F811
    health = client.get("/health").json()
    assert health["ready"] and health["items"] == 40 and health["catalogue"] == 0 and not health["ranker"]
    assert health["fingerprint"] == recommender.tokenizer.fingerprint and "torch" in health["versions"]
    recommend(client, ["i1"], ["i2"])
    client.post("/recommend", content=b"{", headers={"content-type": "application/json"})
    client.get("/no/such/path")
    client.delete("/items/i7")
    text = client.get("/metrics").text
    for line in (
        'tiger_requests_total{path="/recommend",status="200"} 1.0',
        'tiger_requests_total{path="/recommend",status="400"} 1.0',
        'tiger_requests_total{path="other",status="404"} 1.0',
        'tiger_request_seconds_count{path="/recommend"} 2.0',
        "tiger_batch_histories_sum 2.0",
        "tiger_batch_histories_count 1.0",
        "tiger_queued_histories 0.0",
        "tiger_items 39.0",
        "tiger_catalogue_updates 1.0",
    ):
        assert line in text.splitlines(), line


def test_no_wrong_answer_while_items_come_and_go(recommender):  # noqa: F811
    catalogues = {0: copy.copy(recommender)}
    histories = [[f"i{(7 * n + step) % 40}" for step in range(n % 6)] for n in range(60)]

    def update(client):
        for turn in range(9):
            following = copy.copy(catalogues[turn])
            if turn % 3 < 2:
                ids = [f"new{turn}-{n}" for n in range(5)]
                assert client.post("/items", json=new_items(*ids)).json()["catalogue"] == turn + 1
                following.add_items(ids, ["tent rope map"] * 5)
            else:
                assert client.delete(f"/items/i{turn}").json()["catalogue"] == turn + 1
                following.remove_items([f"i{turn}"])
            catalogues[turn + 1] = following

    def ask(client, offset):
        found = []
        for n in range(15):
            history = histories[(n + offset) % len(histories)]
            found.append((history, recommend(client, history, k=10, num_beams=120)))
        return found

    with client_of(recommender) as client, ThreadPoolExecutor(5) as pool:
        asking = [pool.submit(ask, client, 10 * worker) for worker in range(4)]
        pool.submit(update, client).result(60)
        found = [one for future in asking for one in future.result(60)]
    assert len({answer["catalogue"] for _, answer in found}) > 3
    for history, answer in found:
        of_then = catalogues[answer["catalogue"]]
        known = set(of_then.tokenizer.item_ids)
        items, scores = of_then.recommend([[item for item in history if item in known]], k=10, num_beams=120)
        (one,) = answer["recommendations"]
        assert one["unknown"] == [item for item in history if item not in known]
        np.testing.assert_allclose(one["scores"], scores[0], atol=1e-4)
        assert set(one["items"]) <= known


@pytest.fixture
def running(recommender, tmp_path):  # noqa: F811
    """A service as the command line starts it: its process and its address."""
    recommender.save_pretrained(tmp_path / "model")
    process = subprocess.Popen(
        [sys.executable, "-m", "tiger.cli", "serve", str(tmp_path / "model"), "--port", "0", "--max_batch", "1"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    line = process.stdout.readline()
    assert line.startswith("40 items on http://127.0.0.1:")
    yield process, line.split()[-1].removesuffix("/docs")
    process.kill()


@pytest.mark.parametrize("recommender", ["codes"], indirect=True)
def test_stops_when_all_that_was_asked_is_answered(running):
    process, address = running
    body = {"histories": [["i1", "i2"]] * 64, "k": 40, "num_beams": 100}
    with httpx2.Client(base_url=address, timeout=120) as client, ThreadPoolExecutor(6) as pool:
        assert client.get("/health").json()["ready"]
        asked = [pool.submit(client.post, "/recommend", json=body) for _ in range(6)]

        def all_received() -> bool:
            """Of those not answered, one is computed and all others' 64 histories wait."""
            answered = sum(future.done() for future in asked)
            assert answered < 5
            return client.get("/health").json()["queued"] >= 64 * (5 - answered)

        while not all_received():
            pass
        process.send_signal(signal.SIGTERM)
        assert all(future.result(120).status_code == 200 for future in asked)
    assert process.wait(30) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(address.split(":")[-1])), timeout=1)


def test_options_of_the_edge_reach_the_service(recommender, tmp_path, monkeypatch):  # noqa: F811
    recommender.save_pretrained(tmp_path / "model")
    served = []
    monkeypatch.setattr(service, "serve", lambda *arguments: served.append(arguments))
    options = ["--allowed_hosts", "a.example", "b.example", "--allowed_origins", "https://a.example"]
    numbers = {"max_connections": 7, "keep_alive_seconds": 1.5, "receive_seconds": 2.5, "grace_seconds": 0.5}
    for name, value in numbers.items():
        options += [f"--{name}", str(value)]
    main(["serve", str(tmp_path / "model"), "--save", *options])
    main(["serve", str(tmp_path / "model"), "--port", "9"])
    (app, *_), (defaults, *address) = served
    assert app.state.edge == EdgeSettings(("a.example", "b.example"), ("https://a.example",), **numbers)
    assert defaults.state.edge == EdgeSettings() and address == ["127.0.0.1", 9]
    assert sorted(os.listdir(tmp_path)) == ["copy", "model"]  # the lock is given back


def test_no_such_port(recommender):  # noqa: F811
    with pytest.raises(DataError, match="can't listen on 127.0.0.1, port 99999: .*port must be"):
        service.serve(create_app(recommender), port=99999)


def test_command_line_says_what_is_wrong(recommender, tmp_path, capsys, monkeypatch):  # noqa: F811
    def fails(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["serve", *map(str, arguments)])
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "not a directory" in fails(tmp_path / "nowhere")
    recommender.save_pretrained(tmp_path / "model")
    assert "max_queue" in fails(tmp_path / "model", "--max_queue", 1)
    assert "without scheme" in fails(tmp_path / "model", "--allowed_hosts", "http://shop.example")
    assert "max_connections" in fails(tmp_path / "model", "--max_connections", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "can't listen" in fails(tmp_path / "model", "--port", taken.getsockname()[1])
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "tiger.serving.service")
    assert "tiger-recommender[serve]" in fails(tmp_path / "model")


def test_filters(recommender):  # noqa: F811
    prices = pa.array([None, *map(float, range(1, 40))])
    recommender.items = recommender.items.append_column("price", prices)
    recommender.add_filter("in stock", ["i2", "i3", "i4"])
    with client_of(recommender) as client:
        for given in ("price < 9 and not item_id in ('i3')", "in stock", ["i5", "i6", "nobody"]):
            found = recommend(client, ["i1", "i2"], [], filter=given, k=5)
            compiled = recommender.state.filters.compile(given)
            items, scores = recommender.recommend([["i1", "i2"], []], k=5, num_beams=40, filter=compiled)
            assert close(found["recommendations"], items, scores)
            assert found["filter"] == {"allowed": compiled.count, "unknown": ["nobody"] if "nobody" in given else []}
        assert "filter" not in recommend(client, ["i1"])
        empty = recommend(client, ["i1"], filter="price < 0")
        assert empty["recommendations"][0]["items"] == [] and empty["filter"]["allowed"] == 0
        for wrong, why in (
            ("prise < 2", "no column 'prise' (is 'price' meant?)"),
            ("price < 'x'", "column 'price' holds numbers (double), 'x' is a text."),
            (" or ".join(["price = 1"] * 101), "at most 100 comparisons"),
            ("price < " + "1" * 2000, "at most 2000 characters"),
            (["i1"] * 10_001, "at most 10000 items"),
            ([1], "valid string"),
            ("", "at least 1 character"),
        ):
            answer = client.post("/recommend", json={"histories": [["i1"]], "filter": wrong})
            assert answer.status_code == 422 and why in answer.json()["error"], answer.text
            assert "\n" not in answer.json()["error"]
        answer = client.post("/recommend", json={"histories": [["i1"]], "filter": ["nobody"], "strict": True})
        assert answer.status_code == 404 and "nobody" in answer.json()["error"]
        # What is added is allowed from then on, what is removed no more; names stay.
        client.post("/items", json=new_items("i99"))
        assert recommend(client, ["i1"], filter=["i99", "i2"])["filter"] == {"allowed": 2, "unknown": []}
        client.delete("/items/i2")
        found = recommend(client, ["i1"], filter="in stock")
        assert found["filter"] == {"allowed": 2, "unknown": ["i2"]}
        assert client.app.state.live.add_filter("in stock", "price >= 38") == 2
        assert sorted(recommend(client, [], filter="in stock")["recommendations"][0]["items"]) == ["i38", "i39"]


def test_requests_with_and_without_filters_share_a_batch(recommender):  # noqa: F811
    snapshot = LiveRecommender(recommender).now
    call = RecommendCall(3, True, SearchOptions(num_beams=40), None)
    given = [["i2", "i3", "i4"], None, "price < 2", ["i5"], "item_id = 'i7'"]
    answers = answer_recommend(snapshot, call, [Query([["i1"], []], filter=one) for one in given])
    assert isinstance(answers[2], DataError) and "no column 'price'" in str(answers[2])
    for one, answer in zip(given, answers):
        if answer is not answers[2]:
            items, scores = recommender.recommend([["i1"], []], k=3, num_beams=40, filter=one)
            assert answer.items == items and answer.batch == 8
            assert np.allclose([*answer.scores[0]], scores[0, : len(items[0])], atol=1e-4)
