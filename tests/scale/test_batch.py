"""Answers of workers on Ray are those of one process, byte for byte, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import make_recommender
from tests.serving.test_offline import write_log
from tiger.cli.main import main
from tiger.scale import batch
from tiger.scale.batch import BatchJob, recommend_on_ray
from tiger.scale.batch_worker import BatchWorker
from tiger.scale.session import Cluster
from tiger.serving.offline import recommend_users
from tiger.serving.run_identity import saved_identity
from tiger.utils.errors import DataError

ROOT = Path(__file__).parents[2]
OPTIONS = {"k": 5, "num_beams": 60}
FILTER = "kind = 'even'"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with a model, a log of several row groups, and what one process answers."""
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("run")
    items = pa.table(
        {"item_id": [f"item-{row}" for row in range(60)], "kind": [("even", "odd")[row % 2] for row in range(60)]}
    )
    tiger = make_recommender(60, items=items)
    tiger.save_pretrained(folder / "model")
    write_log(folder / "log.parquet", 120)
    for name, more in (("whole", {}), ("even", {"filter": FILTER})):
        recommend_users(
            tiger,
            folder / "log.parquet",
            folder / f"{name}.parquet",
            part_events=80,
            identity=saved_identity(folder / "model"),
            **OPTIONS,
            **more,
        )
    return folder


def job(run: Path, out: str, **more) -> BatchJob:
    log = str(run / "log.parquet")
    return BatchJob(str(run / "model"), log, out, part_events=80, options=dict(OPTIONS), **more)


class LostOnce(BatchWorker):
    """Is killed with its third part, once: by the system, as where memory is short."""

    def answer(self, part):
        mark = Path(self._settings.parts).parent / "lost"
        if part.number == 2 and not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(part)


def test_the_file_is_that_of_one_process_though_a_worker_is_killed(ray_session, run, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "BatchWorker", LostOnce)
    monkeypatch.setattr(batch, "DEAL_EVENTS", 100)  # several pieces
    counts = recommend_on_ray(job(run, str(tmp_path / "out.parquet")))
    assert (tmp_path / "lost").exists() and counts["users"] == 120
    assert (tmp_path / "out.parquet").read_bytes() == (run / "whole.parquet").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["lost", "out.parquet"]
    # What is finished is finished, and another run's is left alone.
    assert recommend_on_ray(job(run, str(tmp_path / "out.parquet"))) == counts
    with pytest.raises(DataError, match="there already, of another log or with other settings"):
        recommend_on_ray(job(run, str(tmp_path / "out.parquet"), bf16=False))


def test_the_command_goes_on_where_a_killed_one_was(ray_session, run, tmp_path, monkeypatch):
    out, file = tmp_path / "out.parquet", tmp_path / "driver.py"
    file.write_text(
        textwrap.dedent("""
            import os, signal, sys, time
            from pathlib import Path
            from tiger.cli.main import main
            from tiger.scale import batch
            from tiger.scale.batch_worker import BatchWorker

            class KillsDriver(BatchWorker):
                def answer(self, part):
                    if part.number == 3:
                        os.kill(int(Path(self._settings.parts).parent.joinpath("pid").read_text()), signal.SIGKILL)
                        time.sleep(60)
                    return super().answer(part)

            Path(sys.argv[sys.argv.index("--out") + 1]).parent.joinpath("pid").write_text(str(os.getpid()))
            batch.BatchWorker = KillsDriver
            main(sys.argv[1:])
        """)
    )
    address = ray_session.get_runtime_context().gcs_address
    words = ["recommend", str(run / "model"), "--histories", str(run / "log.parquet"), "-k", "5", "--num_beams", "60"]
    words += ["--part_events", "80", "--json", "--out"]
    main([*words, str(tmp_path / "whole.parquet")])
    words += [str(out), "--engine", "ray", "--address", address]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(file), *words], env=environment, capture_output=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    parts = tmp_path / ".out.parquet.parts"
    before = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.parquet")}
    assert before and not out.exists()
    wait_for_cores(ray_session)
    with monkeypatch.context() as patched:
        kept = {}
        patched.setattr(
            batch._Run,
            "_join",
            lambda self, settings, join=batch._Run._join: (kept.update(stamps(parts)), join(self, settings)),
        )
        main(words)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes() and not parts.exists()
    assert {name: kept[name] for name in before} == before  # what was done is not done again


def stamps(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}


def wait_for_cores(ray, count: int = 2) -> None:
    """Until those of a driver that was killed are free again."""
    for _ in range(100):
        if ray.available_resources().get("CPU", 0) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(ray.available_resources())


def test_log_and_answers_in_object_storage_and_a_filter(ray_session, run, bucket, tmp_path):
    import fsspec

    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.put_file(str(run / "log.parquet"), f"{bucket}/log.parquet")
    told = BatchJob(
        str(run / "model"),
        f"{bucket}/log.parquet",
        f"{bucket}/out.parquet",
        filter=FILTER,
        part_events=80,
        options=OPTIONS,
    )
    assert recommend_on_ray(told)["users"] == 120
    files.get_file(f"{bucket}/out.parquet", str(tmp_path / "out.parquet"))
    found, wanted = (pq.read_table(file) for file in (tmp_path / "out.parquet", run / "even.parquet"))
    assert found.replace_schema_metadata(None).equals(wanted.replace_schema_metadata(None))
    assert files.find(bucket.removeprefix("s3://")) == ["tests/log.parquet", "tests/out.parquet"]


def test_too_few_cores_and_no_cluster_are_errors_at_once(ray_session, run, tmp_path):
    began = time.monotonic()
    with pytest.raises(DataError, match="3 workers need 3 cores, and Ray has 2"):
        recommend_on_ray(job(run, str(tmp_path / "out.parquet")), Cluster(workers=3))
    assert time.monotonic() - began < 5 and os.listdir(tmp_path) == []


def test_strangers_are_refused(ray_session):
    """Ray listens on all interfaces, whatever it is told: without the token, no one is answered."""
    address = ray_session.get_runtime_context().gcs_address
    code = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print('in')"
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    stranger = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    done = subprocess.run(
        [sys.executable, "-c", code, address], env=without | stranger, capture_output=True, text=True, timeout=60
    )
    assert done.returncode and "in" not in done.stdout.split() and "oken" in done.stderr


@pytest.mark.parametrize("gpus, device", [(1, "cuda"), (0, "cuda:1")])
def test_a_worker_with_a_gpu_sees_no_other(run, tmp_path, monkeypatch, gpus, device):
    def pool(ray, cluster, kind, settings, threads):
        assert settings.device == device
        raise DataError("seen")

    monkeypatch.setattr(batch, "session", nullcontext)
    monkeypatch.setattr(batch, "WorkerPool", pool)
    with pytest.raises(DataError, match="seen"):
        recommend_on_ray(job(run, str(tmp_path / "out.parquet"), device="cuda:1"), Cluster(gpus=gpus))


def test_bad_logs_are_named(run, tmp_path):
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "text.parquet").write_text("some text")
    pq.write_table(pq.read_table(run / "log.parquet").drop_columns("timestamp"), tmp_path / "untimed.parquet")
    for name, message in (
        ("nothing", r"is missing: give a log in parquet"),
        ("empty", r"is empty \(0 bytes\): give a log in parquet"),
        ("text", r"is not a whole parquet file \(.*\): write it again"),
        ("untimed", "has no column 'timestamp'"),
    ):
        log = str(tmp_path / f"{name}.parquet")
        with pytest.raises(DataError, match=f"{name}.parquet {message}"):
            recommend_on_ray(BatchJob(str(run / "model"), log, str(tmp_path / "out.parquet")))


def test_options_of_another_engine_are_refused(run, tmp_path, capsys):
    words = [
        "recommend",
        str(run / "model"),
        "--histories",
        str(run / "log.parquet"),
        "--out",
        str(tmp_path / "o.parquet"),
    ]
    for more, message in (
        (["--workers", "3"], "--workers belongs to --engine ray"),
        (["--engine", "ray", "--workers", "0"], "must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
