"""The item table and the rows of unseen items, read from files that may be damaged or come from a stranger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiger.data.columns import is_bytes, is_text, makes_text, plain_table, plain_type
from tiger.utils.errors import DataError
from tiger.utils.json_files import check_regular
from tiger.utils.tensor_files import read_arrays

# A few bytes of Parquet can say "a hundred million times the same": what they unfold to is known beforehand.
MAX_COLUMNS = 1000
MAX_UNFOLDING = 200  # times its size on the disk; texts of a shop compress by 3 to 10
SMALL = 64 << 20  # bytes, and more than any item's row needs
MAX_VALUES_A_ROW = 1000  # on average, in lists
_READ = ("title", "price", "brand", "categories")


def read_items(file: Path, num_items: int, template: str | None = None) -> pa.Table:
    """An item table of so many rows.

    Args:
        template: the columns that items' texts are made of, see :func:`tiger.embeddings.item_texts`.

    Raises:
        DataError: damaged, of another number of rows, with a column twice or of a type that makes no text, or
            unfolding to much more than its size.
    """
    check_regular(file)
    try:
        with pq.ParquetFile(file) as opened:
            _check_sizes(file, opened.metadata, num_items)
            _check_columns(file, opened.schema_arrow, template)
            items = opened.read()
        items.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise DataError(f"{file} is damaged ({' '.join(str(error).split())[:200]}). Save it again.") from error
    if items["item_id"].null_count:
        raise DataError(f"{file} is damaged: an item without id.")
    items = plain_table(items, file)
    for name in {*_READ, *_named(template)} & set(items.column_names):
        if is_bytes(items.schema.field(name).type):
            raise DataError(f"{file}: no text can be made of column {name!r}, whose bytes are not UTF-8.")
    return items


def _named(template: str | None) -> list[str]:
    return [] if template is None else [name.strip() for name in template.split(",")]


def _check_sizes(file: Path, metadata: pq.FileMetaData, num_items: int) -> None:
    if metadata.num_rows != num_items:
        raise DataError(f"{file} has {metadata.num_rows:,} rows, the tokenizer {num_items:,} items. Save it again.")
    if metadata.num_columns > MAX_COLUMNS or metadata.num_row_groups > num_items + 1:
        raise DataError(f"{file} has {metadata.num_columns} columns, {metadata.num_row_groups} groups of rows.")
    chunks = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    unfolded = sum(chunk.total_uncompressed_size for chunk in chunks)
    values = sum(chunk.num_values for chunk in chunks)
    if unfolded > SMALL + MAX_UNFOLDING * file.stat().st_size:
        raise DataError(f"{file} unfolds to {unfolded:,} bytes, far more than its size: it is no item table.")
    if values > (num_items + 1000) * MAX_VALUES_A_ROW * max(metadata.num_columns, 1):
        raise DataError(f"{file} holds {values:,} values for {num_items:,} items: it is no item table.")


def _check_columns(file: Path, schema: pa.Schema, template: str | None) -> None:
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"{file} has the column {twice[0]!r} twice.")
    if "item_id" not in schema.names or not is_text(schema.field("item_id").type):
        raise DataError(f"{file} has no item_id of text.")
    named = _named(template)
    if missing := [name for name in named if name not in schema.names]:
        raise DataError(f"{file} lacks the column {missing[0][:60]!r}, which texts are made of.")
    for name in {*_READ, *named} & set(schema.names):
        kind = schema.field(name).type
        if not (makes_text(kind) or is_bytes(plain_type(kind))):  # bytes may be text: reading them says so
            raise DataError(f"{file}: no text can be made of column {name!r}, which is {kind}.")


def read_unseen(file: Path, count: int) -> np.ndarray:
    """bool [count]; where nothing has been added since training, there is no such file.

    Raises:
        DataError: damaged, or it names a row that there is not.
    """
    unseen = np.zeros(count, dtype=bool)
    if file.exists():
        rows = read_arrays(file, {"rows": ("I64", (None,))})["rows"]
        if len(rows) and (rows.min() < 0 or rows.max() >= count):
            raise DataError(f"{file.name} names row {rows[(rows < 0) | (rows >= count)][0]} of {count} items.")
        unseen[rows] = True
    return unseen
