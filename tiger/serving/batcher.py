"""Calls that arrive one by one, answered many at a time: a bounded queue and the threads that empty it.

Nothing here knows models or HTTP. Calls with an equal ``key`` may share a batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any


class QueueFull(Exception):
    """There is no room for a call: it may be made again in a moment."""


class Stopped(Exception):
    """The batcher takes no calls any more."""


@dataclass(eq=False)
class _Call:
    key: Hashable
    work: Any
    rows: int
    length: int
    arrived: float = field(default_factory=time.monotonic)
    future: Future = field(default_factory=Future)


class Batcher:
    """Collects calls into batches.

    A batch begins with the call that has waited longest. It is run as soon as a thread is free and ``max_batch`` rows
    with its key are waiting, or ``max_delay`` seconds have passed since it came, or company is not to be expected: no
    other batch is running and the last one was a single call. Where more wait than fit, those whose ``length`` is
    nearest to its own come along.

    Args:
        run: called in a thread of the batcher with a key and the works of one batch; returns an answer for each, or an
            exception in its place.
        max_batch: rows a batch. A call of more rows is run alone.
        max_delay: seconds that a call waits for company, at most, while a thread is free.
        max_queue: rows that may wait.
        threads: batches run at a time.
        surroundings: a context that each thread enters once, for what belongs to a thread.
        observe: called with the rows of each batch and the seconds that it took.

    Example:
        >>> with Batcher(lambda key, works: [work + key for work in works]) as batcher:
        ...     batcher.submit(key=10, work=1).result()
        11
    """

    def __init__(
        self,
        run: Callable[[Any, list], Sequence],
        *,
        max_batch: int = 16,
        max_delay: float = 0.005,
        max_queue: int = 1024,
        threads: int = 1,
        surroundings: Callable[[], AbstractContextManager] = nullcontext,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ):
        if max_batch < 1 or max_queue < 1 or threads < 1 or max_delay < 0:
            raise ValueError("max_batch, max_queue and threads must be at least 1, max_delay at least 0")
        self._run, self._surroundings, self._observe = run, surroundings, observe
        self.max_batch, self.max_delay, self.max_queue = max_batch, max_delay, max_queue
        self._waiting: dict[Hashable, deque[_Call]] = {}
        self._rows = 0
        self._running = 0
        self._company = False  # whether the last batch held more than one call
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"batch-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def alive(self) -> bool:
        """Whether calls are taken and every thread runs."""
        return not self._stopping and all(thread.is_alive() for thread in self._threads)

    def submit(self, key: Hashable, work: Any, rows: int = 1, length: int = 0) -> Future:
        """Put a call into the queue.

        Args:
            key: calls with an equal one may share a batch.
            work: handed to ``run``.
            rows: what it counts for in ``max_batch`` and ``max_queue``.
            length: calls of like lengths are run together.

        Raises:
            QueueFull: fewer than ``rows`` places are free.
            Stopped: :meth:`close` has been called.
        """
        call = _Call(key, work, rows, length)
        with self._changed:
            if self._stopping:
                raise Stopped
            if self._rows + rows > self.max_queue:
                raise QueueFull
            self._waiting.setdefault(key, deque()).append(call)
            self._rows += rows
            self._changed.notify()
        return call.future

    def close(self) -> None:
        """Take no more calls, answer those that wait, and return when all is done."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _work(self) -> None:
        with self._surroundings():
            while batch := self._next():
                self._answer([call for call in batch if call.future.set_running_or_notify_cancel()])
                with self._changed:
                    self._running -= 1

    def _answer(self, batch: list[_Call]) -> None:
        if not batch:  # whoever called has gone
            return
        start = time.monotonic()
        try:
            answers = self._run(batch[0].key, [call.work for call in batch])
        except Exception as error:
            answers = [error] * len(batch)
        self._observe(sum(call.rows for call in batch), time.monotonic() - start)
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                call.future.set_exception(answer)
            else:
                call.future.set_result(answer)

    def _next(self) -> list[_Call]:
        """The calls of the next batch, waited for; none: it is time to stop."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._stopping:
                        return []
                    self._changed.wait()
                    continue
                group = min(self._waiting.values(), key=lambda calls: calls[0].arrived)
                patience = group[0].arrived + self.max_delay - time.monotonic()
                if not (self._company or self._running):
                    patience = 0.0
                if patience <= 0 or self._stopping or sum(call.rows for call in group) >= self.max_batch:
                    return self._take(group)
                self._changed.wait(patience)

    def _take(self, group: deque[_Call]) -> list[_Call]:
        first = group[0]
        batch, rows = [first], first.rows
        # The sort is stable: among calls of one length the one that came first goes first.
        for call in sorted(list(group)[1:], key=lambda call: abs(call.length - first.length)):
            if rows + call.rows <= self.max_batch:
                batch.append(call)
                rows += call.rows
        left = deque(call for call in group if call not in batch)
        if left:
            self._waiting[first.key] = left
            self._changed.notify()  # another thread may begin on them
        else:
            del self._waiting[first.key]
        self._rows -= rows
        self._running += 1
        self._company = len(batch) > 1
        return batch
