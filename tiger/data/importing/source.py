"""One table from wherever it lies: files, folders of shards, or memory."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from tiger.data.importing.csv_file import CsvTable
from tiger.data.importing.files import find_files
from tiger.data.importing.json_file import JsonTable
from tiger.data.importing.parquet_file import ParquetTable
from tiger.data.importing.problems import Problems
from tiger.data.importing.rows import RowNumbers
from tiger.data.readers import item_table
from tiger.utils.errors import DataError, first_line


class Part(Protocol):
    """One file of a table, or a table in memory."""

    @property
    def unit(self) -> str: ...
    @property
    def columns(self) -> list[str]: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def rows(self) -> RowNumbers: ...
    def batches(self, wanted: Sequence[str]) -> Iterator[pa.Table]: ...


class MemoryTable:
    """An Arrow table."""

    unit = "row"

    def __init__(self, table: pa.Table):
        self._table, self.columns, self.notes, self.rows = table, table.column_names, list[str](), RowNumbers()

    def batches(self, wanted: Sequence[str]) -> Iterator[pa.Table]:
        """The table as it is."""
        yield self._table.select(list(wanted))


class Source:
    """A table of one or more parts.

    Args:
        given: a file, a folder of shards, a list of files, an Arrow table, a pandas table or a list of dicts.
        name: for messages, where it lies in memory.
        leave_out: columns not to read.

    Attributes:
        name: for messages.
        columns: names of its columns, in the order in which they are met.

    Raises:
        DataError: a file is missing, damaged or of a kind that can't be read.
    """

    def __init__(self, given: Any, name: str = "", leave_out: Sequence[str] = ()):
        self.name = name
        self._parts: list[tuple[str, Part, dict[str, str]]] = []
        if isinstance(given, (str, os.PathLike)):
            self.name, given = str(given), [given]
        if isinstance(given, Sequence) and given and all(isinstance(one, (str, os.PathLike)) for one in given):
            self.name = self.name or ", ".join(map(str, given))
            self._open(given, leave_out)
        else:
            table = pa.Table.from_pandas(given, preserve_index=False) if hasattr(given, "to_numpy") else given
            self._parts.append((self.name, MemoryTable(item_table(table)), {}))
        self._starts: list[int] = []
        found = dict.fromkeys(name for _, part, folders in self._parts for name in (*part.columns, *folders))
        self.columns = [name for name in found if name not in leave_out]
        # A table of JSON doesn't tell those that it leaves out.
        whole = not any(isinstance(part, JsonTable) for _, part, _ in self._parts)
        self.lacks = {name for name in leave_out if whole and name not in found}

    def _open(self, paths: Sequence[str | os.PathLike], leave_out: Sequence[str]) -> None:
        for path in paths:
            for file in find_files(path):
                if file.format == "json":
                    part: Part = JsonTable(file, leave_out)
                else:
                    part = ParquetTable(file) if file.format == "parquet" else CsvTable(file)
                self._parts.append((str(file.path), part, file.partitions))

    @property
    def notes(self) -> list[str]:
        """Remarks on how its files were read, each once with the first file that it is true of."""
        found: dict[str, list[str]] = {}
        for name, part, _ in self._parts:
            for note in part.notes:
                found.setdefault(note, []).append(name)
        more = {note: f" and {len(names) - 1} files more" if len(names) > 1 else "" for note, names in found.items()}
        return [f"{names[0]}{more[note]}: {note}" for note, names in found.items()]

    def batches(self, wanted: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of all rows; where a file lacks one, it is null there."""
        self._starts = []
        start = 0
        for _, part, folders in self._parts:
            self._starts.append(start)
            own = [name for name in wanted if name in part.columns and name not in folders]
            # Some column is read in any case, for the number of rows.
            for batch in part.batches(own or part.columns[:1]):
                start += batch.num_rows
                columns = {
                    name: batch[name] if name in own else pa.array([folders.get(name)] * batch.num_rows, pa.string())
                    for name in wanted
                }
                yield pa.table(columns)

    def read(self) -> pa.Table:
        """All columns of all rows; of JSON also keys that its first objects lack."""
        tables = []
        self._starts = []
        start = 0
        for _, part, folders in self._parts:
            self._starts.append(start)
            own = [name for name in part.columns if name in self.columns and name not in folders]
            for batch in part.batches() if isinstance(part, JsonTable) else part.batches(own):
                start += batch.num_rows
                for name, value in folders.items():
                    if name in self.columns:
                        batch = batch.append_column(name, pa.array([value] * batch.num_rows, pa.string()))
                tables.append(batch)
        try:
            table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
        except pa.ArrowException as error:
            raise DataError(
                f"{self.name}: a column has another type in another file ({first_line(error)}): write all files alike."
            ) from error
        missing = [name for name in self.columns if name not in table.column_names]
        for name in missing:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
        return table

    def sample(self, rows: int = 20_000) -> pa.Table:
        """The first rows of its first part that has any."""
        for _, part, folders in self._parts:
            for batch in part.batches(part.columns):
                if batch.num_rows:
                    found = batch.slice(0, rows)
                    for name in self.columns:
                        if name not in found.column_names:
                            values = pa.array([folders.get(name)] * found.num_rows, pa.string())
                            found = found.append_column(name, values)
                    return found.select(self.columns)
        return pa.table({name: pa.array([], pa.string()) for name in self.columns})

    def place(self, row: int) -> str:
        """The file and number of a row, ``clicks.csv, row 7``, by its place among all that were read."""
        part = bisect_right(self._starts, row) - 1
        name, source, _ = self._parts[part]
        return f"{name}, {source.unit} {source.rows.row(row - self._starts[part])}"

    def report_objects(self, columns: Iterable[str], problems: Problems) -> None:
        """Add columns of ids that hold objects of JSON in some row that was read."""
        for column in columns:
            parts = ((name, part) for name, part, _ in self._parts if isinstance(part, JsonTable))
            for name, part in parts:
                if column in part.objects:
                    row, keys = part.objects[column]
                    inner = f" with {', '.join(keys[:5])}" if keys else ""
                    problems.fatal.append(
                        f"{name}, {part.unit} {row}: {column!r} is an object{inner}, not an id. Write the id as a key "
                        f"of its own beside {column!r}, or keep {column!r} from being read with --leave-out {column}."
                    )
                    break

    def report_bad_rows(self, problems: Problems) -> None:
        """Add rows that could not be read."""
        bad = [(name, part) for name, part, _ in self._parts if part.rows.num_bad]
        examples = [f"{name}, {part.unit} {row} ({why})" for name, part in bad for row, why in part.rows.bad]
        problems.add("rows that can't be read", sum(part.rows.num_bad for _, part in bad), examples)
