"""The folder that a run writes: one that can be written, and by one run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tiger.utils.errors import DataError
from tiger.utils.locks import locked


@contextmanager
def training_into(folder: Path) -> Iterator[None]:
    """Make a run's folder and hold its lock, ``.run.lock`` in it; of several processes of one run, the first holds it.

    A process that dies gives its lock back. A folder that was made and is still empty at the end goes again.

    Args:
        folder: of the run.

    Raises:
        DataError: it can't be made or written, or another process trains into it.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        there = next(part for part in (folder, *folder.parents) if part.exists())
        raise DataError(f"{there} is a file, not a folder: give another --out.") from error
    except OSError as error:
        raise DataError(f"{folder} can't be made ({error.strerror}): give another --out.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"{folder} can't be written: give another --out, or the right to write into it.")
    try:
        if os.environ.get("RANK", "0") != "0":  # one of several processes, as torchrun and accelerate number them
            yield
            return
        refusal = f"{{}} is training into {folder}: wait until it is done, or give another --out."
        with locked(folder / "run", wait=0, refusal=refusal):
            yield
    finally:
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
