"""Options of the commands that can run on many machines: where, and with how many workers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tiger.utils.errors import DataError

if TYPE_CHECKING:
    from tiger.scale.session import Cluster

ENGINES = ("local", "ray")
_RAY_ONLY = ("address", "workers", "replicas", "worker_cpus")


def _add(parser: argparse.ArgumentParser, *names: str, **options: Any) -> None:
    parser.add_argument(*names, **options)


def add_engine_options(
    parser: argparse.ArgumentParser, add: Callable[..., object] = _add, workers: str = "workers"
) -> None:
    """``--engine``, ``--address``, ``--workers`` and ``--worker_cpus``.

    Args:
        add: adds an option to the parser.
        workers: the name of the option that says how many there are.
    """
    add(parser, "--engine", choices=ENGINES, default="local", help="local: this process; ray: processes on Ray")
    add(parser, "--address", help="of the Ray cluster: auto (this machine's), HOST:PORT, or local: a session here")
    add(parser, f"--{workers}", type=int, help="processes on Ray (default 2)")
    add(parser, "--worker_cpus", type=int, help="cores of each (default 1)")


def cluster_of(args: argparse.Namespace) -> Cluster | None:
    """The cluster to run on, with a GPU for each worker where ``--device`` is one; None: this process.

    Raises:
        DataError: an option of Ray for another engine, or a number out of range.
    """
    if args.engine != "ray":
        for name in _RAY_ONLY:
            if getattr(args, name, None) is not None:
                raise DataError(f"--{name} belongs to --engine ray.")
        return None
    from tiger.scale.session import LOCAL, Cluster

    given = args.workers if hasattr(args, "workers") else args.replicas
    workers = 2 if given is None else given
    cpus = 1 if args.worker_cpus is None else args.worker_cpus
    on_gpu = (getattr(args, "device", None) or "cpu").split(":")[0] == "cuda"
    return Cluster(args.address or LOCAL, workers, cpus, int(on_gpu))
