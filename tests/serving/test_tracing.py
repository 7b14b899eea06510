"""OpenTelemetry: spans of requests and batches, their links, and what happens without the packages."""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import make_recommender
from tiger.serving.collector import tracing_of
from tiger.utils.errors import DataError

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

from fastapi.testclient import TestClient  # noqa: E402

from tiger.serving import service  # noqa: E402
from tiger.serving.service import create_app  # noqa: E402

BODY = {"histories": [["item-1"], ["item-2"]], "k": 3, "num_beams": 5}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def needs_sdk():
    return pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")


@pytest.fixture
def traced():
    """A traced service's client, and a function that returns its spans."""
    sdk = needs_sdk()
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from tiger.serving.tracing import Tracing

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(make_recommender(20), tracing=Tracing(provider))
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        yield client, exporter.get_finished_spans


def test_a_span_per_request_and_per_batch(traced):
    client, spans = traced
    start = time.time_ns()
    answer = client.post("/recommend", json=BODY, headers={"x-request-id": "a-1", "traceparent": PARENT})
    assert answer.status_code == 200
    batch, request = spans()
    model = answer.headers["x-tiger-model"]
    shared = {"tiger.batch": 2, "tiger.items": 20, "tiger.catalog": 0, "tiger.model": model}
    assert batch.name == "batch recommend" and dict(batch.attributes) == {"tiger.requests": 1, **shared}
    assert request.name == "POST /recommend" and request.kind.name == "SERVER"
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/recommend",
        "http.response.status_code": 200,
        "tiger.request_id": "a-1",
        **shared,
    }
    # It continues the client's trace, and leads to its batch.
    assert f"{request.context.trace_id:032x}" in PARENT and f"{request.parent.span_id:016x}" in PARENT
    (link,) = request.links
    assert link.context.span_id == batch.context.span_id and batch.parent is None
    slack = 5e7  # the wall clock may be set while this runs
    times = [start, request.start_time, batch.start_time, batch.end_time, request.end_time, time.time_ns()]
    assert all(before <= after + slack for before, after in zip(times, times[1:]))


def test_other_requests(traced, monkeypatch):
    client, spans = traced
    for path in ("/livez", "/readyz", "/healthz", "/health", "/metrics"):
        client.get(path)
    assert spans() == ()
    client.get("/items/item-1")
    client.request("BREW", "/no/such/path?with=secret", headers={"traceparent": "nonsense"})
    item, unknown = spans()
    assert item.name == "GET /items/{item_id:path}" and item.parent is None and not item.links
    assert unknown.name == "_OTHER" and unknown.attributes["http.response.status_code"] == 404
    assert "secret" not in str(unknown.to_json())

    def bug(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(service, "answer_recommend", bug)
    assert client.post("/recommend", json=BODY).status_code == 500
    batch, request = spans()[2:]
    assert batch.status.status_code.name == request.status.status_code.name == "ERROR"
    assert batch.events[0].attributes["exception.message"] == "a bug"


def test_spans_reach_a_collector(monkeypatch):
    """By OTLP over HTTP, when the service stops at the latest."""
    needs_sdk()
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        tracing = tracing_of(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "set"})
        with TestClient(create_app(make_recommender(20), tracing=tracing), "http://localhost") as client:
            client.get("/items/item-1")
        server.shutdown()
    ((path, body),) = received
    (spans,) = ExportTraceServiceRequest.FromString(body).resource_spans
    names = {one.key: one.value.string_value for one in spans.resource.attributes}
    assert path == "/v1/traces" and names["service.name"] == "tiger"
    assert [span.name for span in spans.scope_spans[0].spans] == ["GET /items/{item_id:path}"]


def test_a_collector_that_is_away_does_not_hold_the_service(monkeypatch):
    needs_sdk()
    tracing_module = pytest.importorskip("tiger.serving.tracing", reason="needs the extra otel")
    monkeypatch.setattr(tracing_module, "FLUSH_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing = tracing_of(True, {})
    with TestClient(create_app(make_recommender(20), tracing=tracing), "http://localhost") as client:
        assert client.post("/recommend", json=BODY).status_code == 200
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 2


def test_without_the_packages(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "tiger.serving.tracing"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)  # as if it was not installed
    with pytest.raises(DataError, match=r"opentelemetry is missing: pip install 'tiger-recommender\[otel\]'"):
        tracing_of(True, {})
    assert tracing_of(None, COLLECTOR) is None
    warning = capsys.readouterr().err
    assert warning.startswith(
        "warning: OTEL_EXPORTER_OTLP_ENDPOINT is set, but there will be no traces: opentelemetry"
    )
    assert warning.count("\n") == 1


def test_nothing_is_loaded_where_nobody_asks(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tiger.serving.tracing", None)  # to import it would fail
    assert tracing_of(None, {}) is None and tracing_of(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}) is None
    assert tracing_of(False, COLLECTOR) is None
    assert capsys.readouterr().err == ""
