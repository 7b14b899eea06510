"""The item table and the rows of unseen items, read from files that may be damaged or come from a stranger."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tiger.data.columns import is_bytes, is_list, is_text, makes_text, plain_table, plain_type
from tiger.utils.errors import DataError
from tiger.utils.json_files import check_regular
from tiger.utils.tensor_files import read_arrays

# A few bytes of Parquet can say "a hundred million times the same": what they unfold to is known beforehand.
MAX_COLUMNS = 1000
MAX_UNFOLDING = 200  # times its size on the disk; texts of a shop compress by 3 to 10
SMALL = 64 << 20  # bytes, and more than any item's row needs
MAX_VALUES_A_ROW = 1000  # on average, in lists
_BYTES = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
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
            _check_texts(file, opened.metadata)
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
    if unfolded > _limit(file):
        raise DataError(f"{file} unfolds to {unfolded:,} bytes, far more than its size: it is no item table.")
    if values > (num_items + 1000) * MAX_VALUES_A_ROW * max(metadata.num_columns, 1):
        raise DataError(f"{file} holds {values:,} values for {num_items:,} items: it is no item table.")


def _limit(file: Path) -> int:
    return SMALL + MAX_UNFOLDING * file.stat().st_size


def _check_texts(file: Path, metadata: pq.FileMetaData) -> None:
    """Count the bytes of text before it is repeated: of a text that many rows have, the file's sizes count one."""
    leaves = [metadata.schema.column(leaf) for leaf in range(metadata.num_columns)]
    texts = [number for number, leaf in enumerate(leaves) if leaf.physical_type in _BYTES]
    unfolded = most = 0
    for group, leaf in product(range(metadata.num_row_groups), texts):
        chunk = metadata.row_group(group).column(leaf)
        if "DELTA_BYTE_ARRAY" in chunk.encodings:  # a text as that before it, and more: no save writes it
            raise DataError(f"{file}: {leaves[leaf].path!r} is encoded as DELTA_BYTE_ARRAY. Save it again.")
        unfolded += chunk.num_values * leaves[leaf].length if leaves[leaf].length else 0
        most += chunk.num_values * chunk.total_uncompressed_size
    paths = [leaves[leaf].path for leaf in texts if not leaves[leaf].length]
    if unfolded + most > _limit(file):
        with pq.ParquetFile(file, read_dictionary=paths) as opened:
            for group in range(metadata.num_row_groups):
                for column in opened.read_row_group(group, columns=paths).columns:
                    unfolded += sum(map(_bytes_of_text, column.chunks))
    if unfolded > _limit(file):
        raise DataError(f"{file} unfolds to {unfolded:,} bytes of text, far more than its size: it is no item table.")


def _bytes_of_text(array: pa.Array) -> int:
    """The bytes of an array's texts, each as often as it occurs."""
    if pa.types.is_dictionary(array.type):
        return pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    if pa.types.is_map(array.type):
        return _bytes_of_text(array.keys) + _bytes_of_text(array.items)
    if pa.types.is_struct(array.type):
        return sum(map(_bytes_of_text, array.flatten()))
    if is_list(array.type):
        return _bytes_of_text(array.flatten())
    return array.nbytes


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
