"""Raw dumps to a dataset directory: values, refusals, downloads from a server on this machine, bounded memory."""

import gzip
import hashlib
import http.server
import json
import math
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import amazon
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from amazon import core_filter, first_occurrences, prepare
from amazon_records import clean_text, parse_metadata, parse_review
from download import download

from tiger.data.dataset import RecommendationData
from tiger.utils.errors import DataError

FILES = ["README.md", "interactions.parquet", "items.parquet"]
DAY = 86_400


def review(user: str, item: str, day: int, rating: float = 5.0, **more) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": day * DAY, **more})


def write_gz(path: Path, lines: list[str]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    return path


METADATA = [
    # as in the published files: Python literals, quotes of either kind, entities, no price
    repr(
        {
            "asin": "B2",
            "categories": [["Beauty", "Hair &amp; Scalp"], ["Beauty", "Hair Care", "Conditioners"]],
            "description": 'It\'s  "soft" &amp;amp; <b>light</b>',
            "title": "Crème &quot;Nº 5&quot; for Him &amp;amp; Her\n  2-Pack",
            "price": 9.49,
            "imUrl": "http://example.org/b2.jpg",
            "related": {"also_bought": ["B1"]},
        }
    ),
    repr({"asin": "NOBODY", "title": "never reviewed", "categories": [["Toys"]]}),
    repr({"asin": "B1", "title": 'Men\'s "Ultra" Gel', "brand": "L&#39;Or&eacute;al", "categories": [["Beauty"]]}),
    json.dumps({"asin": "B3", "title": "  ", "brand": None, "price": "$1,204.50"}),
]
REVIEWS = [
    review("u2", "B1", 11, 4.0),
    review("u1", "B1", 12),
    review("u2", "B3", 10, 2.0),
    review("u1", "B2", 10, 3.0),
    review("u1", "B4", 10, 1.0),
    review("u1", "B4", 10, 5.0),  # the same user, item and day: dropped
    review("u2", "B1", 15, 5.0),  # another day: stays
]


@pytest.fixture
def dumps(tmp_path) -> tuple[Path, Path]:
    raw = tmp_path / "raw"
    raw.mkdir()
    return (
        write_gz(raw / "reviews_Beauty_5.json.gz", REVIEWS),
        write_gz(raw / "meta_Beauty.json.gz", METADATA),
    )


def test_tables_of_a_small_dump(dumps, tmp_path):
    summary = prepare(*dumps, tmp_path / "out", core=0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    assert pq.read_table(tmp_path / "out" / "items.parquet").to_pylist() == [
        {"item_id": "B1", "title": 'Men\'s "Ultra" Gel', "brand": "L'Oréal", "categories": "Beauty", "price": None},
        {
            "item_id": "B2",
            "title": 'Crème "Nº 5" for Him & Her 2-Pack',
            "brand": None,
            "categories": "Beauty > Hair Care > Conditioners",
            "price": 9.49,
        },
        {"item_id": "B3", "title": None, "brand": None, "categories": None, "price": 1204.5},
        {"item_id": "B4", "title": None, "brand": None, "categories": None, "price": None},
    ]
    events = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert [tuple(row.values()) for row in events.to_pylist()] == [
        ("u2", "B3", 10 * DAY, 2.0),
        ("u2", "B1", 11 * DAY, 4.0),
        ("u2", "B1", 15 * DAY, 5.0),
        ("u1", "B2", 10 * DAY, 3.0),
        ("u1", "B4", 10 * DAY, 1.0),
        ("u1", "B1", 12 * DAY, 5.0),
    ]
    assert events.schema.field("timestamp").type == pa.int64()
    assert summary == amazon.Summary(
        users=2,
        items=4,
        events=6,
        duplicates=1,
        below_core=0,
        without_metadata=1,
        without_title=2,
        bad_lines=0,
    )
    assert "without title               2" in str(summary)


def test_library_reads_what_was_written(dumps, tmp_path):
    prepare(*dumps, tmp_path / "out", core=0)
    data = RecommendationData.load(tmp_path / "out")
    assert data.item_ids == ["B1", "B2", "B3", "B4"]
    assert [items.tolist() for items in data.sequences] == [[2, 0, 0], [1, 3, 0]]
    assert data.extras["rating"].tolist() == [2.0, 4.0, 5.0, 3.0, 1.0, 5.0]


def test_same_input_gives_the_same_bytes(dumps, tmp_path):
    prepare(*dumps, tmp_path / "a", core=0)
    prepare(*dumps, tmp_path / "b", core=0)
    for name in FILES[1:]:  # the card names the folder
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_description_only_where_asked_for(dumps, tmp_path):
    prepare(*dumps, tmp_path / "out", core=0, description=True)
    table = pq.read_table(tmp_path / "out" / "items.parquet")
    assert table["description"].to_pylist() == [None, 'It\'s "soft" & <b>light</b>', None, None]


def test_core_filter_is_repeated_until_all_have_enough(tmp_path):
    # u1 and u2 with A and B are a 2-core. u3 falls with item C (one buyer), and then D, which u3 held up, and u4.
    pairs = [("u1", "A"), ("u1", "B"), ("u2", "A"), ("u2", "B"), ("u3", "C"), ("u3", "D"), ("u4", "D"), ("u4", "E")]
    users = np.unique([u for u, _ in pairs], return_inverse=True)[1]
    items = np.unique([i for _, i in pairs], return_inverse=True)[1]
    assert core_filter(users, items, 2).tolist() == [True] * 4 + [False] * 4
    assert core_filter(users, items, 0).all()
    assert not core_filter(users, items, 3).any()

    reviews = write_gz(tmp_path / "r.json.gz", [review(u, i, day) for day, (u, i) in enumerate(pairs)])
    metadata = write_gz(tmp_path / "m.json.gz", METADATA)
    summary = prepare(reviews, metadata, tmp_path / "out", core=2)
    assert (summary.users, summary.items, summary.events, summary.below_core) == (2, 2, 4, 4)
    assert pq.read_table(tmp_path / "out" / "items.parquet")["item_id"].to_pylist() == ["A", "B"]
    with pytest.raises(DataError, match="no event is left of 8 with --core 3"):
        prepare(reviews, metadata, tmp_path / "none", core=3)
    assert not (tmp_path / "none").exists()


def test_first_of_equal_rows_stays():
    users, items = np.array([1, 0, 1, 1, 1]), np.array([5, 5, 5, 5, 6])
    days = np.array([3, 3, 3, 4, 3])
    assert first_occurrences(users, items, days).tolist() == [True, True, False, True, True]
    assert first_occurrences(users[:0], items[:0], days[:0]).tolist() == []


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a &amp; b", "a & b"),
        ("a &amp;amp;amp; b", "a & b"),
        ("&lt;i&gt; &#x27;x&#x27;", "<i> 'x'"),
        (" two\t\n lines&nbsp;here ", "two lines here"),
        ("caf\u00e9 \ud83d\ude00", "café 😀"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("&nbsp;", None),
        ("", None),
        (None, None),
        (["one ", None, "&amp;", "two"], "one & two"),
        (7, "7"),
    ],
)
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    ("categories", "path"),
    [
        ([["A", "B"], ["A", "B", "C"], ["X", "Y", "Z"]], "A > B > C"),
        ([["A &amp; B", " ", "C"]], "A & B > C"),
        (["A", "B"], "A > B"),
        ("A", "A"),
        ([[]], None),
        ([], None),
        (None, None),
    ],
)
def test_category_paths(categories, path):
    assert parse_metadata(repr({"asin": "x", "categories": categories}).encode())["categories"] == path


@pytest.mark.parametrize(
    ("price", "dollars"),
    [(3, 3.0), ("$12.50", 12.5), ("1,000", 1000.0), ("", None), ("$5 - $9", None), (-1, None), (True, None)],
)
def test_prices(price, dollars):
    assert parse_metadata(repr({"asin": "x", "price": price}).encode())["price"] == dollars


def test_literals_are_read_but_nothing_runs(tmp_path):
    marker = tmp_path / "ran"
    for line in (
        f"{{'asin': 'x', 'title': __import__('pathlib').Path({str(marker)!r}).touch()}}",
        "{'asin': 'x', 'title': ",
        "('asin', 'x')",
        "{'title': 'no code'}",
        "{'asin': 7}",
        "[" * 5_000,
        "{'asin': 'x', 'price': 1 / 0}",
    ):
        with pytest.raises(ValueError):
            parse_metadata(line.encode())
    assert not marker.exists()


def test_review_fields():
    assert parse_review(review("u", "i", 2, 4).encode()) == ("u", "i", 2 * DAY, 4.0)
    assert math.isnan(parse_review(b'{"reviewerID": "u", "asin": "i", "unixReviewTime": 1}')[3])
    for line in (
        b'{"reviewerID": "u", "asin": "i", "unixReviewTime": "1"}',
        b'{"reviewerID": "u", "asin": "i", "unixReviewTime": true}',
        b'{"reviewerID": "u", "asin": "i", "unixReviewTime": 9223372036854775808}',
        b'{"reviewerID": "u", "asin": "i", "unixReviewTime": 1, "overall": "5"}',
        b'{"reviewerID": "", "asin": "i", "unixReviewTime": 1}',
        b'{"asin": "i", "unixReviewTime": 1}',
        b'{"reviewerID": "\\ud800", "asin": "i", "unixReviewTime": 1}',
        b"[1]",
        b"\xff",
    ):
        with pytest.raises(ValueError):
            parse_review(line)


def test_bad_lines_are_named_or_skipped_and_counted(dumps, tmp_path, capsys):
    reviews, metadata = dumps
    write_gz(reviews, REVIEWS[:2] + ['{"reviewerID": "u1", "asin"'] + REVIEWS[2:])
    with pytest.raises(DataError, match=r"reviews_Beauty_5\.json\.gz, line 3: .*--skip-bad-lines"):
        prepare(reviews, metadata, tmp_path / "out", core=0)
    write_gz(metadata, METADATA + ["<html>"])
    summary = prepare(reviews, metadata, tmp_path / "out", core=0, skip_bad_lines=True)
    assert (summary.bad_lines, summary.events, summary.items) == (2, 6, 4)
    assert "line 3" in capsys.readouterr().err
    write_gz(reviews, REVIEWS)
    with pytest.raises(DataError, match=r"meta_Beauty\.json\.gz, line 5: neither JSON nor a Python literal"):
        prepare(reviews, metadata, tmp_path / "out", core=0)


def test_empty_lines_and_repeated_metadata_do_no_harm(dumps, tmp_path):
    reviews, metadata = dumps
    write_gz(metadata, ["", METADATA[2], " ", repr({"asin": "B1", "title": "a second record"})])
    prepare(reviews, metadata, tmp_path / "out", core=0)
    assert pq.read_table(tmp_path / "out" / "items.parquet")["title"][0].as_py() == 'Men\'s "Ultra" Gel'


@pytest.mark.parametrize("which", [0, 1])
def test_truncated_dump_is_refused_and_nothing_is_left(dumps, tmp_path, which):
    out = tmp_path / "out"
    prepare(*dumps, out, core=0)
    before = [(out / name).read_bytes() for name in FILES]
    whole = dumps[which].read_bytes()
    for size in (len(whole) // 2, len(whole) - 4):
        dumps[which].write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"{dumps[which].name} is cut short.*download it again"):
            prepare(*dumps, out, core=0)
        assert sorted(p.name for p in out.iterdir()) == FILES
        assert [(out / name).read_bytes() for name in FILES] == before


def test_damaged_empty_or_missing_dump_is_refused(dumps, tmp_path):
    reviews, metadata = dumps
    whole = reviews.read_bytes()
    reviews.write_bytes(whole[:-8] + bytes(8))  # wrong checksum and length
    with pytest.raises(DataError, match="reviews_Beauty_5.json.gz is damaged or not gzip"):
        prepare(*dumps, tmp_path / "out")
    reviews.write_text("<html>not found</html>")
    with pytest.raises(DataError, match="damaged or not gzip"):
        prepare(*dumps, tmp_path / "out")
    reviews.write_bytes(b"")
    with pytest.raises(DataError, match="no reviews in it"):
        prepare(*dumps, tmp_path / "out")
    reviews.unlink()
    with pytest.raises(DataError, match="reviews_Beauty_5.json.gz is missing.*--raw"):
        prepare(*dumps, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    reviews.write_bytes(whole)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file: name a directory"):
        prepare(*dumps, tmp_path / "file")


def test_interrupt_leaves_the_old_files(dumps, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(*dumps, out, core=0)
    before = [(out / name).read_bytes() for name in FILES]

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(amazon, "_record_at", interrupt)  # both tables begun
    with pytest.raises(KeyboardInterrupt):
        prepare(*dumps, out, core=0)
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert [(out / name).read_bytes() for name in FILES] == before
    assert amazon.main(["beauty", "--raw", str(dumps[0].parent), "--out", str(out), "--core", "0"]) == 130


def test_tables_longer_than_a_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(amazon, "EVENT_BATCH", 7)
    monkeypatch.setattr(amazon, "ITEM_BATCH", 4)
    pairs = [(f"u{u}", f"i{i}") for u in range(6) for i in range(10)]
    reviews = write_gz(tmp_path / "r.json.gz", [review(u, i, day) for day, (u, i) in enumerate(pairs)])
    metadata = write_gz(
        tmp_path / "m.json.gz", [repr({"asin": f"i{i}", "title": f"title {i}"}) for i in range(9, 0, -1)]
    )
    summary = prepare(reviews, metadata, tmp_path / "out")
    assert (summary.users, summary.items, summary.events, summary.without_metadata) == (6, 10, 60, 1)
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    assert items["title"].to_pylist() == [None] + [f"title {i}" for i in range(1, 10)]
    events = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert list(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist())) == pairs


def test_memory_does_not_follow_the_length_of_the_files(tmp_path):
    pairs = [(f"u{u}", f"i{i}") for u in range(20) for i in range(20)]

    def peak(name: str, text_length: int, num_others: int) -> tuple[int, int]:
        """Peak of Python and numpy memory, and bytes of the two files unpacked."""
        text = "long " * (text_length // 5)
        lines = [review(u, i, d, reviewText=text) for d, (u, i) in enumerate(pairs)]
        records = [repr({"asin": f"i{i}", "description": text}) for i in range(20)]
        records += [repr({"asin": f"other{n}", "description": text}) for n in range(num_others)]
        # Some put their code last, so that the whole line has to be parsed.
        records += [repr({"description": text, "asin": f"late{n}"}) for n in range(num_others // 10)]
        reviews = write_gz(tmp_path / f"{name}.r.json.gz", lines)
        metadata = write_gz(tmp_path / f"{name}.m.json.gz", records)
        tracemalloc.start()
        try:
            summary = prepare(reviews, metadata, tmp_path / name, description=True)
            top = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (summary.events, summary.items) == (400, 20)
        return top, sum(map(len, lines)) + sum(map(len, records))

    prepare(  # a first run, so that imports and caches don't count
        write_gz(tmp_path / "r.json.gz", REVIEWS), write_gz(tmp_path / "m.json.gz", METADATA), tmp_path / "o", core=0
    )
    small, small_bytes = peak("small", 1_000, 100)
    large, large_bytes = peak("large", 4_000, 3_000)
    assert large_bytes > 20 * small_bytes
    assert large < small + 1_000_000
    assert large < large_bytes / 5


class FileServer:
    """Serves one byte string on a free port of this machine; remembers the Range of each request.

    Args:
        ranges: answer Range requests with 206, or send everything with 200.
        cut: close the connection after this many bytes of the answer.
    """

    def __init__(self, content: bytes, ranges: bool = True, cut: int | None = None, status: int | None = None):
        self.content, self.ranges, self.cut, self.status = content, ranges, cut, status
        self.requests: list[str | None] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.requests.append(wanted)
                if outer.status:
                    self.send_error(outer.status)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and outer.ranges else 0
                size = len(outer.content)
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if wanted and outer.ranges else 200)
                if wanted and outer.ranges:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                self.wfile.write(outer.content[start:][: outer.cut])

            def log_message(self, *args):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "FileServer":
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/dump.json.gz"


@pytest.fixture
def content(monkeypatch) -> bytes:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return gzip.compress(np.random.default_rng(0).bytes(100_000), mtime=0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_download_and_its_record(content, tmp_path):
    path = tmp_path / "raw" / "dump.json.gz"
    with FileServer(content) as server:
        assert download(server.url, path, sha256(content).upper()) == path
        assert download(server.url, path) == path  # there already: compared with the record, not fetched
        assert server.requests == [None]
    assert path.read_bytes() == content
    assert sorted(p.name for p in path.parent.iterdir()) == ["dump.json.gz", "dump.json.gz.sha256"]
    assert (tmp_path / "raw" / "dump.json.gz.sha256").read_text() == f"{sha256(content)}  dump.json.gz\n"


def test_half_a_file_is_resumed(content, tmp_path):
    path = tmp_path / "dump.json.gz"
    part = tmp_path / "dump.json.gz.part"
    with FileServer(content, cut=40_000) as server:
        with pytest.raises(DataError, match=rf"ended after 40,000 of {len(content):,} bytes. Run again"):
            download(server.url, path)
        assert not path.exists()
        assert part.read_bytes() == content[:40_000]
        server.cut = None
        download(server.url, path)
        assert server.requests == [None, "bytes=40000-"]
    assert path.read_bytes() == content
    assert not part.exists()


def test_server_without_ranges_sends_all_again(content, tmp_path):
    (tmp_path / "dump.json.gz.part").write_bytes(b"x" * 5_000)
    with FileServer(content, ranges=False) as server:
        download(server.url, tmp_path / "dump.json.gz")
        assert server.requests == ["bytes=5000-"]
    assert (tmp_path / "dump.json.gz").read_bytes() == content


def test_part_that_is_whole_or_too_long(content, tmp_path):
    path, part = tmp_path / "dump.json.gz", tmp_path / "dump.json.gz.part"
    with FileServer(content) as server:
        part.write_bytes(content)
        download(server.url, path)
        assert path.read_bytes() == content
        path.unlink()
        part.write_bytes(content + b"more")
        download(server.url, path)
        assert path.read_bytes() == content
        assert server.requests == [f"bytes={len(content)}-", f"bytes={len(content) + 4}-", None]


def test_resumed_from_another_file_is_refused(content, tmp_path):
    part = tmp_path / "dump.json.gz.part"
    part.write_bytes(content[:50_000][::-1])
    with FileServer(content) as server:
        with pytest.raises(DataError, match="damaged or not gzip"):
            download(server.url, tmp_path / "dump.json.gz")
        assert not part.exists()
        download(server.url, tmp_path / "dump.json.gz")  # from the beginning, this time
        assert server.requests == ["bytes=50000-", None]


def test_checksum_mismatch(content, tmp_path):
    path = tmp_path / "dump.json.gz"
    with FileServer(content) as server:
        with pytest.raises(DataError, match=f"SHA-256 is {sha256(content)}, expected {'0' * 64}"):
            download(server.url, path, "0" * 64)
        assert list(tmp_path.iterdir()) == []
        download(server.url, path)
        path.write_bytes(gzip.compress(b"another file"))
        with pytest.raises(DataError, match=r"dump\.json\.gz: SHA-256 is .*dump\.json\.gz\.sha256 says"):
            download(server.url, path)
        path.write_bytes(content)
        with pytest.raises(DataError, match="--sha256 says 1111"):
            download(server.url, path, "1" * 64)
        (tmp_path / "dump.json.gz.sha256").write_text("what?\n")
        with pytest.raises(DataError, match="doesn't start with a SHA-256"):
            download(server.url, path)


def test_file_put_there_by_hand_is_checked_and_recorded(content, tmp_path):
    path = tmp_path / "dump.json.gz"
    path.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"dump.json.gz is cut short.*dump\.json\.gz\.part to resume"):
        download("http://127.0.0.1:1/", path)
    path.write_bytes(content)
    download("http://127.0.0.1:1/", path)
    assert (tmp_path / "dump.json.gz.sha256").read_text().startswith(sha256(content))


def test_refusing_and_unreachable_servers(content, tmp_path):
    path = tmp_path / "dump.json.gz"
    with FileServer(content, status=404) as server:
        with pytest.raises(DataError, match=r"the server says 404 .*--base-url.*--raw"):
            download(server.url, path)
    with pytest.raises(DataError, match="dump.json.gz: .*refused.*--raw"):
        download(server.url, path)  # closed by now
    with pytest.raises(DataError, match="unknown url type.*--base-url"):
        download("nowhere", path)
    assert not path.exists()


def test_command_line_with_files_at_hand(dumps, tmp_path, capsys):
    out, raw = tmp_path / "out", dumps[0].parent
    given = f"reviews_Beauty_5.json.gz={sha256(dumps[0].read_bytes())}"
    assert amazon.main(["beauty", "--raw", str(raw), "--out", str(out), "--core", "0", "--sha256", given]) == 0
    assert "events                      6" in capsys.readouterr().out
    assert sorted(p.name for p in raw.iterdir()) == sorted(p.name for p in dumps)  # nothing written there

    def error(*argv: str) -> str:
        assert amazon.main([*argv, "--raw", str(raw), "--out", str(tmp_path / "no")]) == 1
        return capsys.readouterr().err

    assert "reviews_Toys_and_Games_5.json.gz is missing" in error("toys")
    assert "no event is left of 7 with --core 5" in error("beauty")
    assert "expected beauty, sports, toys" in error("../etc")
    assert "expected FILE=HEX" in error("beauty", "--sha256", "meta_Beauty.json.gz=12")
    assert "--sha256 names 'other.gz'" in error("beauty", "--sha256", f"other.gz={'0' * 64}")
    assert "--sha256 says 0000" in error("beauty", "--sha256", f"meta_Beauty.json.gz={'0' * 64}")
    assert not (tmp_path / "no").exists()


def test_script_downloads_and_prepares(dumps, tmp_path, monkeypatch):
    """As a user runs it, against a server that holds the raw directory."""
    raw = dumps[0].parent

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=raw)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        script = Path(amazon.__file__)
        (tmp_path / "work").mkdir()
        done = subprocess.run(
            [sys.executable, script, "beauty", "--out", "datasets/beauty", "--core", "0"]
            + ["--base-url", f"http://127.0.0.1:{server.server_port}"],
            cwd=tmp_path / "work",
            env={**os.environ, "PYTHONPATH": str(script.parent.parent), "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "work" / "datasets" / "beauty").iterdir()) == FILES
    assert sorted(p.name for p in (tmp_path / "work" / "raw").iterdir()) == [
        "meta_Beauty.json.gz",
        "meta_Beauty.json.gz.sha256",
        "reviews_Beauty_5.json.gz",
        "reviews_Beauty_5.json.gz.sha256",
    ]


def test_names_of_dumps():
    assert amazon.dump_names("sports") == ("reviews_Sports_and_Outdoors_5.json.gz", "meta_Sports_and_Outdoors.json.gz")
    assert amazon.dump_names("Video_Games") == ("reviews_Video_Games_5.json.gz", "meta_Video_Games.json.gz")
