"""``tiger app`` and ``tiger serve``: run until they are stopped."""

from __future__ import annotations

import argparse
import gc
from contextlib import nullcontext

from tiger.cli.common import load_recommender
from tiger.utils.errors import DataError
from tiger.utils.locks import locked


def add_serving_verbs(verbs) -> None:
    """``tiger app`` and ``tiger serve``."""
    app = verbs.add_parser("app", help="a web page to try a recommender")
    app.add_argument(
        "model", metavar="RUN_OR_REPO", help="a run's folder such as runs/demo, owner/name on the Hub, or demo"
    )
    app.add_argument("--revision", help="branch, tag or commit on the Hub")
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    app.add_argument("--port", type=int, default=7860, help="default 7860")
    app.add_argument("--share", action="store_true", help="public link: a tunnel through Gradio's servers")
    app.set_defaults(run=_app)
    serve = verbs.add_parser("serve", help="answer over HTTP")
    serve.add_argument(
        "model", metavar="RUN_OR_REPO", help="a run's folder such as runs/demo, owner/name on the Hub, or demo"
    )
    serve.add_argument("--revision", help="branch, tag or commit on the Hub")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    serve.add_argument("--port", type=int, default=8000, help="0: any free port (default 8000)")
    serve.add_argument("--device", default="cpu", help="such as cuda (default cpu)")
    serve.add_argument("--max_batch", type=int, default=16, help="histories per batch (default 16)")
    serve.add_argument("--max_delay_ms", type=float, default=5.0, help="maximum wait for other requests (default 5)")
    serve.add_argument("--max_queue", type=int, default=1024, help="histories that may wait (default 1024)")
    serve.add_argument("--bf16", action="store_true", help="bfloat16 matrix products: often faster, scores less exact")
    serve.add_argument("--read_only", action="store_true", help="refuse to add and remove items")
    serve.add_argument("--save", action="store_true", help="write the recommender back after every update")
    _add_edge_options(serve)
    serve.set_defaults(run=_serve)


def _add_edge_options(serve: argparse.ArgumentParser) -> None:
    """Limits of connections, and who may ask."""
    for name, kind, default, what in (
        ("max_connections", int, 512, "connections open at a time"),
        ("keep_alive_seconds", float, 5.0, "that a connection may be open without a request"),
        ("receive_seconds", float, 15.0, "that the head of a request may take, and again its body"),
        ("grace_seconds", float, 20.0, "that requests have to be answered after SIGTERM"),
    ):
        serve.add_argument(f"--{name}", type=kind, default=default, help=f"{what} (default {default:g})")
    serve.add_argument(
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names by which the service is reached, besides localhost and --host: shop.example, *.shop.example, *",
    )
    serve.add_argument(
        "--allowed_origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="other sites whose pages may send requests that are no reads: https://shop.example, *",
    )


def _app(args: argparse.Namespace) -> None:
    from tiger.serving.gradio_app import launch

    launch(load_recommender(args.model, args.revision), args.host, args.port, args.share)


def _serve(args: argparse.Namespace) -> None:
    from tiger.recommender.manifest import writable_folder
    from tiger.serving.service import EdgeSettings, ServiceSettings, create_app, serve

    folder = writable_folder(args.model)
    if args.save and not folder.is_dir():
        raise DataError(f"--save writes to a directory, and {args.model} is none: save the recommender to one first.")
    edge = EdgeSettings(
        allowed_hosts=tuple(args.allowed_hosts),
        allowed_origins=tuple(args.allowed_origins),
        max_connections=args.max_connections,
        keep_alive_seconds=args.keep_alive_seconds,
        receive_seconds=args.receive_seconds,
        grace_seconds=args.grace_seconds,
    )
    settings = ServiceSettings(
        max_batch=args.max_batch,
        max_delay_ms=args.max_delay_ms,
        max_queue=args.max_queue,
        bf16=args.bf16,
        read_only=args.read_only,
        save=folder if args.save else None,
        edge=edge,
    )
    # Nobody may change it between reading it and noting what was read.
    with locked(folder) if args.save else nullcontext():
        app = create_app(load_recommender(args.model, args.revision, args.device), settings)
    serve(app, args.host, args.port)
    gc.freeze()  # the process ends: to look for garbage first would take as long as a second
