"""Parquet files of a disk and of a URL are opened, and their errors name them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiger.data.parquet import opened_parquet, row_group_sizes
from tiger.utils.errors import DataError


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_is_read_in_parts(tmp_path, scheme):
    pq.write_table(pa.table({"a": list(range(5))}), tmp_path / "a.parquet", row_group_size=2)
    with opened_parquet(f"{scheme}{tmp_path}/a.parquet") as opened:
        assert row_group_sizes(opened) == [2, 2, 1]
        assert opened.read_row_group(1)["a"].to_pylist() == [2, 3]


def test_bad_files_are_named(tmp_path):
    def refused(name, message):
        with pytest.raises(DataError, match=f"{name}.parquet {message}"), opened_parquet(f"{tmp_path}/{name}.parquet"):
            pass

    refused("nothing", "can't be read: No such file")
    (tmp_path / "empty.parquet").write_bytes(b"")
    refused("empty", r"is not a whole parquet file \(.*0 bytes.*\): write it again")
    (tmp_path / "text.parquet").write_text("some text")
    refused("text", "is not a whole parquet file")
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "cut.parquet", compression="snappy")
    content = bytearray((tmp_path / "cut.parquet").read_bytes())
    content[4:500] = bytes(496)
    (tmp_path / "cut.parquet").write_bytes(content)
    with pytest.raises(DataError, match="cut.parquet is damaged .*: write it again"):
        with opened_parquet(f"{tmp_path}/cut.parquet") as opened:
            opened.read_row_group(0)
    with pytest.raises(DataError, match="^of the block$"), opened_parquet(f"{tmp_path}/cut.parquet"):
        raise DataError("of the block")
