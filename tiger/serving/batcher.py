"""Dynamic batching: a bounded queue of calls, and threads that run several calls at a time.

Knows nothing of models or HTTP. Calls with an equal ``key`` may share a batch.
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
    """The queue has no room for the call; it can be repeated later."""


class Stopped(Exception):
    """The batcher has been closed."""


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

    A batch starts with the call that has waited longest. When a thread is free, it runs as soon as ``max_batch`` rows
    with its key are waiting, or ``max_delay`` seconds have passed since that call, or no other request is likely: no
    other batch is running and the last one was a single call. If more calls wait than fit, those with the nearest
    ``length`` are taken.

    Args:
        run: called in a thread of the batcher with a key and the works of one batch; returns an answer for each, or an
            exception in its place. If it raises one, it is called again for each work alone, so that nobody gets an
            error for another's request.
        max_batch: rows per batch. A call with more rows is run alone.
        max_delay: maximum seconds that a call waits for others while a thread is free.
        max_queue: rows that may wait.
        threads: number of batches run at a time.
        surroundings: context manager that each thread enters once, for settings that belong to a thread.
        observe: called with the number of rows of each batch and the seconds that it took.

    Raises:
        ValueError: a number is out of range.

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
        self._shared = False  # whether the last batch had more than one call
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"batch-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Number of waiting rows."""
        return self._rows

    @property
    def alive(self) -> bool:
        """Whether calls are accepted and every thread runs."""
        return not self._stopping and all(thread.is_alive() for thread in self._threads)

    def submit(self, key: Hashable, work: Any, rows: int = 1, length: int = 0) -> Future:
        """Put a call into the queue.

        Args:
            key: calls with an equal one may share a batch.
            work: passed to ``run``.
            rows: its share of ``max_batch`` and ``max_queue``.
            length: calls of similar lengths are preferred in a batch.

        Returns:
            The future of the answer. If it is cancelled, the call leaves the queue.

        Raises:
            QueueFull: there is room for fewer than ``rows`` rows.
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
        call.future.add_done_callback(lambda future: self._withdraw(call) if future.cancelled() else None)
        return call.future

    def _withdraw(self, call: _Call) -> None:
        """Make room: who cancelled a call waits for it no more."""
        with self._changed:
            group = self._waiting.get(call.key)
            if group is None or call not in group:  # a batch has it already
                return
            group.remove(call)
            if not group:
                del self._waiting[call.key]
            self._rows -= call.rows
            self._changed.notify_all()

    def close(self) -> None:
        """Accept no more calls, answer the waiting ones and return."""
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
        if not batch:  # all its calls were cancelled
            return
        start = time.monotonic()
        answers = self._answers(batch)
        self._observe(sum(call.rows for call in batch), time.monotonic() - start)
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                call.future.set_exception(answer)
            else:
                call.future.set_result(answer)

    def _answers(self, batch: list[_Call]) -> list:
        try:
            answers = list(self._run(batch[0].key, [call.work for call in batch]))
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(batch)} calls got {len(answers)} answers")
            return answers
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [self._answers([call])[0] for call in batch]

    def _next(self) -> list[_Call]:
        """Wait for the next batch; empty: the thread has to stop."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._stopping:
                        return []
                    self._changed.wait()
                    continue
                group = min(self._waiting.values(), key=lambda calls: calls[0].arrived)
                delay = group[0].arrived + self.max_delay - time.monotonic()
                if not (self._shared or self._running):
                    delay = 0.0
                if delay <= 0 or self._stopping or sum(call.rows for call in group) >= self.max_batch:
                    return self._take(group)
                self._changed.wait(delay)

    def _take(self, group: deque[_Call]) -> list[_Call]:
        first = group[0]
        batch, rows = [first], first.rows
        # The sort is stable: of calls with equal lengths, the first to arrive is taken first.
        for call in sorted(list(group)[1:], key=lambda call: abs(call.length - first.length)):
            if rows + call.rows <= self.max_batch:
                batch.append(call)
                rows += call.rows
        left = deque(call for call in group if call not in batch)
        if left:
            self._waiting[first.key] = left
            self._changed.notify()  # another thread may start on them
        else:
            del self._waiting[first.key]
        self._rows -= rows
        self._running += 1
        self._shared = len(batch) > 1
        return batch
