"""The service in replicas on Ray Serve, behind one address; updates go through one log, which all replay."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tiger.scale.session import Cluster, session
from tiger.serving.access import check_exposure, read_token
from tiger.serving.collector import tracing_of
from tiger.serving.model_source import ModelSource, manifest_digest, read_manifest_bytes
from tiger.serving.settings import AccessSettings, EdgeSettings, ServiceSettings
from tiger.serving.update_log import UpdateLog
from tiger.utils.errors import DataError, first_line
from tiger.utils.stores import absolute, is_url

NAME = "tiger"
ONGOING = 256  # requests that a replica may have at a time; its own queue says when that is too much. Not tuned.


@dataclass(frozen=True)
class ReplicaSettings:
    """Settings of a replica.

    Args:
        model, revision: of the recommender: a directory that all machines have, or a name on the Hub.
        device: to compute on.
        service: settings of the service.
        host: on which the proxy listens.
        cpus: threads.
        otel: make OpenTelemetry spans; None: if a variable names a collector.
        variables: ``OTEL_*`` of where the service was started; those of a replica's own machine win.
    """

    model: str
    revision: str | None
    device: str
    service: ServiceSettings
    host: str = "127.0.0.1"
    cpus: int = 1
    otel: bool | None = False
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)  # headers may hold a token


def replica_app(told: ReplicaSettings) -> Any:
    """The ASGI application of one replica, once it has replayed the log."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from tiger.recommender.recommender import TigerRecommender
    from tiger.serving.service import create_app, live_recommender

    torch.set_num_threads(told.cpus)
    disable_progress_bar()
    for name, value in told.variables.items():
        os.environ.setdefault(name, value)
    tracing = tracing_of(told.otel, os.environ)
    source = ModelSource(told.model, told.revision, partial(TigerRecommender.from_pretrained, device=told.device))
    loaded = source.load()
    live = live_recommender(loaded.recommender, told.service, source, loaded.manifest)
    app = create_app(settings=told.service, tracing=tracing, live=live)
    app.state.hosts = app.state.hosts.bound_to(told.host)
    return app


def application(args: dict[str, str]) -> Any:
    """The application for Ray Serve's own configuration files: ``import_path: tiger.scale.serve:application``.

    Args:
        args: ``model``, and if you like ``revision``, ``device``, ``update_log`` (or ``read_only: "1"``),
            ``token_file``, ``token_for``, ``allowed_hosts`` (separated by commas), ``host`` and ``cpus``.

    Raises:
        DataError: an argument is unknown, or ``model`` is missing.
    """
    from ray import serve

    known = {"model", "revision", "device", "update_log", "read_only", "token_file", "token_for", "allowed_hosts"}
    if unknown := sorted(args.keys() - known - {"host", "cpus"}):
        raise DataError(
            f"the application has no argument {unknown[0]}: it has {', '.join(sorted(known))}, host, cpus."
        )
    if "model" not in args:
        raise DataError("the application needs the argument model: a directory that all machines have.")
    hosts = tuple(name.strip() for name in args.get("allowed_hosts", "").split(",") if name.strip())
    service = ServiceSettings(
        read_only=args.get("read_only") == "1",
        update_log=args.get("update_log"),
        edge=EdgeSettings(allowed_hosts=hosts),
        access=AccessSettings(read_token(args.get("token_file"), os.environ), args.get("token_for", "updates")),
    )
    host = args.get("host", "127.0.0.1")
    check_exposure(host, service)
    told = ReplicaSettings(
        args["model"], args.get("revision"), args.get("device", "cpu"), service, host, int(args.get("cpus", 1))
    )
    _check(told, 1)
    return serve.deployment(name=NAME)(serve.ingress(_builder(told))()).bind()


def serve_on_ray(told: ReplicaSettings, cluster: Cluster, port: int = 8000) -> None:
    """Run replicas until SIGTERM or SIGINT.

    Args:
        cluster: its workers are the replicas.
        port: of the proxy, on ``told.host``.

    Raises:
        DataError: there is no such model or cluster, replicas that take updates have no log, or they don't start.
    """
    told = replace(told, model=_absolute(told.model), service=_with_absolute_log(told.service))
    _check(told, cluster.workers)
    stopped = threading.Event()
    with running_replicas(told, cluster, port):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        print(f"{cluster.workers} replicas on http://{told.host}:{port}/docs", flush=True)
        stopped.wait()


@contextmanager
def running_replicas(told: ReplicaSettings, cluster: Cluster, port: int):
    """Replicas that answer while the block runs."""
    told = replace(told, device=cluster.device(told.device))
    with session(cluster) as ray:
        from ray import serve

        deployment = serve.deployment(
            name=NAME,
            num_replicas=cluster.workers,
            max_ongoing_requests=ONGOING,
            max_constructor_retry_count=3 * cluster.workers,
            health_check_period_s=5,
            graceful_shutdown_timeout_s=told.service.edge.grace_seconds,
            ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        )
        app = deployment(serve.ingress(_builder(told))()).bind()
        try:
            serve.start(http_options={"host": told.host, "port": port})
            serve.run(app, name=NAME, route_prefix="/", logging_config={"enable_access_log": False})
        except (RuntimeError, ray.exceptions.RayError) as error:
            _stop(serve)
            raise DataError(f"the replicas do not start: {first_line(error)} Their logs say why.") from error
        try:
            yield
        finally:
            _stop(serve)


def _stop(serve: Any) -> None:
    serve.delete(NAME, _blocking=True)
    serve.shutdown()


def _builder(told: ReplicaSettings) -> Callable[[], Any]:
    """A function without arguments, as Ray Serve wants it."""

    def build() -> Any:
        return replica_app(told)

    return build


def _check(told: ReplicaSettings, replicas: int) -> None:
    """Refuse at once what each replica would stumble over.

    Raises:
        DataError: see :func:`serve_on_ray`.
    """
    settings = told.service
    if settings.update_log is None and not settings.read_only:
        raise DataError("replicas that take updates share a log: give --update_log, or --read_only.")
    folder = ModelSource(told.model, told.revision).folder()
    manifest = read_manifest_bytes(folder)
    if manifest is None:
        raise DataError(f"{folder} is no saved recommender: give a run's folder, or a name on the Hub.")
    if settings.update_log is not None:
        UpdateLog(settings.update_log).begin(manifest_digest(manifest))
    if replicas > 1 and settings.update_log is not None and not is_url(settings.update_log):
        print(f"updates are kept in {settings.update_log}, which all machines of replicas must share", file=sys.stderr)


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).exists() else model


def _with_absolute_log(settings: ServiceSettings) -> ServiceSettings:
    log = settings.update_log
    return settings if log is None else replace(settings, update_log=absolute(log))
