"""The service for its operator: access log, token, probes, pages without other servers, reloads, items, metrics."""

import hmac
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from tests.conftest import make_recommender
from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

import httpx2  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from tiger.serving import item_columns, service  # noqa: E402
from tiger.serving.model_source import ModelSource  # noqa: E402
from tiger.serving.service import ServiceSettings, create_app  # noqa: E402
from tiger.serving.service_log import RequestRecord, ServiceLog  # noqa: E402
from tiger.serving.settings import AccessSettings, LogSettings  # noqa: E402

TOKEN = "0123456789abcdef"
BODY = {"histories": [["item-1"], ["item-2"]], "k": 3, "num_beams": 5}


def make(num_items=20, seed=0, **columns):
    ids = [f"item-{row}" for row in range(num_items)]
    return make_recommender(num_items, seed, items=pa.table({"item_id": ids, **columns}) if columns else None)


def client_of(recommender, settings=ServiceSettings(), *source, **options):
    return TestClient(create_app(recommender, settings, *source), "http://localhost", **options)


def lines(captured: str) -> list[dict]:
    return [json.loads(line) for line in captured.splitlines() if line.startswith("{")]


def test_one_line_a_request(capsys):
    with client_of(make(), ServiceSettings(log=LogSettings("json", "info"))) as client:
        answer = client.post("/recommend", json=BODY, headers={"x-request-id": "a-1.b:c_d"})
        assert answer.headers["x-request-id"] == "a-1.b:c_d"
        made = [
            client.get("/items/item-1", headers={"x-request-id": bad}) for bad in ("", "a b", "x" * 129, 'q"', "-a")
        ]
        for one in made:
            assert re.fullmatch("[0-9a-f]{32}", one.headers["x-request-id"])
        client.get("/no%0D%0Asuch?token=secret")
        client.get("/health")  # asked by machines: debug
        model = client.get("/readyz").headers["x-tiger-model"]
    first, *others, wrong = lines(capsys.readouterr().err)
    assert {name: first[name] for name in ("request_id", "method", "path", "status", "batch", "items", "catalog")} == {
        "request_id": "a-1.b:c_d",
        "method": "POST",
        "path": "/recommend",
        "status": 200,
        "batch": 2,
        "items": 20,
        "catalog": 0,
    }
    assert first["model"] == model and first["level"] == "info" and 0 < first["ms"] < 60_000
    assert [one["request_id"] for one in others] == [one.headers["x-request-id"] for one in made]
    assert wrong["status"] == 404 and wrong["level"] == "warning" and wrong["batch"] is None
    assert wrong["path"] == "/no%0D%0Asuch" and "secret" not in str(wrong)


def test_levels_and_text(capsys):
    record = RequestRecord("id-1", "GET", "/a\nb \ud800", 200, 1.25, time=0.5)
    for level, count in (("debug", 4), ("info", 3), ("warning", 2), ("error", 1)):
        stream = io.StringIO()
        log = ServiceLog(LogSettings("text", level), stream)
        log.start()
        for path, status in (("/readyz", 200), ("/rank", 200), ("/rank", 404), ("/readyz", 503)):
            log.request(RequestRecord("id", "GET", path, status))
        log.stop()
        assert stream.getvalue().count("\n") == count
    stream = io.StringIO()
    ServiceLog(LogSettings(), stream).request(record)
    assert stream.getvalue() == "1970-01-01T00:00:00.500Z info GET /a%0Ab%20? 200 1.2ms id=id-1\n".replace("?", "%3F")
    for wrong in (("xml", "info"), ("text", "loud")):
        with pytest.raises(DataError, match="log_format must be one of text, json"):
            LogSettings(*wrong)


def test_a_failure_is_logged_with_its_request(capsys, monkeypatch):
    def bug(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(service, "answer_recommend", bug)
    settings = ServiceSettings(log=LogSettings("json", "info"))
    with client_of(make(), settings, raise_server_exceptions=False) as client:
        answer = client.post("/recommend", json=BODY, headers={"x-request-id": "abc"})
    assert answer.status_code == 500 and answer.headers["x-request-id"] == "abc"
    (line,) = lines(capsys.readouterr().err)
    assert line["status"] == 500 and line["level"] == "error" and line["request_id"] == "abc"
    logger = logging.getLogger("uvicorn.error")
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(logger, "isEnabledFor", lambda level: True)  # whatever level a server before has set
    log = ServiceLog(LogSettings("json"), stream := io.StringIO())
    log.start()
    try:  # as uvicorn does it
        error = RuntimeError("a bug")
        error.add_note("while answering request abc")
        raise error
    except RuntimeError:
        logger.error("Exception in ASGI application", exc_info=True)
    log.stop()
    (line,) = lines(stream.getvalue())
    assert "a bug\nwhile answering request abc" in line["traceback"]


def test_nobody_waits_for_who_does_not_read_the_log():
    held = threading.Event()

    class Blocked(io.StringIO):
        def write(self, text):
            held.wait(10)
            return super().write(text)

    log = ServiceLog(LogSettings(), stream := Blocked(), capacity=5)
    log.start()
    start = time.perf_counter()
    for _ in range(1000):
        log.request(RequestRecord("id", "GET", "/", 200))
    assert time.perf_counter() - start < 5 and 994 <= log.dropped <= 995
    held.set()
    log.stop()
    assert 5 <= stream.getvalue().count("\n") <= 6


def test_updates_need_the_token(monkeypatch):
    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair) or compare(*pair))
    with client_of(make(), ServiceSettings(access=AccessSettings(TOKEN))) as client:

        def status(value, method="DELETE", path="/items/item-1"):
            headers = {} if value is None else {"authorization": value}
            return client.request(method, path, headers=headers).status_code

        for wrong in (None, "", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x"):
            assert status(wrong) == status(wrong, "POST", "/models/reload") == status(wrong, "PATCH", "/new") == 401
        twice = client.delete("/items/item-1", headers=[("authorization", f"Bearer {TOKEN}")] * 2)
        assert twice.status_code == 401 and twice.headers["www-authenticate"] == "Bearer"
        assert compared and all(len(one) == len(other) == 32 for one, other in compared)  # digests, of one length
        assert client.get("/health").json()["items"] == 20
        assert client.post("/recommend", json=BODY).status_code == 200
        assert client.post("/rank", json={"lists": []}).status_code == 422
        assert status(f"Bearer {TOKEN}") == status(f"bearer  {TOKEN}", path="/items/item-2") == 200
        assert client.get("/health").json()["items"] == 18


def test_the_token_may_be_for_all():
    with client_of(make(), ServiceSettings(access=AccessSettings(TOKEN, "all"))) as client:
        for path in ("/livez", "/readyz", "/healthz", "/docs", "/openapi.json", "/"):
            assert client.get(path).status_code == 200
        for path in ("/health", "/metrics", "/items/item-1", "/nothing"):
            assert client.get(path).status_code == 401
        assert client.post("/recommend", json=BODY).status_code == 401
        assert client.post("/", json={}).status_code == 401
        client.headers["authorization"] = f"Bearer {TOKEN}"
        assert client.post("/recommend", json=BODY).status_code == client.get("/metrics").status_code == 200
    for wrong in ("short", "with spaces in the middle", "0123456789abcde\u00e9"):
        with pytest.raises(DataError, match="token must"):
            AccessSettings(wrong)


def test_probes():
    with client_of(make()) as client:
        for path in ("/livez", "/readyz", "/healthz"):
            answer = client.get(path)
            assert answer.status_code == 200 and answer.json() == {"ok": True}
        client.app.state.batcher.close()
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == client.get("/healthz").status_code == 503
        assert client.get("/health").json()["ready"] is False


def test_the_docs_load_nothing_from_elsewhere():
    with client_of(make()) as client:
        root = client.get("/", follow_redirects=False)
        assert root.status_code == 307 and root.headers["location"] == "/docs"
        page = client.get("/docs")
        schema = client.get("/openapi.json").json()
    assert not re.search(r"<script|<link|<img|@import|https?://", page.text)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for path, operations in schema["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}</code>" in page.text
    for field in schema["components"]["schemas"]["RecommendRequest"]["properties"]:
        assert f"<tr><td>{field}<td>" in page.text
    assert "curl -s localhost:8000/recommend" in page.text and "array of array of string" in page.text


def test_items_and_their_columns(monkeypatch):
    titles = [f"title <{row}>" for row in range(20)]
    prices = [float("nan"), None, *map(float, range(2, 20))]
    tags = [["a", "b"]] * 20
    with client_of(make(title=titles, price=prices, tags=tags), ServiceSettings(read_only=True)) as client:
        item = client.get("/items/item-0").json()
        assert item["item_id"] == "item-0" and len(item["semantic_id"]) == 4 and item["unseen"] is False
        assert item["fields"] == {"title": "title <0>", "price": None, "tags": ["a", "b"]}
        assert client.get("/items/nobody").json() == {"error": "items that the catalog lacks: 'nobody'."}
        rows = client.post("/recommend", json=BODY | {"fields": ["price", "title"]}).json()["recommendations"]
        for row in rows:
            wanted = [int(item.removeprefix("item-")) for item in row["items"]]
            found = [(one["title"], one["price"]) for one in row["fields"]]
            assert found == [(titles[n], prices[n] if n > 1 else None) for n in wanted] and len(found) == 3
        assert "fields" not in client.post("/recommend", json=BODY).json()["recommendations"][0]
        wrong = client.post("/recommend", json=BODY | {"fields": ["brand"]})
        assert wrong.status_code == 404
        assert wrong.json()["error"] == "the item table has no column 'brand': it has title, price, tags."
        assert client.post("/recommend", json=BODY | {"fields": ["title"] * 17}).status_code == 422
        monkeypatch.setattr(item_columns, "MAX_BYTES", 20)
        assert client.post("/recommend", json=BODY | {"fields": ["title"]}).status_code == 413
    with client_of(make()) as client:
        assert client.get("/items/item-0").json()["fields"] == {}
        assert client.post("/recommend", json=BODY | {"fields": ["title"]}).status_code == 404


def reloadable(folder, settings=ServiceSettings()):
    source = ModelSource(str(folder))
    loaded = source.load()
    return client_of(loaded.recommender, settings, source, loaded.manifest)


def test_a_new_model_takes_over(tmp_path):
    make().save_pretrained(tmp_path / "model")
    with reloadable(tmp_path / "model") as client:
        before = client.get("/health").json()
        assert re.fullmatch("[0-9a-f]{16}", before["model"])
        client.delete("/items/item-3")
        make(30, seed=1).save_pretrained(tmp_path / "model")
        done = client.post("/models/reload").json()
        after = client.get("/health").json()
        assert done == {
            "model": after["model"],
            "previous": before["model"],
            "items": 30,
            "catalogue": 2,
            "lost": 1,  # the item's removal was in memory only
        }
        assert after["model"] != before["model"] and after["items"] == 30
        answer = client.post("/recommend", json=BODY)
        assert answer.headers["x-tiger-model"] == after["model"] and answer.json()["catalogue"] == 2
        expected, _ = TigerRecommender.from_pretrained(tmp_path / "model").recommend(
            BODY["histories"], k=3, num_beams=5
        )
        assert [one["items"] for one in answer.json()["recommendations"]] == expected
        metrics = client.get("/metrics").text
        assert 'tiger_reloads_total{result="ok"} 1.0' in metrics and f'digest="{after["model"]}"' in metrics


@pytest.mark.parametrize("fault", ["gone", "damaged", "not finite", "no memory"])
def test_a_model_that_fails_is_not_swapped_in(tmp_path, monkeypatch, fault, capsys):
    make().save_pretrained(tmp_path / "model")
    with reloadable(tmp_path / "model") as client:
        before = client.post("/recommend", json=BODY)
        if fault == "gone":
            (tmp_path / "model").rename(tmp_path / "elsewhere")
        elif fault == "damaged":
            file = tmp_path / "model" / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"\xff")
        elif fault == "not finite":
            decode = TigerRecommender.recommend

            def damaged(self, *arguments, **options):
                items, scores = decode(self, *arguments, **options)
                return items, scores * (float("nan") if self is not first else 1)

            first = client.app.state.live.now.recommender
            monkeypatch.setattr(TigerRecommender, "recommend", damaged)
        else:
            monkeypatch.setattr("tiger.serving.live._warm", lambda recommender: bytes(1 << 62))
        refused = client.post("/models/reload")
        model = before.headers["x-tiger-model"]
        assert refused.status_code == 409, refused.text
        assert refused.json()["error"].startswith(f"the model was not reloaded, {model} still answers: ")
        again = client.post("/recommend", json=BODY)
        assert again.json() == before.json() and again.headers["x-tiger-model"] == model
        assert 'tiger_reloads_total{result="failed"} 1.0' in client.get("/metrics").text
    assert "error the model was not reloaded" in capsys.readouterr().err


def test_a_reload_ends_a_conflict_of_saves(tmp_path):
    folder = tmp_path / "model"
    make().save_pretrained(folder)
    with reloadable(folder, ServiceSettings(save=folder)) as client:
        first = client.get("/health").json()["model"]
        client.delete("/items/item-1")
        saved = client.get("/health").json()["model"]
        assert saved != first  # that of the directory as it was written
        other = TigerRecommender.from_pretrained(folder)
        other.remove_items(["item-2"])
        other.save_pretrained(folder)
        assert client.delete("/items/item-3").status_code == 409
        assert client.post("/models/reload").json()["lost"] == 0
        assert client.delete("/items/item-3").json()["items"] == 17
    assert len(TigerRecommender.from_pretrained(folder).tokenizer) == 17


def test_who_may_reload():
    with client_of(make()) as client:
        assert "not started from a directory" in client.post("/models/reload").json()["error"]
        form = client.post("/models/reload", data={"a": "b"})
        assert form.status_code == 415
        assert client.post("/models/reload", headers={"origin": "http://evil.example"}).status_code == 403
    with client_of(make(), ServiceSettings(read_only=True)) as client:
        assert client.post("/models/reload").status_code == 404
    with client_of(make(), ServiceSettings(read_only=True, access=AccessSettings(TOKEN))) as client:
        assert client.post("/models/reload").status_code == 401
        answer = client.post("/models/reload", headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 409


def test_a_directory_replaced_while_it_is_read_is_read_again(tmp_path):
    make().save_pretrained(tmp_path / "model")
    reads = []

    def read(folder):
        recommender = TigerRecommender.from_pretrained(folder)
        reads.append(len(recommender.tokenizer))
        if len(reads) == 1:
            make(25).save_pretrained(folder)
        return recommender

    loaded = ModelSource(str(tmp_path / "model"), None, read).load()
    assert reads == [20, 25] and len(loaded.recommender.tokenizer) == 25
    assert loaded.manifest == (tmp_path / "model" / "tiger.json").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_hangup_reloads(tmp_path):
    make().save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "tiger.cli", "serve", str(tmp_path / "model"), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TIGER_LOG_FORMAT": "json"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, bufsize=1
    )
    try:
        address = process.stdout.readline().split()[-1].removesuffix("/docs")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                assert httpx2.get(address + "/health").json()["items"] == 20
                break
            except httpx2.ConnectError:
                time.sleep(0.05)
        make(30, seed=1).save_pretrained(tmp_path / "model")
        process.send_signal(signal.SIGHUP)
        while httpx2.get(address + "/health").json()["items"] != 30:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert any(re.fullmatch("model .* answers now, with 30 items, .*", one.get("message", "")) for one in lines(log))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_metrics_of_the_process():
    with client_of(make()) as client:
        text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("process_"))
    assert float(values["process_resident_memory_bytes"]) > 50e6 and float(values["process_cpu_seconds_total"]) > 0.1
    assert 3 < float(values["process_open_fds"]) < float(values["process_max_fds"])
    assert 0 < time.time() - float(values["process_start_time_seconds"]) < 86_400
