"""Parquet files of a disk or of object storage, opened to be read in parts; their errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from tiger.utils.errors import DataError, first_line
from tiger.utils.stores import store_of


@contextmanager
def opened_parquet(place: str) -> Iterator[pq.ParquetFile]:
    """A parquet file, while the block runs.

    Args:
        place: its path or URL.

    Raises:
        DataError: it is missing, no parquet file, or damaged where the block reads it.
    """
    store, name = store_of(place)
    with store.open(name) as file:
        try:
            opened = pq.ParquetFile(file, pre_buffer=False)
        except DataError:
            raise
        except Exception as error:  # of Arrow, or of the storage's own package
            raise DataError(f"{place} is not a whole parquet file ({first_line(error)}): write it again.") from error
        try:
            yield opened
        except DataError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{place} is damaged ({first_line(error)}): write it again.") from error


def row_group_sizes(opened: pq.ParquetFile) -> list[int]:
    """Number of rows of each row group."""
    known = opened.metadata
    return [known.row_group(number).num_rows for number in range(known.num_row_groups)]
