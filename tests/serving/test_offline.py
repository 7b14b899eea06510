import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import make_recommender
from tests.rankers.test_base import LongestId, values_of
from tests.retriever.test_memory import ITEMS, make_memory
from tiger.recommender.recommender import TigerRecommender
from tiger.serving import log_parts, offline
from tiger.serving.offline import parts_of, recommend_users
from tiger.serving.run_identity import identity_in_memory
from tiger.utils.errors import DataError


@pytest.fixture
def recommender():
    return make_recommender(60)


def write_log(file, num_users=40, seed=0):
    """Events of all users in a jumble, several a second; one user has only items that nobody knows."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        for _ in range(random.integers(1, 9)):
            item = "unknown" if user == 7 or random.random() < 0.2 else f"item-{random.integers(60)}"
            rows.append((f"user {user}", item, int(random.integers(0, 5))))
    rows = [rows[place] for place in random.permutation(len(rows))]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows))))
    pq.write_table(pa.table(columns), file, row_group_size=50)
    return rows


def answers(file):
    found = {}
    for row in pq.read_table(file).to_pylist():
        found.setdefault(row["user_id"], []).append(row)
    return found


OPTIONS = {"k": 5, "num_beams": 60, "bf16": False}


def test_every_user_gets_what_the_library_gives(recommender, tmp_path):
    rows = write_log(tmp_path / "log.parquet")
    counts = recommend_users(
        recommender, tmp_path / "log.parquet", tmp_path / "out.parquet", part_events=30, **OPTIONS
    )
    known = sum(item != "unknown" for _, item, _ in rows)
    assert counts == {"events": len(rows), "users": 40, "unknown_events": len(rows) - known}
    found = answers(tmp_path / "out.parquet")
    histories = {user: [] for user, _, _ in rows}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):  # stable, as the file has them within a second
        histories[user] += [item] if item != "unknown" else []
    items, scores = recommender.recommend(list(histories.values()), k=5, num_beams=60)
    for user, expected, values in zip(histories, items, scores):
        assert [row["item_id"] for row in found[user]] == expected
        assert [row["rank"] for row in found[user]] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose([row["score"] for row in found[user]], values, atol=1e-4)
    assert sorted(os.listdir(tmp_path)) == ["log.parquet", "out.parquet"]


@pytest.mark.parametrize("stop", ["dealing", "part", "merge"])
def test_a_run_that_is_killed_goes_on_and_gives_the_same_file(recommender, tmp_path, monkeypatch, stop):
    write_log(tmp_path / "log.parquet")
    arguments = (recommender, tmp_path / "log.parquet")
    recommend_users(*arguments, tmp_path / "whole.parquet", part_events=30, **OPTIONS)
    calls = []

    def killed_at_the_third(function):
        def call(*args, **kwargs):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    owner, name = {
        "dealing": (log_parts.pd.util, "hash_array"),
        "part": (offline, "recommend_part"),
        "merge": (offline, "read_answers"),
    }[stop]
    monkeypatch.setattr(owner, name, killed_at_the_third(getattr(owner, name)))
    if stop == "dealing":
        monkeypatch.setattr("tiger.data.readers._LOG_ROWS", 40)
    with pytest.raises(KeyboardInterrupt):
        recommend_users(*arguments, tmp_path / "out.parquet", part_events=30, **OPTIONS)
    monkeypatch.undo()
    assert not (tmp_path / "out.parquet").exists()
    done, decode = [], recommender.recommend_rows
    monkeypatch.setattr(
        recommender, "recommend_rows", lambda *args, **kwargs: done.append(1) or decode(*args, **kwargs)
    )
    recommend_users(*arguments, tmp_path / "out.parquet", part_events=30, **OPTIONS)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    parts = -(-pq.read_metadata(tmp_path / "log.parquet").num_rows // 30)
    assert len(done) == {"dealing": parts, "part": parts - 2, "merge": 0}[stop]
    # And what is finished is finished.
    recommend_users(*arguments, tmp_path / "out.parquet", part_events=30, **OPTIONS)
    assert sorted(os.listdir(tmp_path)) == ["log.parquet", "out.parquet", "whole.parquet"]
    assert len(done) == {"dealing": parts, "part": parts - 2, "merge": 0}[stop]


def test_what_belongs_to_another_run_is_left_alone(recommender, tmp_path, monkeypatch):
    log, out = tmp_path / "log.parquet", tmp_path / "out.parquet"
    write_log(log)
    monkeypatch.setattr("tiger.serving.offline.recommend_part", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recommend_users(recommender, log, out, **OPTIONS)
    monkeypatch.undo()
    with pytest.raises(DataError, match="an interrupted run of another log or with other settings"):
        recommend_users(recommender, log, out, **(OPTIONS | {"k": 6}))
    recommend_users(recommender, log, out, **OPTIONS)
    before = out.read_bytes()
    recommender.remove_items(["item-1"])
    with pytest.raises(DataError, match="there already"):
        recommend_users(recommender, log, out, **OPTIONS)
    assert out.read_bytes() == before
    out.write_text("my notes")
    with pytest.raises(DataError, match="there already"):
        recommend_users(recommender, log, out, **OPTIONS)
    assert out.read_text() == "my notes"


def test_one_filter_for_all_users(recommender, tmp_path):
    log = tmp_path / "log.parquet"
    write_log(log)
    allowed = [f"item-{row}" for row in range(0, 60, 3)]
    recommend_users(recommender, log, tmp_path / "out.parquet", filter=allowed, part_events=30, **OPTIONS)
    found = answers(tmp_path / "out.parquet")
    assert len(found) == 40 and {len(rows) for rows in found.values()} == {5}
    assert {row["item_id"] for rows in found.values() for row in rows} <= set(allowed)
    before = (tmp_path / "out.parquet").read_bytes()
    recommender.add_filter("third", allowed[::-1])
    recommend_users(recommender, log, tmp_path / "out.parquet", filter="third", part_events=30, **OPTIONS)
    assert (tmp_path / "out.parquet").read_bytes() == before
    recommender.add_filter("third", allowed[1:])
    with pytest.raises(DataError, match="there already"):
        recommend_users(recommender, log, tmp_path / "out.parquet", filter="third", part_events=30, **OPTIONS)
    with pytest.raises(DataError, match="one filter for all its users"):
        recommend_users(recommender, log, tmp_path / "other.parquet", filter=[None, "third"], **OPTIONS)


def test_bad_logs_are_named(recommender, tmp_path):
    log, out = tmp_path / "log.parquet", tmp_path / "out.parquet"

    def refused(table, message):
        pq.write_table(table, log)
        with pytest.raises(DataError, match=message):
            recommend_users(recommender, log, out, **OPTIONS)
        assert not out.exists()

    good = pa.table({"user_id": ["a", "b"], "item_id": ["item-1", "item-2"], "timestamp": [1, 2]})
    refused(good.drop_columns(["timestamp"]), "no column 'timestamp'")
    refused(good.set_column(0, "user_id", [[1, 2]]), "'user_id' is int64, expected text")
    refused(good.set_column(1, "item_id", [["item-1", None]]), "row 1: item_id is null")
    with pytest.raises(DataError, match="is missing"):
        recommend_users(recommender, tmp_path / "nowhere.parquet", out, **OPTIONS)
    pq.write_table(good, log)
    with pytest.raises(DataError, match="is not a directory"):
        recommend_users(recommender, log, tmp_path / "nowhere" / "out.parquet", **OPTIONS)
    recommend_users(recommender, log, out, **OPTIONS)
    out.unlink()
    write_log(log, 400)
    whole = log.read_bytes()
    middle = len(whole) // 3
    log.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    with pytest.raises(DataError, match="log.parquet is damaged"):
        recommend_users(recommender, log, out, **OPTIONS)
    log.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="not a whole parquet file"):
        recommend_users(recommender, log, out, **OPTIONS)


def test_an_empty_log_gives_an_empty_answer(recommender, tmp_path):
    empty = pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string()), "timestamp": []})
    empty = empty.set_column(2, "timestamp", pa.array([], pa.int64()))
    pq.write_table(empty, tmp_path / "log.parquet")
    counts = recommend_users(recommender, tmp_path / "log.parquet", tmp_path / "out.parquet", **OPTIONS)
    assert counts["users"] == 0 and pq.read_table(tmp_path / "out.parquet").num_rows == 0
    assert json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"tiger"])["counts"] == counts


def test_intermediate_files_lie_beside_the_output():
    assert parts_of("out.parquet") == ".out.parquet.parts"
    assert parts_of("/out.parquet") == "/.out.parquet.parts"
    assert parts_of("/a/out.parquet") == "/a/.out.parquet.parts"
    assert parts_of("s3://bucket/out.parquet") == "s3://bucket/.out.parquet.parts"


def test_a_run_with_another_memory_is_another(tmp_path):
    write_log(tmp_path / "log.parquet", 3)
    first, second, same = (make_recommender(ITEMS, memory=make_memory(seed)) for seed in (0, 1, 0))
    identities = [identity_in_memory(tiger) for tiger in (first, second, same, make_recommender(ITEMS))]
    assert identities[0] == identities[2] and len(set(identities)) == 3
    recommend_users(first, tmp_path / "log.parquet", tmp_path / "out.parquet", k=3)
    recommend_users(same, tmp_path / "log.parquet", tmp_path / "out.parquet", k=3)
    with pytest.raises(DataError, match="of another log or with other settings"):
        recommend_users(second, tmp_path / "log.parquet", tmp_path / "out.parquet", k=3)


def test_what_decides_answers_is_in_the_identity(tmp_path):
    def changed(change):
        tiger = make_recommender(60)
        change(tiger)
        return identity_in_memory(tiger)

    known = identity_in_memory(make_recommender(60))
    found = [
        identity_in_memory(make_recommender(60, max_history=5)),
        changed(lambda tiger: tiger.model.config.update({"layer_norm_epsilon": 0.1})),
        changed(lambda tiger: setattr(tiger, "unseen", np.arange(60) > 50)),
        changed(lambda tiger: tiger.half()),
        changed(lambda tiger: setattr(tiger, "ranker", LongestId(values_of(tiger.tokenizer.item_ids)))),
        changed(lambda tiger: setattr(tiger, "ranker", LongestId(-values_of(tiger.tokenizer.item_ids)))),
    ]
    assert len({known, *found}) == 7
    make_recommender(60).save_pretrained(tmp_path / "model")
    assert identity_in_memory(TigerRecommender.from_pretrained(tmp_path / "model")) == known


def remove_settings_last(folder):
    """What rmtree may do: the order of a folder's entries is the disk's."""
    paths = sorted(folder.rglob("*"), key=lambda path: (path.name == offline.SETTINGS, -len(path.parts)))
    for path in [*paths, folder]:
        os.rmdir(path) if path.is_dir() else os.unlink(path)


def killed_at(step, monkeypatch):
    """Let ``step`` files or folders be removed, and no more: a process that is killed in between."""
    left = [step]

    def counted(function):
        def call(*args, **kwargs):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return left


def test_a_clean_up_that_is_killed_at_any_step_leaves_nothing_to_resume_from(recommender, tmp_path, monkeypatch):
    log, out, parts = tmp_path / "log.parquet", tmp_path / "out.parquet", tmp_path / ".out.parquet.parts"
    write_log(log)
    options = OPTIONS | {"part_events": 80}

    def run():
        return recommend_users(recommender, log, out, **options)

    with monkeypatch.context() as patched:
        patched.setattr(offline, "_remove_parts", lambda folder: None)
        counts = run()
    whole = out.read_bytes()
    shutil.copytree(parts, tmp_path / "parts")
    step = 0
    while True:
        shutil.rmtree(parts, ignore_errors=True)
        shutil.copytree(tmp_path / "parts", parts)
        with monkeypatch.context() as patched:
            left = killed_at(step, patched)
            patched.setattr(shutil, "rmtree", remove_settings_last)
            try:
                offline._remove_parts(parts)
                break
            except KeyboardInterrupt:
                assert not left[0]
        if step % 2:  # the answer is there, and the next run clears up
            assert run() == counts and out.read_bytes() == whole and not parts.exists()
        out.unlink()
        assert run() == counts and out.read_bytes() == whole and not parts.exists()
        step += 1
    assert step > 6


def test_parts_that_are_not_whole_are_refused(recommender, tmp_path, monkeypatch):
    log, out, parts = tmp_path / "log.parquet", tmp_path / "out.parquet", tmp_path / ".out.parquet.parts"
    write_log(log)
    with monkeypatch.context() as patched:
        patched.setattr(offline, "_join_parts", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recommend_users(recommender, log, out, part_events=80, **OPTIONS)
    shutil.rmtree(parts / "events" / "part=0")
    with pytest.raises(DataError, match="its events are not as written. Remove it, then start again"):
        recommend_users(recommender, log, out, part_events=80, **OPTIONS)
    assert not out.exists()


def test_the_second_writer_of_an_output_is_told_who_holds_it(recommender, tmp_path):
    write_log(tmp_path / "log.parquet")
    out = tmp_path / "out.parquet"
    hold = textwrap.dedent("""
        import sys, time
        from tiger.utils.locks import locked
        with locked(sys.argv[1]):
            print("held", flush=True)
            time.sleep(60)
    """)
    holder = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match=f"out.parquet is being written by process {holder.pid} on "):
            recommend_users(recommender, tmp_path / "log.parquet", out, **OPTIONS)
        recommend_users(recommender, tmp_path / "log.parquet", tmp_path / "other.parquet", **OPTIONS)
    finally:
        holder.kill()
        holder.wait()
    recommend_users(recommender, tmp_path / "log.parquet", out, **OPTIONS)
    assert out.read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_scores_that_are_no_numbers_are_not_written(recommender, tmp_path, monkeypatch):
    write_log(tmp_path / "log.parquet")
    decode = recommender.recommend_rows

    def damaged(*args, **kwargs):
        rows, scores = decode(*args, **kwargs)
        scores[0, 0] = np.nan
        return rows, scores

    monkeypatch.setattr(recommender, "recommend_rows", damaged)
    with pytest.raises(DataError, match="NaN or infinite"):
        recommend_users(recommender, tmp_path / "log.parquet", tmp_path / "out.parquet", **OPTIONS)
    assert not (tmp_path / "out.parquet").exists()
