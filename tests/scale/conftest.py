"""One session of Ray with two cores for all tests that need it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tiger.scale.session import Cluster, load_ray


@pytest.fixture(scope="session")
def ray_session(request) -> Iterator[Any]:
    """Ray, connected. It listens on all interfaces of the machine: only those who know its token are answered."""
    pytest.importorskip("ray", reason="needs the extra: pip install 'tiger-recommender[ray]'")
    from tiger.scale.session import session

    if find_spec("moto") and find_spec("s3fs"):
        request.getfixturevalue("bucket")  # its variables have to be there when workers start
    with pytest.MonkeyPatch.context() as patched:
        # Not a monitor that kills workers where other programs have taken the machine's memory.
        patched.setenv("RAY_memory_monitor_refresh_ms", "0")
        patched.setattr("os.sched_getaffinity", lambda _: {0, 1})
        with session(Cluster(workers=2)):
            yield load_ray()
