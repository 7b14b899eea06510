"""Parquet files as batches of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tiger.data.columns import plain_table
from tiger.data.importing.files import TableFile
from tiger.data.importing.rows import RowNumbers
from tiger.data.readers import parquet_batches

_BATCH_ROWS = 2**17


class ParquetTable:
    """A parquet file.

    Attributes:
        columns: names of its columns.
        notes: remarks on how it was read: none.
        rows: numbers of its rows.
    """

    unit = "row"

    def __init__(self, file: TableFile):
        self.file, self.notes, self.rows = file, list[str](), RowNumbers()
        try:
            self.columns = [name for name in dict.fromkeys(pq.read_schema(file.path).names) if name]
        except (pa.ArrowException, OSError) as error:
            raise file.error(error) from error

    def batches(self, wanted: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of its rows in the order of the file, some 100,000 rows at a time."""
        try:
            for batch in parquet_batches(self.file.path, list(wanted), _BATCH_ROWS):
                yield plain_table(batch.select(list(wanted)))
        except (pa.ArrowException, OSError) as error:
            raise self.file.error(error) from error
