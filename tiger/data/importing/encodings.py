"""Text encodings: by byte order mark, else UTF-8 where the whole file is that, else Latin-1."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

import pyarrow as pa

from tiger.data.importing.files import TableFile

_CHUNK = 1 << 22
_MARKS = (  # the longer first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Bytes that Windows-1252, which most people mean by Latin-1, has no character for.
_NOT_WINDOWS = b"\x81\x8d\x8f\x90\x9d"
# A backslash that escapes a quotation mark, and is not the last character of a quoted field.
_ESCAPE = re.compile(rb'\\"(?!["\r\n,;\t|]|$)')


@dataclass(frozen=True)
class TextFacts:
    """Facts about a text file that its whole content decides.

    Args:
        encoding: name for ``codecs``.
        note: a word about an encoding that had to be guessed, else empty.
        odd_quotes: whether it holds an odd number of quotation marks.
        escapes: whether backslashes escape quotation marks in it.
    """

    encoding: str
    note: str
    odd_quotes: bool
    escapes: bool


def text_facts(file: TableFile) -> TextFacts:
    """Read a file to its end for its encoding and its quotation marks.

    Raises:
        DataError: its compressed data are damaged or cut short.
    """
    try:
        with file.open() as stream:
            return _facts(stream, file)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise file.error(error) from error


def _facts(stream: pa.NativeFile, file: TableFile) -> TextFacts:
    chunk = stream.read(_CHUNK)
    encoding, note = _by_mark(chunk)
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
    windows, quotes, escapes, lines, wrong = True, 0, False, 1, ""
    while True:
        if not wrong:
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                wrong = f"line {lines + error.object.count(bytes([10]), 0, error.start)}"
        windows = windows and chunk.translate(None, _NOT_WINDOWS) == chunk
        quotes += chunk.count(b'"')
        escapes = escapes or bool(_ESCAPE.search(chunk))
        lines += chunk.count(b"\n")
        if not chunk:
            break
        chunk = stream.read(_CHUNK)
    if wrong and encoding:
        raise file.error(f"{wrong} is not {encoding.upper().removesuffix('-SIG')}, which its first bytes promise")
    if wrong:
        encoding = "cp1252" if windows else "latin-1"
        note = f"not UTF-8 ({wrong}): read as Latin-1{' (Windows-1252)' if windows else ''}"
    return TextFacts(encoding or "utf-8", note, quotes % 2 == 1, escapes)


def _by_mark(start: bytes) -> tuple[str | None, str]:
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding, ""
    zeros = start[:1000].count(0)
    if zeros > len(start[:1000]) / 4:  # Western text as UTF-16: every other byte is zero
        encoding = "utf-16-le" if start[1:1000:2].count(0) > zeros / 2 else "utf-16-be"
        return encoding, f"read as {encoding.upper()}, though no byte order mark says so"
    return None, ""
