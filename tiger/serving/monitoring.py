"""Metrics of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector


class Metrics:
    """The service's Prometheus metrics, whose names begin with ``tiger_``, and on Linux those of its process:
    ``process_cpu_seconds_total``, ``process_resident_memory_bytes``, ``process_open_fds``,
    ``process_start_time_seconds``."""

    def __init__(self):
        self.registry = CollectorRegistry()
        seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
        self.requests = Counter(
            "tiger_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "tiger_request_seconds", "Time from request to answer", ["path"], buckets=seconds, registry=self.registry
        )
        self.batch_rows = Histogram(
            "tiger_batch_histories",
            "Histories in a batch",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "tiger_batch_seconds", "Time to run a batch", buckets=seconds, registry=self.registry
        )
        self.queued = Gauge("tiger_queued_histories", "Waiting histories", registry=self.registry)
        self.rejected = Counter(
            "tiger_rejected_requests", "Requests refused because the queue was full", registry=self.registry
        )
        self.limited = Counter(
            "tiger_limited_requests", "Requests refused because their client sent too many", registry=self.registry
        )
        self.items = Gauge("tiger_items", "Items in the catalog", registry=self.registry)
        self.updates = Gauge("tiger_catalogue_updates", "Updates of the catalog", registry=self.registry)
        self.reloads = Counter(
            "tiger_reloads", "Reloads of the model, by result: ok or failed", ["result"], registry=self.registry
        )
        for result in ("ok", "failed"):
            self.reloads.labels(result)  # there from the start, so that an increase can be seen
        self.model = Info("tiger_model", "Digest of the model that answers", registry=self.registry)
        self.dropped = Gauge("tiger_log_lines_dropped", "Log lines that nobody read in time", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def batch(self, rows: int, seconds: float) -> None:
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)
