"""Errors of a disk that takes no more, in one line: what is not written, how much is wanted and how much is free."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tiger.utils.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
_REMEDIES = dict.fromkeys(FULL, "Free some space, or write elsewhere.")
_REMEDIES[errno.EFBIG] = "Raise the limit of a file's size (ulimit -f), or write elsewhere."
# Libraries in Rust and C++ say the number in their text: "No space left on device (os error 28)", "[Errno 28] ...".
_NUMBER = re.compile(r"\b(?:os error|errno) (\d+)\b", re.IGNORECASE)
_TORCH = re.compile(r"PytorchStreamWriter failed|inline_container.*unexpected pos", re.DOTALL)  # without a number


class DiskError(DataError, OSError):
    """A file that could not be written, for its disk is full, read-only or denied.

    Args:
        path: what was being written; None: not known.
        number: the system's, as ``errno`` has it.
        details: what else there is to say of it, such as bytes.
    """

    def __init__(self, path: str | os.PathLike | None, number: int, details: Sequence[str] = ()):
        remedy = _REMEDIES.get(number, "Write to a place where you may.")
        reason = ", ".join([os.strerror(number), *details])
        super().__init__(f"{path or 'the output'} is not written: {reason}. {remedy}")
        self.path, self.details = path, tuple(details)
        self.errno = number


@contextmanager
def disk_errors(path: str | os.PathLike, wanted: int | None = None) -> Iterator[None]:
    """Turn the errors of a disk, which each library raises in its own way, into one line.

    Blocks may lie within each other: the outermost says what is not written, the innermost how much was wanted.

    Args:
        path: what the block writes.
        wanted: its bytes, where they are known.

    Raises:
        DiskError: the disk is full, read-only or denied. All other errors pass as they are.
    """
    try:
        yield
    except DiskError as error:
        assert error.errno is not None  # it has one from the start
        raise DiskError(path, error.errno, error.details) from error.__cause__
    except Exception as error:
        translated = as_disk_error(error, path, wanted)
        if translated is None:
            raise
        raise translated from error


def as_disk_error(
    error: Exception, path: str | os.PathLike | None = None, wanted: int | None = None
) -> DiskError | None:
    """The error as a :class:`DiskError`; None where it is another one.

    Args:
        path: what was being written; None: what the error names.
        wanted: its bytes, where they are known.
    """
    number = _number(error)
    if number is None:
        return None
    named = getattr(error, "filename", None)
    named = named if isinstance(named, str) else None
    path, details = path or named, []
    if number in FULL:
        details += [] if wanted is None else [f"{wanted:,} bytes are wanted"]
        details += [] if path is None else [f"{free_bytes(path):,} bytes are free"]
    elif path is not None and named is not None and not named.startswith(str(Path(path).parent)):
        details.append(f"for {named}")
    return DiskError(path, number, details)


def free_bytes(path: str | os.PathLike) -> int:
    """Bytes that are free on the disk of a path, which need not exist; 0 where that can't be known."""
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return 0


def _number(error: Exception) -> int | None:
    """The system's number of an error of the disk; None: it is none."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(str(error))):
        number = int(found.group(1))
    if number is None and isinstance(error, RuntimeError) and _TORCH.search(str(error)):
        number = errno.ENOSPC
    return number if number in (*FULL, *DENIED) else None
