"""CSV of any delimiter as batches of columns of text."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.csv

from tiger.data.importing.encodings import text_facts
from tiger.data.importing.escapes import NullMarks
from tiger.data.importing.files import TableFile
from tiger.data.importing.names import is_known_name
from tiger.data.importing.rows import RowNumbers
from tiger.data.readers import long_fields
from tiger.utils.errors import DataError

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_SAMPLE_CHARACTERS = 1 << 18
_SAMPLE_ROWS = 200
_BLOCK = 1 << 24  # bytes; a row must fit in
# Lines above the header: blank ones, and a hint that Excel writes.
_PREAMBLE = re.compile(r"\A([\r\n]*(?:sep=([^\r\n])[\r\n]+)?)")


class CsvTable:
    """A text file of delimited columns with a header.

    Attributes:
        columns: names of its columns; a name that occurs again has a number after it.
        notes: remarks on how it was read.
        rows: numbers of its rows, from 1 below the header.

    Raises:
        DataError: there is no header, or a quotation mark that never closes.
    """

    unit = "row"

    def __init__(self, file: TableFile):
        self.file, self.rows = file, RowNumbers()
        self._facts = text_facts(file)
        self.notes = [self._facts.note] if self._facts.note else []
        _, preamble, hint, sample = _PREAMBLE.split(self._sample(), maxsplit=1)
        self._preamble = len(re.findall(r"\r\n?|\n", preamble))
        rows = {delimiter: self._parsed(sample, delimiter) for delimiter in _DELIMITERS}
        self._delimiter = hint if hint in rows else max(rows, key=lambda one: _fit(rows[one]))
        if self._delimiter != ",":
            self.notes.append(f"columns are separated by {_DELIMITERS[self._delimiter]}")
        self._names = self._header(rows[self._delimiter])
        self.columns = [name for name in self._names if name]
        if self._facts.odd_quotes:
            self._refuse_open_quote()

    def batches(self, wanted: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of its rows as text, in the order of the file."""
        self.rows = RowNumbers()
        names = [f"{place}" for place in range(len(self._names))]
        included = [names[self._names.index(name)] for name in wanted]
        options = {
            "read_options": pyarrow.csv.ReadOptions(
                use_threads=False,  # or bad rows had no numbers
                block_size=_BLOCK,
                column_names=names,
                skip_rows=self._preamble,
                skip_rows_after_names=1,
            ),
            "parse_options": pyarrow.csv.ParseOptions(
                delimiter=self._delimiter,
                escape_char="\\" if self._facts.escapes else False,
                newlines_in_values=True,
                invalid_row_handler=self._skip,
            ),
            "convert_options": pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=included, strings_can_be_null=False
            ),
        }
        try:
            with self.file.open() as raw, pyarrow.csv.open_csv(self._utf8(raw), **options) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch]).rename_columns(list(wanted))
        except (pa.ArrowException, OSError, EOFError) as error:
            if "straddling" in str(error):
                raise DataError(
                    f"{self.file.path}: a row is longer than {_BLOCK >> 20} MB. Look for a quotation mark that opens "
                    "a field and never closes."
                ) from error
            raise self.file.error(error) from error

    def _skip(self, row: pyarrow.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} columns, the header has {row.expected_columns}"
        self.rows.skip(row.number - self._preamble - 1, reason)
        return "skip"

    def _utf8(self, raw: pa.NativeFile) -> pa.NativeFile:
        encoding = self._facts.encoding
        stream = raw if encoding.startswith("utf-8") else pa.transcoding_input_stream(raw, encoding, "utf-8")
        if self._facts.escapes:
            stream = pa.PythonFile(io.BufferedReader(NullMarks(stream, self._delimiter)), mode="r")
        return stream

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BufferedReader(self.file.open()), encoding=self._facts.encoding, newline="")

    def _sample(self) -> str:
        with self._text() as text:
            sample = text.read(_SAMPLE_CHARACTERS)
        return sample.removeprefix("\ufeff")

    def _parsed(self, sample: str, delimiter: str) -> list[list[str]]:
        escape = "\\" if self._facts.escapes else None
        try:
            with long_fields():
                rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, escapechar=escape)
                found = list(islice(filter(None, rows), _SAMPLE_ROWS))
        except csv.Error:
            return [[]]
        if len(found) < _SAMPLE_ROWS and len(sample) > _SAMPLE_CHARACTERS - 100:
            found = found[:1] + found[1:-1]  # the last row of a longer file is cut off
        return found or [[]]

    def _header(self, rows: list[list[str]]) -> list[str]:
        names = [_clean_name(name) for name in rows[0]]
        if not any(names):
            raise DataError(f"{self.file.path}: its first line is blank. Name the columns there.")
        if any(_is_value(name) for name in names) and not any(map(is_known_name, names)):
            raise DataError(
                f"{self.file.path} has no header: its first line reads {', '.join(names)[:80]!r}. Name the columns in "
                "a line above it, such as user_id,item_id,timestamp."
            )
        wide = [row for row in rows[1:] if len(row) == len(names) + 1]
        if wide and len(wide) == len(rows) - 1:
            ends_blank = not any(row[-1].strip() for row in wide)
            names = [*names, ""] if ends_blank else ["", *names]  # a delimiter at the end, or R's names of rows
        counts: Counter[str] = Counter()
        for place, name in enumerate(names):
            counts[name] += 1
            if name and counts[name] > 1:
                names[place] = f"{name}_{counts[name]}"
                self.notes.append(f"the column {name!r} occurs again: it is called {names[place]!r}")
        return names

    def _refuse_open_quote(self) -> None:
        """Raise an error where the last field opens a quotation mark and the file ends before it closes."""
        with long_fields(), self._text() as text:
            rows = csv.reader(text, delimiter=self._delimiter, escapechar="\\" if self._facts.escapes else None)
            before = start = 0
            last: list[str] = []
            for last in rows:
                start, before = before, rows.line_num
            if rows.line_num > start + 1 and last and last[-1].endswith(("\n", "\r")):
                raise DataError(
                    f"{self.file.path}, line {start + 1}: a quotation mark opens a field and never closes: all lines "
                    "below are part of it. Close it, or double it where it is a part of the text."
                )


def _fit(rows: list[list[str]]) -> tuple[float, int]:
    """Fit of a delimiter: the share of rows as wide as the header (or by one wider), and the width."""
    width = len(rows[0])
    if width < 2:
        return 0.0, width
    return sum(len(row) in (width, width + 1) for row in rows) / len(rows), width


def _clean_name(name: str) -> str:
    name = " ".join(name.replace("\ufeff", "").split())
    return "" if re.fullmatch(r"Unnamed: \d+", name) else name


def _is_value(name: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d[\d.,]*|\d{4}-\d\d-\d\d.*|https?://\S+", name))
