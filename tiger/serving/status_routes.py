"""Endpoints that say how the service is: probes, health, metrics, and a page that lists all endpoints."""

from __future__ import annotations

from typing import Any

import torch
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse, RedirectResponse

from tiger import __version__
from tiger.serving.docs_page import PAGE_HEADERS, docs_page
from tiger.serving.monitoring import Metrics
from tiger.serving.responses import json_response
from tiger.serving.schemas import Health, Probe
from tiger.serving.service_log import ServiceLog

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Probe, "description": "It is stopping, or a thread has ended"}
}


def add_probe_routes(app: FastAPI) -> None:
    """``GET /livez``, ``/readyz`` and ``/healthz``, the last two being one."""

    @app.get("/livez", response_model=Probe, summary="Whether the process answers: restart it if not")
    async def livez():
        return json_response({"ok": True})

    @app.get(
        "/healthz",
        response_model=Probe,
        responses=_NOT_READY,
        summary="As /readyz",
    )
    @app.get(
        "/readyz",
        response_model=Probe,
        responses=_NOT_READY,
        summary="Whether it takes requests: send none if not",
    )
    async def readyz():
        ready = app.state.batcher.alive
        return json_response({"ok": ready}, 200 if ready else 503)


def add_status_routes(app: FastAPI, metrics: Metrics, log: ServiceLog) -> None:
    """``GET /health`` and ``GET /metrics``."""

    @app.get("/health", response_model=Health, summary="Whether it answers, and what it holds")
    async def health():
        snapshot = app.state.live.now
        return Health(
            live=True,
            ready=app.state.batcher.alive,
            items=len(snapshot.recommender.tokenizer),
            catalogue=snapshot.catalogue,
            fingerprint=snapshot.recommender.tokenizer.fingerprint,
            model=snapshot.model,
            ranker=snapshot.recommender.ranker is not None,
            can_add=snapshot.cannot_add is None,
            queued=app.state.batcher.queued,
            behind=app.state.live.behind,
            versions={"tiger": __version__, "torch": torch.__version__},
        )

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def prometheus():
        snapshot = app.state.live.now
        metrics.queued.set(app.state.batcher.queued)
        metrics.items.set(len(snapshot.recommender.tokenizer))
        metrics.updates.set(snapshot.catalogue)
        metrics.model.info({"digest": snapshot.model})
        metrics.dropped.set(log.dropped)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def add_docs_routes(app: FastAPI) -> None:
    """``GET /docs``, made of the service's schema, and ``GET /``, which leads there."""

    @app.get("/docs", include_in_schema=False)
    async def docs():
        return HTMLResponse(docs_page(app.openapi()), headers=PAGE_HEADERS)

    @app.get("/", include_in_schema=False)
    async def root():
        return RedirectResponse("/docs")
