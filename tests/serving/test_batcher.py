import threading
import time

import pytest

from tiger.serving.batcher import Batcher, QueueFull, Stopped


class Held:
    """A ``run`` that notes its batches and holds each until it is let go."""

    def __init__(self):
        self.batches, self.going = [], threading.Semaphore(0)

    def __call__(self, key, works):
        self.batches.append((key, works))
        assert self.going.acquire(timeout=10)
        return [(key, work) for work in works]

    def begun(self, count):
        """Wait until so many batches have begun."""
        end = time.monotonic() + 10
        while len(self.batches) < count:
            assert time.monotonic() < end
            time.sleep(0.001)


@pytest.fixture
def held():
    run = Held()
    yield run
    for _ in range(100):
        run.going.release()


def test_calls_with_equal_keys_share_a_batch(held):
    with Batcher(held, max_batch=3, max_delay=0.01) as batcher:
        first = batcher.submit("a", 0)
        held.begun(1)
        later = [batcher.submit(key, work) for work, key in enumerate("abaaa", start=1)]
        for _ in range(10):
            held.going.release()
        assert first.result(5) == ("a", 0)
        assert [future.result(5) for future in later] == [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5)]
    assert held.batches[0] == ("a", [0])  # alone, without waiting: no company was to be expected
    # The oldest first, as many as fit, and none with another key.
    assert held.batches[1:] == [("a", [1, 3, 4]), ("b", [2]), ("a", [5])]


def test_like_lengths_go_together_and_the_oldest_always_goes(held):
    with Batcher(held, max_batch=3) as batcher:
        batcher.submit("a", "busy")
        held.begun(1)
        for length in (9, 1, 8, 2, 10, 1):
            batcher.submit("a", length, length=length)
        for _ in range(3):
            held.going.release()
    assert held.batches[1:] == [("a", [9, 8, 10]), ("a", [1, 1, 2])]


def test_a_large_call_is_run_alone(held):
    with Batcher(held, max_batch=4) as batcher:
        batcher.submit("a", "busy")
        held.begun(1)
        batcher.submit("a", "large", rows=9)
        batcher.submit("a", "small", rows=4)
        for _ in range(3):
            held.going.release()
    assert held.batches[1:] == [("a", ["large"]), ("a", ["small"])]


def test_the_queue_is_bounded_and_empties(held):
    with Batcher(held, max_batch=2, max_queue=4) as batcher:
        batcher.submit("a", 0)
        held.begun(1)
        batcher.submit("a", 1, rows=3)
        with pytest.raises(QueueFull):
            batcher.submit("a", 2, rows=2)
        last = batcher.submit("b", 3)
        assert batcher.queued == 4
        for _ in range(3):
            held.going.release()
        assert last.result(5) == ("b", 3) and batcher.queued == 0
        batcher.submit("a", 4, rows=4)
        held.going.release()


def test_closing_answers_what_waits(held):
    batcher = Batcher(held, max_batch=1, max_delay=60)
    futures = [batcher.submit("a", work) for work in range(4)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.alive:
        time.sleep(0.001)
    with pytest.raises(Stopped):
        batcher.submit("a", 9)
    for _ in futures:
        held.going.release()
    closing.join(10)
    assert [future.result(0) for future in futures] == [("a", work) for work in range(4)]


def test_errors_of_a_batch_and_of_a_call():
    def run(key, works):
        if key == "broken":
            raise RuntimeError("everything")
        return [ValueError(work) if work == "wrong" else work for work in works]

    with Batcher(run, max_batch=2, max_delay=0) as batcher:
        futures = [batcher.submit("fine", "wrong"), batcher.submit("fine", "right"), batcher.submit("broken", 0)]
        assert futures[1].result(5) == "right"
        with pytest.raises(ValueError, match="wrong"):
            futures[0].result(5)
        with pytest.raises(RuntimeError, match="everything"):
            futures[2].result(5)
        assert batcher.submit("fine", 1).result(5) == 1  # the threads live on


def test_what_fails_in_a_batch_is_run_apart(held):
    batches = []

    def run(key, works):
        batches.append(works)
        if "wrong" in works:
            raise RuntimeError("one of them")
        return works[1:] if len(works) > 3 else works  # an answer too few is an error too

    def first(key, works):
        held(key, works)
        return run(key, works)

    with Batcher(first, max_batch=4) as batcher:
        busy = batcher.submit("a", "busy")
        held.begun(1)
        futures = [batcher.submit("a", work) for work in (1, "wrong", 2, 3)]
        for _ in range(10):
            held.going.release()
        assert busy.result(5) == "busy" and [futures[place].result(5) for place in (0, 2, 3)] == [1, 2, 3]
        with pytest.raises(RuntimeError, match="one of them"):
            futures[1].result(5)
        assert batches == [["busy"], [1, "wrong", 2, 3], [1], ["wrong"], [2], [3]]
        assert batcher.alive


def test_a_cancelled_call_leaves_the_queue(held):
    with Batcher(held, max_batch=2, max_queue=4) as batcher:
        running = batcher.submit("a", 0)
        held.begun(1)
        gone = [batcher.submit(key, 1, rows=2) for key in "ab"]
        with pytest.raises(QueueFull):
            batcher.submit("a", 2)
        assert all(future.cancel() for future in gone) and batcher.queued == 0
        assert not running.cancel()  # too late
        honest = batcher.submit("a", 3, rows=4)
        for _ in range(2):
            held.going.release()
        assert honest.result(5) == ("a", 3) and running.result(5) == ("a", 0)
    assert held.batches == [("a", [0]), ("a", [3])]


def test_threads_work_at_a_time_and_a_call_waits_for_company_no_longer_than_said(held):
    with Batcher(held, threads=2, max_batch=8, max_delay=0.05) as batcher:
        batcher.submit("a", 0)
        held.begun(1)
        start = time.monotonic()
        batcher.submit("a", 1)
        batcher.submit("a", 2)
        held.begun(2)
        assert 0.04 < time.monotonic() - start < 2
        assert held.batches == [("a", [0]), ("a", [1, 2])]  # while the first still runs
        for _ in range(2):
            held.going.release()


def test_who_has_gone_is_not_answered(held):
    with Batcher(held, max_batch=4) as batcher:
        batcher.submit("a", 0)
        held.begun(1)
        assert batcher.submit("a", 1).cancel()
        kept = batcher.submit("a", 2)
        for _ in range(2):
            held.going.release()
        assert kept.result(5) == ("a", 2)
    assert held.batches[1:] == [("a", [2])]
