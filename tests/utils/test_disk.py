"""A disk that takes no more: one line with the path, the bytes that are wanted and those that are free."""

import errno
import os
import resource
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from tests.conftest import make_model, make_recommender
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.model import SemanticIdRanker, ranker_config
from tiger.rankers.click.ranker import ClickRanker
from tiger.recommender.recommender import TigerRecommender
from tiger.serving.offline import recommend_users
from tiger.utils import disk
from tiger.utils.disk import DiskError, as_disk_error, disk_errors, free_bytes
from tiger.utils.errors import DataError
from tiger.utils.files import replaced_folder, write_atomically, written_together, written_whole


@contextmanager
def largest_file(size):
    """The system refuses to write more bytes into one file (EFBIG), as a full disk does (ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def free(monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1234)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError(errno.EROFS, "Read-only file system"), errno.EROFS),
        (PermissionError(errno.EACCES, "Permission denied"), errno.EACCES),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (pa.ArrowException("[Errno 28] Error writing bytes to file"), errno.ENOSPC),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), errno.ENOSPC),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (FileExistsError("holds other files"), None),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
        (SafetensorError("Error while deserializing header"), None),
        (RuntimeError("shapes differ"), None),
        (DataError("a column is missing"), None),
    ],
)
def test_errors_of_a_disk_are_told_from_others(error, number, free):
    found = as_disk_error(error, "out/file", 5000)
    assert (None if found is None else found.errno) == number
    try:
        with disk_errors("out/file", 5000):
            raise error
    except DiskError as raised:
        assert number is not None and isinstance(raised, DataError) and isinstance(raised, OSError)
        full = ", 5,000 bytes are wanted, 1,234 bytes are free. Free some space, or write elsewhere."
        rest = full if number == errno.ENOSPC else ". Write to a place where you may."
        assert str(raised) == f"out/file is not written: {os.strerror(number)}{rest}"
    except type(error) as raised:
        assert number is None and raised is error


def test_the_outer_block_names_the_place_and_the_inner_one_the_bytes(free):
    with pytest.raises(
        DiskError, match="^model is not written: .*, 7 bytes are wanted, 1,234 bytes are free"
    ) as caught:
        with disk_errors("model"), disk_errors("model/.scratch/weights", 7):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(caught.value.__cause__, OSError) and not isinstance(caught.value.__cause__, DiskError)


def test_another_place_that_is_denied_is_named():
    error = PermissionError(errno.EACCES, "Permission denied", "/etc/secret")
    assert str(as_disk_error(error, "runs/out")).startswith(
        "runs/out is not written: Permission denied, for /etc/secret."
    )
    assert str(as_disk_error(error)).startswith("/etc/secret is not written: Permission denied. Write")


def test_free_bytes_of_places_that_are_not_there_yet(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_writers_of_files(tmp_path, free):
    with largest_file(10):
        with pytest.raises(
            DiskError, match="file is not written: File too large, 100 bytes are wanted, 1,234 .*ulimit"
        ):
            write_atomically(tmp_path / "file", b"x" * 100)
        with pytest.raises(DiskError, match="table is not written: File too large, 1,234 bytes are free"):
            with written_whole(tmp_path / "table") as temporary:
                pq.write_table(pa.table({"a": [1] * 100}), temporary)
        with pytest.raises(DiskError, match="pair is not written"):
            with written_together(tmp_path / "pair", ["a"]) as scratch:
                (scratch / "a").write_bytes(b"x" * 100)
        with pytest.raises(DiskError, match="state is not written: No space left"):
            with disk_errors(tmp_path / "state"):
                torch.save({"a": torch.zeros(1000)}, tmp_path / "state")
    assert not (tmp_path / "file").exists() and not (tmp_path / "table").exists()


def test_a_folder_is_named_by_its_own_name(tmp_path, free, monkeypatch):
    with pytest.raises(DiskError, match=r"/model is not written: File too large, 1,234"):
        with replaced_folder(tmp_path / "model", "marker") as fresh, largest_file(10):
            (fresh / "marker").write_bytes(b"x" * 100)
    assert not (tmp_path / "model").exists()

    def denied(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".model.new.xyz"))

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(DiskError, match=r"/model is not written: Read-only file system\. Write to a place"):
        with replaced_folder(tmp_path / "model", "marker"):
            pass


def test_everything_that_is_saved(fitted, tmp_path, free):  # noqa: F811
    tokenizer, encoder, items = fitted
    model = make_model(tokenizer)
    features = ItemFeatures.fit("unigram", 50, tokenizer.codes, tokenizer.codebook_size)
    ranker = ClickRanker(SemanticIdRanker(ranker_config(features, d_model=8)), features, tokenizer)
    tiger = TigerRecommender(model, tokenizer, encoder, items, max_history=5)
    weights = sum(weight.nbytes for weight in model.parameters())
    with largest_file(100):
        for part, wanted in (
            (tiger, None),
            (tokenizer, None),
            (encoder, r"[\d,]+"),
            (model, f"{weights:,}"),
            (ranker, None),
        ):
            with pytest.raises(DiskError, match=rf"{tmp_path}/out\S* is not written: File too large") as caught:
                part.save_pretrained(tmp_path / "out")
            assert "\n" not in str(caught.value) and ".new." not in str(caught.value)
            if wanted is not None:
                assert caught.match(rf", {wanted} bytes are wanted, 1,234 bytes are free\.")
    with largest_file(3000), pytest.raises(DiskError, match=f"/model is not written: .* {weights:,} bytes are wanted"):
        tiger.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    tiger.save_pretrained(tmp_path / "model")
    assert isinstance(TigerRecommender.from_pretrained(tmp_path / "model").encoder, LSAEncoder)


def test_recommendations_to_a_file_go_on_when_there_is_room(tmp_path, free):
    tiger = make_recommender(30, max_history=5)
    log = {"user_id": [f"u{n}" for n in range(200)], "item_id": ["item-1"] * 200, "timestamp": [1] * 200}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    for size in (100, 6000):  # while the log is partitioned, and while answers are written
        with largest_file(size), pytest.raises(DiskError, match=r"/out.parquet is not written: File too large"):
            recommend_users(tiger, tmp_path / "log.parquet", tmp_path / "out.parquet", k=10)
        assert not (tmp_path / "out.parquet").exists()
    assert recommend_users(tiger, tmp_path / "log.parquet", tmp_path / "out.parquet", k=10)["users"] == 200
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 2000
    with pytest.raises(DataError, match="part_events must be at least 1"):
        recommend_users(tiger, tmp_path / "log.parquet", tmp_path / "other.parquet", part_events=0)
    with pytest.raises(DataError, match="k must be at least 1"):
        recommend_users(tiger, tmp_path / "log.parquet", tmp_path / "other.parquet", k=-1)
