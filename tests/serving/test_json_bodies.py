import json
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

from starlette.exceptions import HTTPException  # noqa: E402

from tiger.serving.json_bodies import MAX_CONTAINERS, MAX_DEPTH, MAX_MEMBERS, MAX_VALUES, parse_json  # noqa: E402
from tiger.serving.schemas import MAX_CANDIDATES, MAX_HISTORIES, MAX_HISTORY  # noqa: E402

MEGABYTES = 4 * 2**20


@pytest.mark.parametrize(
    "value",
    [
        {"histories": [["a", "b"], []], "k": 3},
        {"text": '[[[[[[[[[[ {"a": , "\\ ]]'},
        {"text": "\\" * 7 + '"' + "[" * 5000 + "," * 10},
        ["\\\\", '"', "\\", "[" * 2000],
        {"text": "ü" * 100 + "\u2028\ud800"},
        -1.5,
        "",
    ],
)
def test_json_is_read_as_python_reads_it(value):
    text = json.dumps(value)
    assert parse_json(text.encode()) == json.loads(text)
    assert parse_json(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)


def test_the_largest_request_is_read():
    one = {"history": ["x" * 10] * MAX_HISTORY, "candidates": ["y" * 10] * MAX_CANDIDATES}
    body = {"lists": [one] * MAX_HISTORIES, "strict": True}
    assert parse_json(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "is not JSON"),
        (b"", 400, "is not JSON"),
        (b"\xff\xfe{\x00}\x00", 400, "not UTF-8"),
        (b"9" * 5000, 400, "is not JSON"),
        (b'"' + b"x" * 100, 400, "is not JSON"),
        (b"]" * 100, 400, "is not JSON"),
        (b"[" * (MAX_DEPTH + 1), 400, "deep"),
        (b'{"a":' * MEGABYTES, 400, "deep"),
        (b"[" + b",".join([b"[]"] * (MEGABYTES // 3)) + b"]", 413, f"{MAX_CONTAINERS} lists"),
        (b"[" + b"0," * (MEGABYTES // 2) + b"0]", 413, f"{MAX_VALUES} values"),
        (b"{" + b",".join(b'"%d":1' % n for n in range(MAX_MEMBERS + 1)) + b"}", 413, "members"),
        (b"{" + b'"":1,' * (MEGABYTES // 5) + b'"":1}', 413, "members"),
        (b'\\"[' + b"[" * MEGABYTES, 400, "deep"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_what_is_too_much_is_refused_before_it_is_built(body, status, reason):
    start = time.thread_time()
    with pytest.raises(HTTPException, match=reason) as refused:
        parse_json(body)
    assert refused.value.status_code == status and "\n" not in refused.value.detail
    assert time.thread_time() - start < 1  # a thousandth or a tenth, and seconds where it is built


def test_the_limits_are_those_of_what_is_accepted():
    depth = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(parse_json(depth)).encode() == depth
    members = {str(n): n for n in range(MAX_MEMBERS)}
    assert parse_json(json.dumps(members).encode()) == members
    assert len(parse_json(b"[" + b",".join([b"{}"] * (MAX_CONTAINERS - 1)) + b"]")) == MAX_CONTAINERS - 1
