"""``tiger app`` and ``tiger serve``: run until they are stopped."""

from __future__ import annotations

import argparse
import gc
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tiger.cli.common import MODEL_HELP, REVISION_HELP, add_device_option, add_model_argument, load_recommender
from tiger.cli.engine import add_engine_options, cluster_of
from tiger.cli.environment import add_option, check_settings, read_settings
from tiger.utils.errors import DataError
from tiger.utils.locks import locked

if TYPE_CHECKING:
    from tiger.scale.session import Cluster
    from tiger.serving.settings import ServiceSettings

# Settings that replicas don't have, by the part of the service's settings that they are in.
_LOCAL_ONLY = {
    "edge": ("max_connections", "keep_alive_seconds", "receive_seconds"),
    "clients": ("client_rate", "trusted_proxies"),
}
EPILOG = (
    "Each option can be given by the environment variable in brackets, too; the command line wins. The token is read "
    "from --token_file or $TIGER_TOKEN only. SIGHUP loads the model again from its directory."
)


def add_serving_verbs(verbs) -> None:
    """``tiger app`` and ``tiger serve``."""
    app = verbs.add_parser("app", help="a web page to try a recommender")
    add_model_argument(app)
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    app.add_argument("--port", type=int, default=7860, help="default 7860")
    app.add_argument("--share", action="store_true", help="public link: a tunnel through Gradio's servers")
    app.add_argument(
        "--images", action="store_true", help="show images; browsers load them from where the item table says"
    )
    add_device_option(app, "cpu", "cpu")
    app.set_defaults(run=_app)
    serve = verbs.add_parser("serve", help="answer over HTTP", epilog=EPILOG)
    add_option(serve, "model", nargs="?", metavar="RUN_OR_REPO", help=MODEL_HELP)
    add_option(serve, "--revision", help=REVISION_HELP)
    add_option(serve, "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    add_option(serve, "--port", type=_port, default=8000, help="0: any free port (default 8000)")
    add_option(serve, "--device", default="cpu", help="such as cuda (default cpu)")
    add_option(serve, "--max_batch", type=int, help="histories per batch (default 16 on a CPU, 256 on a GPU)")
    add_option(serve, "--max_delay_ms", type=float, default=5.0, help="maximum wait for other requests (default 5)")
    add_option(serve, "--max_queue", type=int, default=1024, help="histories that may wait (default 1024)")
    _add_choice(serve, "--bf16", "bfloat16 matrix products: often faster, scores less exact (default: on a GPU)")
    _add_choice(serve, "--cuda_graphs", "record searches at the start and replay them (default: on an NVIDIA GPU)")
    _add_switch(serve, "--read_only", "refuse to add and remove items")
    _add_switch(serve, "--save", "write the recommender back after every update")
    add_option(
        serve,
        "--update_log",
        metavar="PLACE",
        help="folder or URL of a log of updates that several services share: each update is durable there when it is "
        "confirmed, and within two seconds in all of them",
    )
    add_engine_options(serve, add_option, "replicas")
    _add_edge_options(serve)
    _add_client_options(serve)
    _add_access_options(serve)
    serve.set_defaults(run=_serve)


def _add_switch(parser: argparse._ActionsContainer, name: str, what: str) -> None:
    add_option(parser, name, action=argparse.BooleanOptionalAction, default=False, help=what)


def _add_choice(parser: argparse._ActionsContainer, name: str, what: str) -> None:
    """A switch that the device decides where nobody does."""
    add_option(parser, name, action=argparse.BooleanOptionalAction, help=what)


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return number


def _add_edge_options(serve: argparse.ArgumentParser) -> None:
    """Limits of connections, and who may ask."""
    for name, kind, default, what in (
        ("max_connections", int, 512, "connections open at a time"),
        ("keep_alive_seconds", float, 5.0, "that a connection may be open without a request"),
        ("receive_seconds", float, 15.0, "that the head of a request may take, and again its body"),
        ("grace_seconds", float, 20.0, "that requests have to be answered after SIGTERM"),
    ):
        add_option(serve, f"--{name}", type=kind, default=default, help=f"{what} (default {default:g})")
    add_option(
        serve,
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names by which the service is reached, besides localhost and --host: shop.example, *.shop.example, *",
    )
    add_option(
        serve,
        "--allowed_origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="other sites whose pages may send requests that are no reads: https://shop.example, *",
    )


def _add_client_options(serve: argparse.ArgumentParser) -> None:
    """Requests that one client may send."""
    add_option(
        serve, "--client_rate", type=float, default=0.0, help="requests a second of one client (default 0: any number)"
    )
    add_option(serve, "--client_burst", type=int, default=20, help="requests that it may send at once (default 20)")
    add_option(
        serve,
        "--trusted_proxies",
        nargs="+",
        default=[],
        metavar="ADDRESS",
        help="addresses or networks whose X-Forwarded-For is believed: 10.0.0.5, 10.0.0.0/8",
    )


def _add_access_options(serve: argparse.ArgumentParser) -> None:
    """The token, and the log."""
    add_option(
        serve, "--token_file", metavar="FILE", help="file with the token that updates need; or set $TIGER_TOKEN"
    )
    choices = ("updates", "all")
    add_option(serve, "--token_for", choices=choices, default="updates", help="what needs the token (default updates)")
    _add_switch(serve, "--insecure", "let everybody on the network change the catalog")
    choices = ("text", "json")
    add_option(serve, "--log_format", choices=choices, default="text", help="lines on standard error (default text)")
    add_option(
        serve,
        "--log_level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="debug: probes too; info: all other requests; warning: refused; error: failed (default info)",
    )
    add_option(
        serve,
        "--otel",
        action=argparse.BooleanOptionalAction,
        help="OpenTelemetry spans, as the OTEL_* variables say (default: if $OTEL_EXPORTER_OTLP_ENDPOINT is set)",
    )


def _app(args: argparse.Namespace) -> None:
    from tiger.serving.gradio_app import launch

    launch(load_recommender(args.model, args.revision, args.device), args.host, args.port, args.share, args.images)


def _serve(args: argparse.Namespace) -> None:
    used = read_settings(args)
    if args.model is None:
        raise DataError("no model: give RUN_OR_REPO, such as runs/demo, or set TIGER_MODEL.")
    # What it imports takes seconds: not needed for --help, nor for a wrong variable.
    from tiger.recommender.manifest import writable_folder
    from tiger.serving.access import check_exposure
    from tiger.serving.collector import tracing_of
    from tiger.serving.model_source import ModelSource
    from tiger.serving.service import create_app, serve

    folder = writable_folder(args.model)
    if args.save and not folder.is_dir():
        raise DataError(f"--save writes to a directory, and {args.model} is none: save the recommender to one first.")
    settings = _settings(args, used, folder if args.save else None)
    if not args.insecure:
        check_exposure(args.host, settings)
    if (cluster := cluster_of(args)) is not None:
        _serve_on_ray(args, settings, cluster)
        return
    tracing = tracing_of(args.otel, os.environ)
    source = ModelSource(args.model, args.revision, lambda name: load_recommender(name, None, args.device))
    # Nobody may change it between reading it and noting what was read.
    with locked(folder) if args.save else nullcontext():
        loaded = source.load()
        app = create_app(loaded.recommender, settings, source, loaded.manifest, tracing)
    del loaded  # a reload lets it go
    serve(app, args.host, args.port)
    gc.freeze()  # the process ends: to look for garbage first would take as long as a second


def _serve_on_ray(args: argparse.Namespace, settings: ServiceSettings, cluster: Cluster) -> None:
    """Serve by replicas until SIGTERM or SIGINT.

    Raises:
        DataError: an option that replicas don't have.
    """
    from tiger.scale.serve import ReplicaSettings, serve_on_ray

    given = ["save"] if settings.save is not None else []
    for part, names in _LOCAL_ONLY.items():
        ours, plain = getattr(settings, part), getattr(type(settings)(), part)
        given += [name for name in names if getattr(ours, name) != getattr(plain, name)]
    if given:
        raise DataError(
            f"--{given[0]} belongs to --engine local: on Ray, its proxy holds the connections, and --update_log keeps "
            "the updates."
        )
    serve_on_ray(
        ReplicaSettings(
            args.model,
            args.revision,
            args.device,
            settings,
            args.host,
            cluster.cpus,
            args.otel,
            {name: value for name, value in os.environ.items() if name.startswith("OTEL_")},
        ),
        cluster,
        args.port,
    )


def _settings(args: argparse.Namespace, used: dict[str, str], save: Path | None) -> ServiceSettings:
    """The service's settings; an error of one that a variable gives names the variable."""
    from tiger.serving.access import TOKEN_VARIABLE, read_token
    from tiger.serving.settings import AccessSettings, ClientSettings, EdgeSettings, LogSettings, ServiceSettings

    for kind in (EdgeSettings, ClientSettings, ServiceSettings):
        check_settings(used, args, kind)
    if "token_file" in used and os.environ.get(TOKEN_VARIABLE):
        raise DataError(f"{used['token_file']} and {TOKEN_VARIABLE} are both set: unset one.")
    return ServiceSettings(
        max_batch=args.max_batch,
        max_delay_ms=args.max_delay_ms,
        max_queue=args.max_queue,
        bf16=args.bf16,
        cuda_graphs=args.cuda_graphs,
        read_only=args.read_only,
        save=save,
        update_log=args.update_log,
        edge=EdgeSettings(
            allowed_hosts=tuple(args.allowed_hosts),
            allowed_origins=tuple(args.allowed_origins),
            max_connections=args.max_connections,
            keep_alive_seconds=args.keep_alive_seconds,
            receive_seconds=args.receive_seconds,
            grace_seconds=args.grace_seconds,
        ),
        access=AccessSettings(read_token(args.token_file, os.environ), args.token_for),
        clients=ClientSettings(args.client_rate, args.client_burst, tuple(args.trusted_proxies)),
        log=LogSettings(args.log_format, args.log_level),
    )
