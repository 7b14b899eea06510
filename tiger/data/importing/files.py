"""Files of a table: found in folders, their compression and format recognized by content."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tiger.utils.errors import DataError, first_line

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_REFUSED = {
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"\xfd7zXZ\x00": "compressed by xz: unpack it",
    b"Obj\x01": "Avro: save it as parquet",
    b"ORC": "ORC: save it as parquet",
    b"SQLite format 3": "an SQLite database: export its tables as CSV",
    b"\x80\x04": "a pickle, which is not read: save it as parquet",
    b"\x80\x05": "a pickle, which is not read: save it as parquet",
}
# Bytes that each of these holds near its start and no text does: ORC may be the first letters of a header.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Args:
        path: where it lies.
        format: ``csv``, ``json`` or ``parquet``.
        compression: ``gzip``, ``zstd``, ``bz2``, ``lz4`` or None.
        partitions: columns that the names of its folders give, such as ``{"day": "2024-01-01"}``.
    """

    path: Path
    format: str
    compression: str | None = None
    partitions: dict[str, str] = field(default_factory=dict)

    def open(self) -> pa.NativeFile:
        """Its bytes, decompressed."""
        raw = pa.OSFile(str(self.path))
        return raw if self.compression is None else pa.CompressedInputStream(raw, self.compression)

    def error(self, reason: Exception | str) -> DataError:
        """The error that this file can't be read."""
        return DataError(f"{self.path} can't be read ({first_line(reason)}): write it or download it again.")


def find_files(path: str | os.PathLike) -> list[TableFile]:
    """Files of a table: the file itself, or all shards of a folder by name, folders within it too.

    Names that begin with ``_`` or ``.`` (``_SUCCESS``, checksums) and empty shards are passed over.

    Raises:
        DataError: nothing is there, or it is of a kind that can't be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} is missing: give a file, or a folder of shards.")
    if not path.is_dir():
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes): write it again.")
        return [_recognized(path, path)]
    shards = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        shards += [Path(folder) / name for name in sorted(names) if not name.startswith(("_", "."))]
    shards = [shard for shard in shards if shard.stat().st_size]
    if not shards:
        unfinished = " The job that writes it has not finished." if (path / "_temporary").exists() else ""
        raise DataError(f"{path} holds no file with anything in it.{unfinished} Give a file, or a folder of shards.")
    return [_recognized(shard, path) for shard in shards]


def _recognized(path: Path, root: Path) -> TableFile:
    parts = path.relative_to(root).parts[:-1]
    partitions = dict(part.split("=", 1) for part in parts if "=" in part)
    with open(path, "rb") as file:
        start = file.read(32)
    for magic, remedy in _REFUSED.items():
        if start.startswith(magic) and _BINARY.search(start):
            raise DataError(f"{path} is {remedy}.")
    compression = next((name for magic, name in _COMPRESSIONS.items() if start.startswith(magic)), None)
    found = TableFile(path, "csv", compression, partitions)
    try:
        with found.open() as stream:
            start = bytes(stream.read(4096) or b"")
    except (pa.ArrowException, OSError) as error:
        raise found.error(error) from error
    return TableFile(path, _format(path, start), compression, partitions)


def _format(path: Path, start: bytes) -> str:
    if start.startswith(b"PAR1"):
        return "parquet"
    for suffix in reversed(path.suffixes):
        if suffix in (".parquet", ".pq"):
            raise DataError(f"{path} is not a whole parquet file: write it again.")
        if suffix.lower() in _SUFFIXES:
            return _SUFFIXES[suffix.lower()]
    # Without the byte order mark, and the zeros of UTF-16.
    start = start.lstrip(b"\xef\xbb\xbf\xff\xfe\x00").replace(b"\x00", b"").lstrip()
    return "json" if start[:1] in (b"{", b"[") else "csv"
