"""Options of the commands that can run on many machines: where, and with how many workers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tiger.utils.errors import DataError

if TYPE_CHECKING:
    from tiger.scale.session import Cluster

ENGINES = ("local", "ray")
_RAY_ONLY = ("address", "workers", "worker_cpus")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """``--engine``, ``--address``, ``--workers`` and ``--worker_cpus``."""
    parser.add_argument("--engine", choices=ENGINES, default="local", help="local: this process; ray: workers on Ray")
    parser.add_argument(
        "--address", help="of the Ray cluster: auto (this machine's), HOST:PORT, or local: a session of this machine"
    )
    parser.add_argument("--workers", type=int, help="processes on Ray (default 2)")
    parser.add_argument("--worker_cpus", type=int, help="cores of each (default 1)")


def cluster_of(args: argparse.Namespace, gpus: int = 0) -> Cluster | None:
    """The cluster to run on; None: this process.

    Args:
        gpus: of each worker.

    Raises:
        DataError: an option of Ray for another engine, or a number out of range.
    """
    if args.engine != "ray":
        for name in _RAY_ONLY:
            if getattr(args, name) is not None:
                raise DataError(f"--{name} belongs to --engine ray.")
        return None
    from tiger.scale.session import LOCAL, Cluster

    workers = 2 if args.workers is None else args.workers
    cpus = 1 if args.worker_cpus is None else args.worker_cpus
    return Cluster(args.address or LOCAL, workers, cpus, gpus)
