"""JSON from untrusted or damaged files: regular files only, with a size limit."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from tiger.utils.errors import DataError

MAX_BYTES = 1 << 28


def read_json(path: str | os.PathLike, kind: type = dict, max_bytes: int = MAX_BYTES) -> Any:
    """The content of a JSON file.

    Args:
        kind: what it must hold: ``dict`` or ``list``.
        max_bytes: a larger file is refused unread.

    Raises:
        DataError: it is missing, no regular file, too large, no JSON, nested too deeply, or holds something else.
    """
    text = read_bytes(path, max_bytes)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number of 5,000 digits, a million brackets
        raise DataError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}).") from error
    if not isinstance(content, kind):
        raise DataError(f"{path} is damaged: it holds a {type(content).__name__}, not a {kind.__name__}.")
    return content


def read_bytes(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        DataError: it is missing, no regular file (a pipe would keep us waiting), too large, or may not be read.
    """
    check_regular(path, max_bytes)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}).") from error


def check_regular(path: str | os.PathLike, max_bytes: int | None = None) -> None:
    """
    Raises:
        DataError: there is no such file, it is a pipe, a device or a directory, or has more bytes.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}).") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise DataError(
            f"{path} has {status.st_size:,} bytes, more than {max_bytes:,}: it is damaged or no such file."
        )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def parse_json(text: str, source: str) -> Any:
    """A value of JSON.

    Args:
        source: what error messages call the text.

    Raises:
        DataError: it is no JSON, nested too deeply, names a key of an object twice, or holds a number of thousands of
            digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_unlike_names)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON ({error.msg}).") from error
    except RecursionError as error:
        raise DataError(f"{source} is JSON that is nested too deeply.") from error
    except ValueError as error:  # a number of 5,000 digits
        raise DataError(f"{source} is JSON that can't be read ({str(error).split(';')[0]}).") from error


def _unlike_names(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a key twice")
    return found
