"""Locks: one writer at a time for a folder, from reading it to replacing it."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from tiger.utils.errors import DataError

WAIT_SECONDS = 60.0
NOTICE_SECONDS = 1.0

T = TypeVar("T")

_mine = threading.local()


@contextmanager
def locked(path: str | os.PathLike, wait: float = WAIT_SECONDS, refusal: str = "") -> Iterator[None]:
    """Hold the lock of a folder or file that is to be written, ``.NAME.lock`` beside it; may be nested.

    A process that dies gives its lock back.

    Args:
        path: what is written; it need not exist.
        wait: seconds to wait for another process, which is named on stderr meanwhile.
        refusal: what the error says, ``{}`` being the other process; empty: that it writes the path.

    Raises:
        DataError: another one still holds it.
    """
    path = Path(path).resolve()
    held: dict[Path, int] = _mine.__dict__.setdefault("held", {})
    if held.get(path):
        held[path] += 1
        try:
            yield
        finally:
            held[path] -= 1
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file, holder = path.with_name(f".{path.name}.lock"), path.with_name(f".{path.name}.lock.holder")
    lock = FileLock(file, thread_local=False)
    refusal = refusal or f"{path} is being written by {{}}: wait until it is done, then try again."
    try:
        _acquire(lock, path, holder, wait)
    except Timeout as error:
        raise DataError(refusal.replace("{}", _who(holder))) from error
    try:
        held[path] = 1
        with suppress(OSError):  # it only says who holds the lock
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "what": _command()}))
        yield
    finally:
        held[path] = 0
        # While it is held: who opened the file before that finds it gone, and starts anew (filelock compares inodes).
        for name in (holder, file):
            with suppress(OSError):  # a disk that became read-only; the lock is given back all the same
                name.unlink(missing_ok=True)
        lock.release()


def read_unmixed(folder: Path, read: Callable[[], T], stamp: Callable[[Path], tuple]) -> T:
    """Read a folder that others may replace meanwhile: again after each save, so that saves are never mixed.

    Args:
        folder: what is read.
        read: reads it.
        stamp: returns another value after every save.

    Raises:
        DataError: as ``read`` does, or it is replaced again and again.
    """
    for last in (False, False, True):
        # Where saves come faster than they can be read, they have to wait for the third try.
        with _saves_waiting(folder) if last else nullcontext():
            before = stamp(folder)
            try:
                found = read()
            except DataError:
                if last or stamp(folder) == before:
                    raise
                continue
            if stamp(folder) == before:
                return found
    raise DataError(f"{folder} is replaced again and again while it is read: wait for that, then try again.")


@contextmanager
def _saves_waiting(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        # Where nobody may write, or somebody writes for a minute, there is no lock to be had.
        with suppress(OSError, DataError):
            stack.enter_context(locked(folder))
        yield


def _acquire(lock: FileLock, path: Path, holder: Path, wait: float) -> None:
    began = time.monotonic()
    try:
        lock.acquire(timeout=min(wait, NOTICE_SECONDS))
        return
    except Timeout:
        if wait > NOTICE_SECONDS:
            print(f"waiting for {_who(holder)}, which writes {path}", file=sys.stderr, flush=True)
    lock.acquire(timeout=max(0.0, wait - (time.monotonic() - began)))


def _who(holder: Path) -> str:
    try:
        owner = json.loads(holder.read_text())
        return f"process {owner['pid']} on {owner['host']} ({owner['what']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python", *sys.argv[1:3]])[:100]
