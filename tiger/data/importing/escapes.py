"""CSV whose backslashes escape: an unquoted ``\\N``, by which MySQL means no value, stays what it is."""

from __future__ import annotations

import io
import re
from typing import Any

import pyarrow as pa

_CHUNK = 1 << 20
# Ends that may be half of something: an escape, a doubled quotation mark.
_HALF = re.compile(rb'(?:\\.?|")\Z', re.DOTALL)


class NullMarks(io.RawIOBase):
    """A stream of CSV in which the backslash of each unquoted ``\\N`` is doubled.

    A parser with escapes makes ``\\N`` of it, as one without makes of ``\\N`` itself; otherwise it would make ``N``.

    Args:
        stream: CSV in UTF-8.
        delimiter: the character between its fields.
    """

    def __init__(self, stream: pa.NativeFile, delimiter: str):
        self._stream, self._ready = stream, memoryview(b"")
        ends = rb"[%b\r\n]" % re.escape(delimiter.encode())
        null, quoted = rb"(?P<null>\\)(?=N(?:%b|\Z))" % ends, rb'"(?:[^"\\]++|\\.|"")*+(?:"|(?P<open>\\?\Z))'
        self._tokens = re.compile(rb"%b(?:%b|(?:\xef\xbb\xbf)?%b)|\\." % (ends, null, quoted), re.DOTALL)
        self._before, self._is_open = b"\n", False

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the next chunk goes; 0: the stream is at its end."""
        if not self._ready:
            self._ready = memoryview(self._next())
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _next(self) -> bytes:
        text = self._stream.read(_CHUNK)
        while _HALF.search(text, max(0, len(text) - 2)) and (more := self._stream.read(64)):
            text += more
        before = self._before
        self._is_open = False
        marked = self._tokens.sub(self._marked, before + text)[len(before) :]
        # What the next chunk begins in: quoted text, another field, or a new one.
        self._before = b'\n"' if self._is_open else text[-1:]
        return marked

    def _marked(self, token: re.Match[bytes]) -> bytes:
        self._is_open = token["open"] is not None
        return token[0] + (token["null"] or b"")
