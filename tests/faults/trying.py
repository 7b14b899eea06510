"""One try of a campaign: a process of its own, with limits, whose end is counted."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tiger.utils.errors import DataError

REFUSED, RIGHT, REPORTED = "refused in one line", "right", "reported"
LOST, WRONG, TRACEBACK, HANG, CRASH = "lost", "wrong silently", "traceback", "hang", "crash"
OUTCOMES = (REFUSED, RIGHT, REPORTED, LOST, WRONG, TRACEBACK, HANG, CRASH)


@dataclass(frozen=True)
class Plan:
    """A try, before it is made.

    Args:
        target: what it is about: a row of the table.
        what: what is done to it, for people.
        work: called with an empty folder in a process of its own; returns an outcome, and raises :class:`Fault` for
            a bad one. A ``DataError`` of one line is a refusal; any other error is a traceback.
    """

    target: str
    what: str
    work: Callable[[Path], str]


@dataclass(frozen=True)
class Limits:
    """Limits of one try: seconds by the clock, bytes of data."""

    seconds: float = 60.0
    memory: int = 4 << 30


class Fault(Exception):
    """An outcome that is none of the good ones."""

    def __init__(self, outcome: str, text: str):
        super().__init__(text)
        self.outcome = outcome


def source(seed: int, kind: str, number: int) -> random.Random:
    """The random numbers of one try: the same whichever tries were made before."""
    return random.Random(f"{seed} {kind} {number}")


def outcome_of(plan: Plan, folder: Path, limits: Limits) -> tuple[str, str]:
    """Make a try in a process of its own; what came of it, and what it said of that."""
    folder.mkdir()
    said = folder.with_name(folder.name + ".said")
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))
        redirect(folder.with_name(folder.name + ".output"))
        found = _tried(plan, folder)
        said.write_text(json.dumps(found))
        os._exit(0)
    code = wait(child, limits.seconds)
    if code is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return HANG, f"after {limits.seconds:g} s"
    end_group(child)
    if code or not said.exists():
        return CRASH, f"exit code {code}"
    outcome, text = json.loads(said.read_text())
    return outcome, text


def _tried(plan: Plan, folder: Path) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return plan.work(folder), ""
    except Fault as fault:
        return fault.outcome, str(fault)
    except DataError as error:
        return (REFUSED, str(error)) if "\n" not in str(error) else (TRACEBACK, f"of several lines: {error}")
    except BaseException as error:  # noqa: BLE001
        return TRACEBACK, told(error)


def told(error: BaseException) -> str:
    """An error and the last frames of its traceback, on one line."""
    frames = traceback.extract_tb(error.__traceback__)[:-6:-1]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} [{where}]"


def redirect(file: Path) -> None:
    """Send what this process prints, its C libraries too, to a file."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a child (negative: its signal); None: it still runs after so long."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return None


def end_group(leader: int) -> None:
    """Kill what a child has started and left."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def forked(work: Callable[[], object]) -> int:
    """Start ``work`` in a process of its own, which exits with 0, 2 (a ``DataError`` of one line) or 3."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except DataError as error:
        os._exit(2 if "\n" not in str(error) else 3)
    except SystemExit as error:  # of the command line
        os._exit(error.code if isinstance(error.code, int) else 3)
    except BaseException as error:  # noqa: BLE001
        print(told(error), flush=True)
        os._exit(3)
    os._exit(0)


def copied(source_folder: Path, folder: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(source_folder, folder, symlinks=True))
