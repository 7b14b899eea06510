"""The folder of a run: one that can be written, and by one run at a time."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.training.test_pipeline import SMALL, dataset  # noqa: F401
from tiger.training import pipeline
from tiger.training.output_folder import training_into
from tiger.utils.errors import DataError

HOLD = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from tiger.training.output_folder import training_into
    with training_into(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(120)
""")


def no_step(plan, step):
    raise AssertionError("a step was run")


def test_a_second_training_into_a_folder_is_refused(dataset, tmp_path, monkeypatch):  # noqa: F811
    out = tmp_path / "run"
    monkeypatch.setattr(pipeline, "run_step", no_step)
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match=f"^process {first.pid} on .* is training into {out}: wait until"):
            pipeline.train(dataset, out, **SMALL)
        monkeypatch.setenv("RANK", "1")  # another process of the same run has no lock of its own
        with training_into(out):
            pass
        monkeypatch.delenv("RANK")
    finally:
        first.kill()
        first.wait()
    assert list(out.glob(".run.lock*"))  # what kill -9 leaves, which keeps nobody out
    with pytest.raises(AssertionError, match="a step was run"):
        pipeline.train(dataset, out, **SMALL)
    assert not list(out.glob("*"))


def test_a_folder_that_can_not_be_written_is_one_line(dataset, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pipeline, "run_step", no_step)
    (tmp_path / "e.csv").write_text("")
    for out in ("e.csv", "e.csv/run"):
        with pytest.raises(DataError, match=rf"^{tmp_path / 'e.csv'} is a file, not a folder: give another --out\.$"):
            pipeline.train(dataset, tmp_path / out, **SMALL)
    if Path("/proc").is_dir():
        with pytest.raises(DataError, match=r"^/proc/x can't be made \(.*\): give another --out\.$"):
            pipeline.train(dataset, "/proc/x", **SMALL)
    with pytest.raises(ValueError, match="gone"):
        with training_into(tmp_path / "new"):
            raise ValueError("gone")
    assert not (tmp_path / "new").exists()
