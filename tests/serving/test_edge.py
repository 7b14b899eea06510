"""What the service refuses before a route sees it, whom it forgets, and that every error is JSON."""

import asyncio
import json
import threading

import numpy as np
import pytest

from tests.conftest import make_recommender
from tiger.recommender.recommender import TigerRecommender

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

from fastapi.testclient import TestClient  # noqa: E402

from tiger.serving import edge, routes, service  # noqa: E402
from tiger.serving.edge import MAX_BODY  # noqa: E402
from tiger.serving.service import EdgeSettings, ServiceSettings, create_app  # noqa: E402

JSON = {"content-type": "application/json"}
BODY = {"histories": [["item-1"]], "k": 1, "num_beams": 1}


@pytest.fixture
def recommender():
    return make_recommender(60)


@pytest.fixture
def client(recommender):
    with TestClient(create_app(recommender), "http://localhost:8000", raise_server_exceptions=False) as client:
        yield client


def test_foreign_names_and_pages_are_refused(client, recommender):
    for method, path in (("POST", "/recommend"), ("POST", "/items"), ("DELETE", "/items/item-1"), ("GET", "/health")):
        for headers in ({"host": "evil.example"}, {"host": "evil.example:8000", "origin": "http://evil.example:8000"}):
            answer = client.request(method, path, json=BODY if method == "POST" else None, headers=headers)
            assert answer.status_code == 403 and "evil.example" in answer.json()["error"]
    for method, path in (("POST", "/items"), ("DELETE", "/items/item-1"), ("POST", "/recommend")):
        answer = client.request(method, path, json=BODY, headers={"origin": "http://evil.example"})
        assert answer.status_code == 403 and "pages of 'http://evil.example' may not" in answer.json()["error"]
    assert client.get("/health").json()["items"] == 60
    # The pages of /docs are the service's own.
    assert client.delete("/items/item-1", headers={"origin": "http://localhost:8000"}).status_code == 200
    settings = ServiceSettings(edge=EdgeSettings(("tiger.example",), ("https://shop.example",)))
    with TestClient(create_app(recommender, settings), "http://tiger.example") as client:
        assert client.delete("/items/item-2", headers={"origin": "https://shop.example"}).status_code == 200


def test_a_body_is_json_or_refused(client):
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/json",
        "",
    ):
        answer = client.post("/recommend", content=json.dumps(BODY), headers={"content-type": kind})
        assert answer.status_code == 415 and "application/json" in answer.json()["error"], kind
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        assert client.post("/recommend", content=json.dumps(BODY), headers={"content-type": kind}).status_code == 200
    for content, status in ((b"{", 400), (b"[" * 9, 400), (b"[" + b"{}," * 2000 + b"{}]", 413), (b"[]", 422)):
        answer = client.post("/recommend", content=content, headers=JSON)
        assert answer.status_code == status and list(answer.json()) == ["error"]


def test_bodies_are_limited_in_bytes(client, monkeypatch):
    read = []

    def chunks():
        for _ in range(1000):
            read.append(1)
            yield b" " * 100_000

    long = client.post("/recommend", content=b" " * (MAX_BODY + 1), headers=JSON)
    assert long.status_code == 413 and "longer than" in long.json()["error"]
    chunked = client.post("/recommend", content=chunks(), headers=JSON)
    assert chunked.status_code == 413
    lying = client.post("/recommend", content=chunks(), headers=JSON | {"content-length": "5"})
    assert lying.status_code == 413
    monkeypatch.setattr(edge, "MAX_HELD", 1000)  # of all requests together
    full = client.post("/recommend", content=b" " * 1001, headers=JSON)
    assert full.status_code == 503 and full.headers["retry-after"] == "1"
    assert client.post("/recommend", json=BODY).status_code == 200  # what was held is held no more


def test_large_bodies_are_parsed_in_a_thread_and_many_errors_are_one(client, monkeypatch):
    threads, parse = [], service.JsonRoute.get_route_handler.__globals__["parse_json"]

    def noted(body):
        threads.append(threading.current_thread().name)
        return parse(body)

    monkeypatch.setattr("tiger.serving.json_bodies.parse_json", noted)
    wrong = client.post("/recommend", json={"histories": [[1] * 1000] * 64})
    assert wrong.status_code == 422
    assert wrong.json() == {"error": "body.histories.0.0: Input should be a valid string"}
    assert (
        client.post("/recommend", json={"histories": [["item-1"] * 1000], "num_beams": 1, "k": 1}).status_code == 200
    )
    assert all(name.startswith("parse") for name in threads) and len(threads) == 2
    lists = {"lists": [{"history": [], "candidates": [1] * 1000}] * 64}
    assert client.post("/rank", json=lists).json()["error"].count("Input should be") <= 1


class Asgi:
    """Requests whose clients can go away, in one event loop."""

    def __init__(self, app):
        self.app, self.sent = app, []

    async def send(self, body, gone, path="/recommend", method="POST"):
        content = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive():
            if content:
                return content.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                self.sent.append(message["status"])

        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "scheme": "http"}
        await self.app(scope | {"http_version": "1.1", "root_path": "", "state": {}}, receive, send)


def test_who_has_gone_leaves_the_queue(recommender, monkeypatch):
    begun, going, answer = threading.Semaphore(0), threading.Semaphore(0), service.answer_recommend

    def held(*arguments):
        begun.release()
        assert going.acquire(timeout=10)
        return answer(*arguments)

    monkeypatch.setattr(service, "answer_recommend", held)
    body = BODY | {"histories": [["item-1"]] * 16}

    async def main():
        app = create_app(recommender, ServiceSettings(max_queue=64))
        async with app.router.lifespan_context(app):
            asgi, gone, never = Asgi(app), asyncio.Event(), asyncio.Event()
            running = [asyncio.create_task(asgi.send(body, never)) for _ in range(len(app.state.batcher._threads))]
            for _ in running:
                await asyncio.to_thread(begun.acquire, timeout=10)
            leaving = [asyncio.create_task(asgi.send(body, gone)) for _ in range(4)]
            while app.state.batcher.queued < 64:
                await asyncio.sleep(0.001)
            await asgi.send(body, never)
            assert asgi.sent == [429]
            gone.set()
            await asyncio.gather(*leaving)
            assert asgi.sent == [429] + [routes.GONE] * 4 and app.state.batcher.queued == 0
            honest = asyncio.create_task(asgi.send(body, never))
            for _ in range(10):
                going.release()
            await asyncio.gather(honest, *running)
            assert asgi.sent[5:] == [200] * (1 + len(running))

    asyncio.run(main())


def test_an_update_that_nobody_waits_for_is_not_made(recommender, monkeypatch):
    begun, going = threading.Event(), threading.Event()

    async def main():
        app = create_app(recommender)
        remove = app.state.live.remove

        def held(item):
            begun.set()
            assert going.wait(10)
            return remove(item)

        monkeypatch.setattr(app.state.live, "remove", held)
        async with app.router.lifespan_context(app):
            asgi, gone = Asgi(app), asyncio.Event()
            running = asyncio.create_task(asgi.send({}, asyncio.Event(), "/items/item-1", "DELETE"))
            await asyncio.to_thread(begun.wait, 10)
            waiting = [asyncio.create_task(asgi.send({}, gone, f"/items/item-{n}", "DELETE")) for n in range(2, 17)]
            while len(app.state.pending_updates) < routes.MAX_UPDATES:
                await asyncio.sleep(0.001)
            await asgi.send({}, asyncio.Event(), "/items/item-20", "DELETE")
            assert asgi.sent == [429]
            gone.set()
            await asyncio.gather(*waiting)
            going.set()
            await asgi.send({}, asyncio.Event(), "/items/item-20", "DELETE")
            await running
            assert len(app.state.live.now.recommender.tokenizer) == 58
            assert app.state.live.now.catalogue == 2

    asyncio.run(main())


def test_a_request_that_fails_takes_none_with_it(recommender, monkeypatch):
    begun, going, answer, sizes = threading.Event(), threading.Event(), service.answer_recommend, []

    def broken(snapshot, call, requests):
        begun.set()
        assert going.wait(10)
        sizes.append(len(requests))
        if any(query.histories == [["item-7"]] for query in requests):
            raise RuntimeError("a bug")
        return answer(snapshot, call, requests)

    monkeypatch.setattr(service, "answer_recommend", broken)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)

    async def main():
        app = create_app(recommender)
        async with app.router.lifespan_context(app):
            asgi = Asgi(app)

            async def ask(item):
                try:
                    await asgi.send(BODY | {"histories": [[item]]}, asyncio.Event())
                except RuntimeError as error:
                    assert str(error) == "a bug"  # for the server's log

            asked = [asyncio.create_task(ask("item-1"))]
            await asyncio.to_thread(begun.wait, 10)
            asked += [asyncio.create_task(ask(f"item-{n}")) for n in range(8)]
            while app.state.batcher.queued < 8:
                await asyncio.sleep(0.001)
            going.set()
            await asyncio.gather(*asked)
            assert sorted(asgi.sent) == [200] * 8 + [500]

    asyncio.run(main())
    assert sizes == [1, 8] + [1] * 8


def test_every_error_is_json(client, monkeypatch):
    def bug(*arguments):
        raise RuntimeError("a bug, with secrets")

    monkeypatch.setattr(service, "answer_recommend", bug)
    failed = client.post("/recommend", json=BODY)
    assert failed.status_code == 500 and failed.json() == {
        "error": "the service failed on this request: its log says why"
    }
    for answer in (client.get("/nothing"), client.put("/recommend", json=BODY), client.request("TRACE", "/health")):
        assert answer.status_code in (404, 405) and list(answer.json()) == ["error"]
    assert 'path="/recommend",status="500"} 1.0' in client.get("/metrics").text


def test_scores_that_are_no_numbers_are_not_served(client, recommender, monkeypatch):
    decode = TigerRecommender.recommend

    def damaged(self, histories, *arguments, **options):
        items, scores = decode(self, histories, *arguments, **options)
        scores[[history == ["item-7"] for history in histories]] = np.nan
        return items, scores

    monkeypatch.setattr(TigerRecommender, "recommend", damaged)
    assert client.post("/recommend", json=BODY | {"histories": [["item-7"]]}).status_code == 500
    assert client.post("/recommend", json=BODY).status_code == 200
