"""Disks that are full, or may not be written, from one step of an operation on: what was there stays whole."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from pathlib import Path
from random import Random

from tests.faults.killing import OPERATIONS, Operation, check, operation
from tests.faults.subjects import MODELS, Subjects
from tests.faults.trying import HANG, LOST, REFUSED, REPORTED, RIGHT, TRACEBACK, Fault, Plan, told, wait
from tiger.utils.errors import DataError

# Errors of a disk that reach the user with a traceback as yet: counted apart.
BARE = ("OSError", "PermissionError", "SafetensorError", "ArrowInvalid", "RuntimeError")
LARGEST = 60_000  # bytes of the largest file that an operation writes, or a little more
SHARES = [*OPERATIONS, "save", "save", "tokenizer", "batch"]


def plan(random: Random, subjects: Subjects) -> Plan:
    """One error at the n-th step that changes files, alone or for good, or a largest size of files."""
    name, model = random.choice(SHARES), random.choice(MODELS)
    count, _ = subjects.lengths[name]
    code = random.choice(["ENOSPC", "EROFS", "EACCES", "size"])
    at = random.randrange(LARGEST) if code == "size" else random.randrange(1, count + 1)
    lasting = random.random() < 0.7

    def work(folder: Path) -> str:
        one = operation(subjects, name, model)
        one.prepare(folder)
        outcome = _failed(one, folder, code, at, lasting)
        check(one, folder, finished=False)
        try:
            one.run(folder)  # the disk has room again
        except BaseException as error:  # noqa: BLE001
            raise Fault(LOST if isinstance(error, DataError) else TRACEBACK, f"the next run: {told(error)}") from error
        check(one, folder, finished=True)
        if outcome == REPORTED:
            raise Fault(REPORTED, (folder / "raised").read_text())
        return outcome

    return Plan(name, f"{model} {code} at {at}{' for good' if lasting else ''}", work)


def _failed(one: Operation, folder: Path, code: str, at: int, lasting: bool) -> str:
    """Run an operation on a failing disk, in a process of its own."""
    child = os.fork()
    if not child:
        # What it says is written where the disk doesn't fail.
        said = os.open(folder / "raised", os.O_WRONLY | os.O_CREAT)
        if code == "size":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (at, resource.RLIM_INFINITY))
        else:
            _inject(folder, getattr(errno, code), at, lasting)
        status, text = RIGHT, ""
        try:
            one.run(folder)
        except DataError as error:
            status = REFUSED if "\n" not in str(error) else TRACEBACK
            text = str(error)
        except SystemExit as error:
            status = REFUSED if error.code == 2 else TRACEBACK
        except BaseException as error:  # noqa: BLE001
            status = REPORTED if type(error).__name__ in BARE else TRACEBACK
            text = told(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(said, f"{status}\n{text}".encode())
        os._exit(0)
    ended = wait(child, 45)
    status, _, text = (folder / "raised").read_text().partition("\n")
    (folder / "raised").write_text(text)
    if ended != 0:
        raise Fault(HANG if ended is None else TRACEBACK, f"on a failing disk it exits with {ended}")
    if status == TRACEBACK:
        raise Fault(TRACEBACK, text)
    return status


def _inject(folder: Path, code: int, at: int, lasting: bool) -> None:
    """Let the n-th step that changes something under a folder fail, and if lasting all that come after it.

    A full disk still lets go of files; one that may not be written doesn't.
    """
    seen, within = [0], str(folder.resolve())
    changes = ["os.rename", "os.mkdir", "os.link", "os.chmod"] + ([] if code == errno.ENOSPC else _REMOVALS)

    def fail(event: str, arguments: tuple) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not opened and event not in changes:
            return
        path = arguments[0]
        if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith("/"):
            if not os.fsdecode(path).startswith(within):
                return
        elif event not in _REMOVALS:  # those of a folder that is removed are relative to it
            return
        seen[0] += 1
        if seen[0] == at or (lasting and seen[0] > at):
            raise OSError(code, os.strerror(code), os.fsdecode(path) if isinstance(path, (str, bytes)) else None)

    sync = os.fsync

    def failing_sync(handle: int) -> None:
        seen[0] += 1
        if seen[0] == at or (lasting and seen[0] > at):
            raise OSError(code, os.strerror(code))
        sync(handle)

    os.fsync = failing_sync  # no audit event tells of it
    sys.addaudithook(fail)


_REMOVALS = ["os.remove", "os.rmdir"]
