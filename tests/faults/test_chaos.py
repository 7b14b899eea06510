"""A short campaign, and what the count makes of tries that go wrong; `make chaos` is the long one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.trying import LOST, OUTCOMES, REFUSED, RIGHT, Fault, Limits, Plan, outcome_of, source
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]


def raises(error: BaseException):
    def work(folder: Path) -> str:
        raise error

    return work


WORKS = {
    "refused in one line": raises(DataError("a file, a row, a remedy")),
    "right": lambda folder: RIGHT,
    "lost": raises(Fault(LOST, "it is gone")),
    "traceback": raises(ValueError("x")),
    "hang": lambda folder: time.sleep(60),
    "crash": lambda folder: os.kill(os.getpid(), signal.SIGKILL),
}


@pytest.mark.parametrize("expected", [*WORKS, "several lines"])
def test_each_outcome_is_told_apart(tmp_path, expected):
    work = WORKS.get(expected, raises(DataError("one\ntwo")))
    found, text = outcome_of(
        Plan("x", "", work), tmp_path / "try", Limits(seconds=1.0 if expected == "hang" else 30.0)
    )
    assert found == ("traceback" if expected == "several lines" else expected) and found in OUTCOMES
    assert text or expected == RIGHT


def test_a_try_can_be_made_again_alone():
    first = [source(3, "damage", 17).random() for _ in range(2)]
    assert first[0] == first[1] != source(3, "damage", 18).random() and first[0] != source(3, "kill", 17).random()


def test_a_short_campaign_finds_no_fault(tmp_path):
    """In an interpreter of its own: what other tests left running isn't forked."""
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")
    command = [sys.executable, "-m", "tests.faults.chaos", "--tries", "40", "--seed", "7", "--out", str(tmp_path)]
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=900)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert done.returncode == 0 and not counts["faults"], done.stdout[-5000:]
    whole = counts["counts"][-1]
    assert whole["of"] == "all" and sum(whole[name] for name in OUTCOMES) == counts["tries"] >= 40
    assert whole[RIGHT] >= 10 and whole[REFUSED] >= 5 and not whole[LOST]
    assert {row["kind"] for row in counts["counts"]} == {
        *("crafted", "damage", "kill", "disk", "two-process", "service", "all")
    }
