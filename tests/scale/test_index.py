"""Semantic IDs of workers on Ray are those of one process."""

from __future__ import annotations

import os
import signal

from tests.training.test_index import SETTINGS, write_items
from tiger.scale import index
from tiger.scale.index import RayIndexWorker, index_on_ray
from tiger.scale.session import Cluster
from tiger.training import item_chunks
from tiger.training.index import IndexArguments, index_items


class LostOnce(RayIndexWorker):
    """Is killed with its third chunk, once."""

    def encode(self, chunk):
        mark = self._settings.work.removeprefix("file://") + ".lost"
        if chunk.number == 2 and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(chunk)


def test_the_fingerprint_is_that_of_one_process_though_a_worker_is_killed(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(item_chunks, "CHUNK_ITEMS", 50)
    monkeypatch.setattr(index, "RayIndexWorker", LostOnce)
    files = tuple(write_items(tmp_path))
    whole = index_items(IndexArguments(files, str(tmp_path / "whole"), **SETTINGS))
    work = f"file://{tmp_path / 'work'}"
    found = index_on_ray(IndexArguments(files, str(tmp_path / "out"), work=work, **SETTINGS), Cluster(workers=2))
    assert found.fingerprint == whole.fingerprint and found.item_ids == whole.item_ids
    assert os.listdir(tmp_path / "work") == ["tiger-index.lost"] and os.listdir(tmp_path / "out")
