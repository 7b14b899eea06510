"""Python commands in processes of their own, forked from one that has imported what most of them need.

To import torch and transformers takes an interpreter five seconds, which is more than most commands of the tests do
with them. Each process has its own arguments, directory, output and exit code, as one that was started anew has.
"""

from __future__ import annotations

import functools
import gc
import json
import multiprocessing
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
SECONDS = 600  # after which a process is ended
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # one that asks CUDA itself can't be forked any more
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}


class Started:
    """A Python process, which ends with the block that it is opened for; one at a time.

    Args:
        words: a script or ``-m`` and a module, and arguments.
        cwd: the directory that it works in.
    """

    def __init__(self, words: list[str], cwd: Path):
        self._output = tempfile.TemporaryDirectory()
        self._parent = _parent()
        self._code: int | None = None
        request = {"words": words, "cwd": str(cwd), "output": self._output.name}
        self._parent.stdin.write(json.dumps(request).encode() + b"\n")
        self._pid = int(self._parent.stdout.readline())

    def poll(self, seconds: float | None = 0) -> int | None:
        """The exit code, negative for a signal; None: it still runs after so long (None: wait)."""
        if self._code is None and select.select([self._parent.stdout], [], [], seconds)[0]:
            self._code = int(self._parent.stdout.readline())
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal to it, while it runs."""
        os.kill(self._pid, number)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            self.poll(None)
        self._output.cleanup()

    def printed(self) -> str:
        """What it has printed to its standard output so far."""
        file = Path(self._output.name, "stdout")
        return file.read_text() if file.exists() else ""

    def finished(self) -> subprocess.CompletedProcess:
        """Wait for its end: its exit code and what it printed."""
        code = self.poll(None)
        out, err = (Path(self._output.name, name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(self._pid, code, out, err)


def run_python(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a script, or ``-m`` and a module: its exit code and what it printed."""
    with Started([str(word) for word in words], cwd) as process:
        return process.finished()


def in_another_process(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function of picklable arguments in a process whose hashes of text are others than here."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    with patch.dict(os.environ, PYTHONHASHSEED=seed), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


@functools.cache
def _parent() -> subprocess.Popen:
    """The process that the others are forked from; it ends with this one."""
    command, environment = [sys.executable, "-m", "tests.processes"], os.environ | SETTINGS
    # Without buffers, or `select` would not see the line that came with the one before.
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )


def _next_request() -> dict | None:
    """Fork for each line of the standard input, and tell the process and its end: its request to the process, None
    to the parent."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _become(request: dict) -> None:
    """Run what a request names, as ``python`` would."""
    signal.alarm(SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for handle, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(request["output"], name), os.O_WRONLY | os.O_CREAT), handle)
    first, *rest = request["words"]
    if first == "-m":
        sys.path[0], sys.argv = os.getcwd(), rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = os.path.dirname(os.path.abspath(first)), [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    import datasets  # noqa: F401
    import evaluate  # noqa: F401
    import lightgbm  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    import tiger.training.click_ranker
    import tiger.training.pipeline
    import tiger.training.report  # noqa: F401

    gc.freeze()  # else each process, as it ends, visits and so copies all that was imported: two seconds
    if (found := _next_request()) is not None:
        _become(found)


def kill_at_checkpoint(command: list[str], run: Path, cwd: Path) -> None:
    """Start a training and kill it when its first checkpoint is whole.

    Args:
        run: the folder of its checkpoints.
    """
    with Started(command, cwd) as process:
        began = time.monotonic()
        while not list(run.glob("checkpoint-*/trainer_state.json")) or not (run / "run.json").exists():
            assert process.poll(0.02) is None and time.monotonic() - began < 300
        process.send_signal(signal.SIGKILL)
        assert process.finished().returncode == -signal.SIGKILL
