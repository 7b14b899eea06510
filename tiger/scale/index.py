"""Indexing by workers on many machines: the semantic IDs of one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from tiger.scale.pool import Worker, WorkerPool
from tiger.scale.session import Cluster, session
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.index import IndexArguments, Run, index_items
from tiger.training.index_worker import IndexSettings, IndexWorker


class RayIndexWorker(IndexWorker, Worker):
    """An :class:`IndexWorker` on another machine."""


def index_on_ray(args: IndexArguments, cluster: Cluster = Cluster()) -> SemanticIdTokenizer:
    """:func:`tiger.training.index.index_items`, encoding and quantizing by workers. Fitting, and putting together, is
    this process's.

    Raises:
        DataError: as there, or there is no such cluster, or it has too few cores.
    """
    pools: list[WorkerPool] = []

    def started(settings: IndexSettings) -> Run:
        pool = WorkerPool(ray, cluster, RayIndexWorker, replace(settings, threads=cluster.cpus))
        pools.append(pool)

        def run(method: str, tasks: Iterable[Any]) -> Iterator[Any]:
            return (result for _, result in pool.run(method, tasks))

        return run

    with session(cluster) as ray:
        try:
            return index_items(args, started)
        finally:
            for pool in pools:
                pool.close()
