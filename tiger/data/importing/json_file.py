"""JSON lines, or one JSON array, as batches of columns of text."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from tiger.data.importing.encodings import text_facts
from tiger.data.importing.files import TableFile
from tiger.data.importing.names import is_image_name
from tiger.data.importing.rows import RowNumbers

_SAMPLE_LINES = 10_000
_BATCH_LINES = 2**15
_OBJECT, _OBJECTS = "{}", "[{}]"  # what stands for an object, and for a list of some
# Numbers stay as they are written: 007 is no JSON, but 1e5 and 12345678901234567890 are.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda _: None)


class JsonTable:
    """A file of JSON objects, one a line or all in an array.

    Every value becomes text: numbers as they are written, lists as JSON; of objects only that they are some.

    Attributes:
        columns: keys of the first 10,000 objects.
        notes: remarks on how it was read.
        rows: numbers of its lines (in an array, of its objects).
        objects: by column, the first row that was read in which it is an object or holds some, and their keys.
    """

    def __init__(self, file: TableFile, leave_out: Sequence[str] = ()):
        self.objects: dict[str, tuple[int, list[str]]] = {}
        self.file, self.rows, self._leave_out = file, RowNumbers(), frozenset([*leave_out, ""])
        facts = text_facts(file)
        self._encoding = facts.encoding
        self.notes = [facts.note] if facts.note else []
        with self._text() as text:
            start = text.read(4096).lstrip()
        self._is_array = start.startswith("[")
        self.unit = "object" if self._is_array else "line"
        found = dict.fromkeys(key for _, row in islice(self._objects(RowNumbers()), _SAMPLE_LINES) for key in row)
        self.columns = [key for key in found if key not in self._leave_out]

    def batches(self, wanted: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Columns of its rows in the order of the file; None: all that there are, also those the sample lacks."""
        self.rows = RowNumbers()
        objects = self._objects(self.rows)
        while batch := list(islice(objects, _BATCH_LINES)):
            keys = wanted
            if keys is None:
                found = dict.fromkeys(key for _, row in batch for key in row)
                keys = [key for key in found if key not in self._leave_out]
            yield pa.table({key: self._column(key, batch) for key in keys})

    def _column(self, key: str, rows: list[tuple[int, dict[str, Any]]]) -> pa.Array:
        texts = [_text(key, row.get(key)) for _, row in rows]
        if key not in self.objects and (_OBJECT in texts or _OBJECTS in texts):
            for number, row in rows:
                if (keys := _inner(row.get(key))) is not None:
                    self.objects[key] = number, [f"{key}.{inner}" for inner in keys]
                    break
        return pa.array(texts, pa.string())

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BufferedReader(self.file.open(), 1 << 20), encoding=self._encoding)

    def _objects(self, rows: RowNumbers) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            with self._text() as text:
                lines = self._array(text) if self._is_array else text
                for number, line in enumerate(lines, start=1):
                    if isinstance(line, str) and not line.strip(" \t\r\n\ufeff"):
                        rows.skip(number)
                        continue
                    row = _object(line)
                    if isinstance(row, str):
                        rows.skip(number, row)
                    else:
                        yield number, row
        except (pa.ArrowException, OSError, EOFError) as error:
            raise self.file.error(error) from error

    def _array(self, text: io.TextIOWrapper) -> list:
        try:
            return json.load(text, parse_int=str, parse_float=str, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise self.file.error(f"no JSON array: {error}") from error


def _object(line: Any) -> dict[str, Any] | str:
    """The object of a line, or why it is none."""
    if isinstance(line, str):
        try:
            line = _DECODER.decode(line.strip(" \t\r\n\ufeff"))
        except (ValueError, RecursionError) as error:
            return f"not JSON: {getattr(error, 'msg', 'nested too deep')}"
    return line if isinstance(line, dict) else "no JSON object"


def _inner(value: Any) -> list[str] | None:
    """Keys of an object, or of the first of a list; None: it is none."""
    parts = value if isinstance(value, list) else [value]
    return next((list(part) for part in parts if isinstance(part, dict)), None)


def _text(key: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        # Halves of a pair of surrogates, which UTF-8 can't hold: pairs are joined, lone halves replaced.
        if not value.isascii():
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    # What objects hold is read of images only; kept of all, they would take most of the memory.
    if isinstance(value, dict):
        return json.dumps(value) if is_image_name(key) else _OBJECT
    if any(isinstance(part, dict) for part in value):
        return json.dumps(value) if is_image_name(key) else _OBJECTS
    return json.dumps(value)
