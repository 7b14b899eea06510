"""A connection to Ray: a cluster that runs already, or a session of this machine; strangers need its token."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tiger.utils.errors import DataError, first_line

LOCAL = "local"
_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True)
class Cluster:
    """The place where workers run, and the share of it that each gets.

    Args:
        address: ``auto``: the cluster that this machine belongs to; ``HOST:PORT`` of its head; ``local``: a session of
            this machine alone, which ends with the work.
        workers: processes that work.
        cpus: cores of each, and threads.
        gpus: of each.

    Raises:
        DataError: a number is out of range.
    """

    address: str = LOCAL
    workers: int = 2
    cpus: int = 1
    gpus: int = 0

    def __post_init__(self):
        if self.workers < 1 or self.cpus < 1 or self.gpus < 0:
            raise DataError("workers and worker_cpus must be at least 1.")

    def device(self, wanted: str) -> str:
        """The device that a worker computes on. Ray gives it its GPUs, and shows it no others: whatever their numbers
        are on the machine, here they begin with 0."""
        return "cuda" if self.gpus else wanted


def load_ray() -> Any:
    """Import Ray, with its token authentication on unless the environment says otherwise, and without its reports of
    usage.

    Ray reads the variables when it is imported.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(_MODE, "token")
        if os.environ[_MODE].lower() != "token":
            print(
                f"warning: {_MODE} is {os.environ[_MODE]}: whoever reaches Ray's ports can run code", file=sys.stderr
            )
    import ray

    return ray


@contextmanager
def session(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected; a session of this machine ends with the block. One that the process has already is used.

    Raises:
        DataError: there is no such cluster, its token is missing or wrong, or it has too few cores.
    """
    ray = load_ray()
    if ray.is_initialized():
        check_cores(ray, cluster)
        yield ray
        return
    _connect(ray, cluster)
    try:
        check_cores(ray, cluster)
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, cluster: Cluster) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address == LOCAL:
        if not any(os.environ.get(name) for name in (_TOKEN, _TOKEN_FILE)):
            os.environ[_TOKEN] = secrets.token_hex(32)  # of this session: no file keeps it
        # By its affinity, not by the machine: a container may have fewer.
        options |= {"address": LOCAL, "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    else:
        options["address"] = cluster.address
    try:
        ray.init(**options)
    except Exception as error:  # of no common kind: a machine that is too busy to start raises a plain one
        if cluster.address == LOCAL:
            raise DataError(f"Ray does not start here: {first_line(error)}") from error
        raise DataError(
            f"there is no Ray cluster at {cluster.address} ({first_line(error)}). Start one (ray start --head), with "
            f"the token of {_TOKEN} or ~/.ray/auth_token there and here, or give --address local."
        ) from error


def check_cores(ray: Any, cluster: Cluster) -> None:
    """Refuse more workers than there are cores for: they would wait without a word.

    Raises:
        DataError: the cluster has too few cores or GPUs, or others hold them.
    """
    there, free = ray.cluster_resources(), ray.available_resources()
    for name, each in (("CPU", cluster.cpus), ("GPU", cluster.gpus)):
        wanted = cluster.workers * each
        for found, what in ((there, "has"), (free, "has free")):
            if found.get(name, 0) < wanted:
                kind = "cores" if name == "CPU" else "GPUs"
                raise DataError(
                    f"{cluster.workers} workers need {wanted} {kind}, and Ray {what} {found.get(name, 0):g}: give "
                    "fewer --workers, start more machines, or wait for other work."
                )
