"""A pool of workers on Ray: tasks of any order, done again elsewhere where a worker is lost."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from tiger.scale.session import Cluster
from tiger.utils.errors import DataError

MAX_LOSSES = 3  # workers that a task may lose: one that kills each would else be tried for ever
START_SECONDS = 120.0  # that no worker at all may take to start


_BEGUN = object()


class LostWorker(Exception):
    """A worker is gone, with the task that it had."""


class Worker:
    """Base of classes whose objects work on other machines."""

    def begun(self) -> bool:
        """Whether it is there."""
        return True


class WorkerPool:
    """Workers of one class, to be closed.

    A task has to write its result whole, so that it may be done twice. Only its arguments and what it returns travel
    through Ray: paths and counts, no models and no tables.

    Args:
        ray: connected, see :func:`tiger.scale.session.session`.
        cluster: how many workers, and what each gets.
        kind: the class.
        arguments: of its constructor, which should do nothing that takes time or may fail.
    """

    def __init__(self, ray: Any, cluster: Cluster, kind: type[Worker], *arguments: Any):
        self._ray, self._cluster, self._arguments = ray, cluster, arguments
        made = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_restarts=0)
        self._kind = made(kind)
        self._workers: dict[int, Any] = {}
        self._free: deque[int] = deque()
        self._running: dict[Any, tuple[int, Any]] = {}
        for number in range(cluster.workers):
            self._start(number)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            self._ray.kill(worker)
        self._workers.clear()

    def _start(self, number: int) -> None:
        """Start a worker; until it is there, it gets no task: it may never come, if its machine was lost."""
        worker = self._workers[number] = self._kind.remote(*self._arguments)
        self._running[worker.begun.remote()] = (number, _BEGUN)

    def run(self, method: str, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Call a method with each of the tasks: pairs of task and result, as they come.

        Raises:
            DataError: the method's own, a task that has lost several workers, or no worker starts.
        """
        waiting, losses = deque(tasks), Counter[int]()
        left, since = len(waiting), time.monotonic()
        while left:
            while waiting and self._free:
                number, task = self._free.popleft(), waiting.popleft()
                self._running[getattr(self._workers[number], method).remote(task)] = (number, task)
            done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=5)
            if done or any(task is not _BEGUN for _, task in self._running.values()):
                since = time.monotonic()
            elif time.monotonic() - since > START_SECONDS:
                raise DataError(
                    f"no worker has started in {START_SECONDS:g} s: other work holds the cores. Give fewer --workers."
                )
            for one in done:
                number, task = self._running.pop(one)
                try:
                    result = self._result(one)
                except LostWorker as lost:
                    self._start(number)
                    key = id(task)
                    losses[key] += 1
                    if losses[key] >= MAX_LOSSES:
                        raise DataError(f"{MAX_LOSSES} workers were lost, the last so: {lost}") from lost
                    if task is not _BEGUN:
                        waiting.appendleft(task)
                    continue
                self._free.append(number)
                if task is not _BEGUN:
                    left -= 1
                    yield task, result

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except errors.RayError as error:  # a worker that was killed, its machine gone, a result that was lost
            raise LostWorker(" ".join(str(error).split())[:300]) from error
