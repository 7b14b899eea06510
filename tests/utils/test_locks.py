"""One writer at a time."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from tiger.utils.errors import DataError
from tiger.utils.locks import locked, read_unmixed

COUNT = """
import sys
from pathlib import Path
from tiger.utils.locks import locked, read_unmixed
file = Path(sys.argv[1])
for _ in range(50):
    with locked(file):
        file.write_text(str(int(file.read_text()) + 1))
"""


def test_two_processes_lose_no_update(tmp_path):
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "count")]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert (tmp_path / "count").read_text() == "100" and os.listdir(tmp_path) == ["count"]


def test_the_second_comer_is_told_who_holds_it(tmp_path, capsys):
    hold = textwrap.dedent("""
        import sys, time
        from tiger.utils.locks import locked
        with locked(sys.argv[1]):
            print("held", flush=True)
            time.sleep(60)
    """)
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "model")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match=f"is being written by process {holder.pid} on "):
            with locked(tmp_path / "model", wait=1.2):
                pass
        assert f"waiting for process {holder.pid}" in capsys.readouterr().err
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path / "model", wait=5):  # a dead process holds nothing
        pass


def test_a_lock_nests_within_a_thread_and_keeps_other_threads_out(tmp_path):
    refused = []

    def other():
        try:
            with locked(tmp_path / "model", wait=0.2):
                pass
        except DataError as error:
            refused.append(error)

    with locked(tmp_path / "model"), locked(tmp_path / "model"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and os.listdir(tmp_path) == []


@pytest.mark.parametrize("saves", [0, 1, 2, 3])
def test_what_is_replaced_while_it_is_read_is_read_again_the_third_time_under_the_lock(tmp_path, saves):
    folder, stamps, locks = tmp_path / "model", [0], []

    def read() -> int:
        begun = stamps[0]
        stamps[0] += begun < saves
        locks.append((tmp_path / ".model.lock").exists())
        if begun == 0 and saves:
            raise DataError("half of one save, half of another")
        return begun

    def stamp(_) -> tuple:
        return (stamps[0],)

    if saves < 3:
        assert read_unmixed(folder, read, stamp) == saves
    else:
        with pytest.raises(DataError, match="model is replaced again and again while it is read"):
            read_unmixed(folder, read, stamp)
    assert locks == [False, False, True][: saves + 1]


def test_the_error_of_a_folder_that_nobody_replaces_is_told_at_once(tmp_path):
    reads = []

    def read() -> None:
        reads.append(1)
        raise DataError("damaged")

    with pytest.raises(DataError, match="^damaged$"):
        read_unmixed(tmp_path, read, lambda _: ())
    assert reads == [1]
