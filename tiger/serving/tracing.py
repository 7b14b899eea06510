"""Traces of the service for OpenTelemetry: one span per request and one per batch. Needs the extra ``otel``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tiger import __version__
from tiger.serving.answers import Answer
from tiger.serving.live import Snapshot
from tiger.serving.query import Query
from tiger.serving.service_log import QUIET, RequestRecord

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
FLUSH_SECONDS = 5.0  # that the last spans have to reach the collector; not tuned
NANOSECONDS = 1_000_000_000


class Tracing:
    """Makes spans of the service's requests and batches.

    A request's span continues the trace of its ``traceparent`` header and has a link to that of its batch, which other
    requests share. Probes and ``/metrics`` have none.

    Args:
        provider: makes and exports spans; it belongs to this object from now on.
    """

    def __init__(self, provider: TracerProvider):
        self._provider = provider
        self._tracer = provider.get_tracer("tiger.serving", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def from_environment(cls) -> Tracing:
        """Spans that go to a collector by OTLP over HTTP, as the standard ``OTEL_*`` variables say."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # no variable names it
            resource = resource.merge(Resource({SERVICE_NAME: "tiger"}))
        # At exit, it would wait half a minute for a collector that is away.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def request(self, record: RequestRecord, route: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Make the span of a request that has been answered.

        Args:
            route: pattern of its path, so that there are few; None: it has met none.
            headers: of the request.
        """
        if record.path in QUIET:
            return
        method = record.method if record.method in METHODS else "_OTHER"
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": record.status,
            "tiger.request_id": record.id,
            "tiger.batch": record.batch,
            "tiger.items": record.items,
            "tiger.catalog": record.catalog,
            "tiger.model": record.model,
        }
        start = int(record.time * NANOSECONDS)
        span = self._tracer.start_span(
            " ".join(part for part in (method, route) if part),
            context=self._propagator.extract(_trace_headers(headers), Context()),
            kind=SpanKind.SERVER,
            attributes={name: value for name, value in attributes.items() if value is not None},
            links=[] if record.span is None else [Link(record.span)],
            start_time=start,
        )
        if record.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(start + int(record.ms * NANOSECONDS / 1e3))

    def run_batch(self, kind: str, snapshot: Snapshot, requests: Sequence[Query], run: Callable[[], list]) -> list:
        """Run a batch within a span.

        Args:
            kind: ``recommend`` or ``rank``.
            snapshot: what answers.
            requests: queries of the batch.
            run: returns the answers.

        Returns:
            The answers, which know the span.
        """
        attributes = {
            "tiger.requests": len(requests),
            "tiger.batch": sum(len(query.histories) for query in requests),
            "tiger.items": len(snapshot.recommender.tokenizer),
            "tiger.catalog": snapshot.catalogue,
            "tiger.model": snapshot.model,
        }
        with self._tracer.start_as_current_span(f"batch {kind}", Context(), attributes=attributes) as span:
            answers = run()
        context = span.get_span_context()
        return [replace(one, span=context) if isinstance(one, Answer) else one for one in answers]

    def close(self) -> None:
        """Send what is left, for up to :data:`FLUSH_SECONDS`."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)


def _trace_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    names = (b"traceparent", b"tracestate")
    return {name.decode(): value.decode("latin-1") for name, value in headers if name in names}
