"""The service in two replicas on Ray: updates reach both, and a replica that is killed catches up."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import yaml

from tests.conftest import make_model
from tests.recommender.test_recommender import fitted  # noqa: F401
from tiger.cli.main import main
from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError

pytest.importorskip("ray", reason="needs the extra: pip install 'tiger-recommender[ray]'")
pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

import httpx2  # noqa: E402

from tiger.scale.serve import NAME, ReplicaSettings, replica_app, running_replicas  # noqa: E402
from tiger.scale.session import Cluster  # noqa: E402
from tiger.serving.settings import AccessSettings, EdgeSettings, ServiceSettings  # noqa: E402

ROOT = Path(__file__).parents[2]
TOKEN = "t" * 32
NEW = {"items": [{"item_id": "n0", "text": "wool socks number 90"}]}


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory):  # noqa: F811
    tokenizer, encoder, items = fitted
    folder = tmp_path_factory.mktemp("model") / "model"
    TigerRecommender(make_model(tokenizer), tokenizer, encoder, items, max_history=5).save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def replicas() -> set[int]:
    """Processes of this session's replicas: they have its token."""
    found, token = set(), f"RAY_AUTH_TOKEN={os.environ['RAY_AUTH_TOKEN']}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named = (place / "cmdline").read_bytes().startswith(f"ray::ServeReplica:{NAME}".encode())
            if named and token in (place / "environ").read_bytes().split(b"\0"):
                found.add(int(place.name))
    return found


def catalogs(client, count: int = 12) -> set[str]:
    """What answers of several requests say of their catalog: requests go to any replica."""
    found = set()
    for _ in range(count):
        try:
            answer = client.post("/recommend", json={"histories": [["i1"]], "k": 3})
            found.add(answer.headers["x-tiger-catalog"] if answer.status_code == 200 else str(answer.status_code))
        except httpx2.HTTPError as error:
            found.add(type(error).__name__)
    return found


def until(says, wanted, seconds: float) -> float:
    """Seconds until a function returns this."""
    began = time.monotonic()
    while (found := says()) != wanted:
        assert time.monotonic() - began < seconds, found
        time.sleep(0.1)
    return time.monotonic() - began


def test_two_replicas_have_one_catalog(ray_session, model, tmp_path, monkeypatch):
    service = ServiceSettings(
        update_log=str(tmp_path / "log"), access=AccessSettings(TOKEN), edge=EdgeSettings(grace_seconds=1.0)
    )
    told, port = ReplicaSettings(str(model), None, "cpu", service), free_port()
    with running_replicas(told, Cluster(workers=2), port):
        before = replicas()
        assert len(before) == 2
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            assert catalogs(client) == {"0"}
            assert client.post("/items", json=NEW).status_code == 401
            assert client.get("/livez", headers={"host": "elsewhere.example"}).status_code == 403
            done = client.post("/items", json=NEW, headers=headers)
            assert done.status_code == 200 and done.json()["catalogue"] == 1
            time.sleep(2)
            assert catalogs(client) == {"1"}
            os.kill(min(before), signal.SIGKILL)
            until(lambda: len(replicas() - before), 1, 60)
            until(lambda: catalogs(client), {"1"}, 30)
            assert client.delete("/items/i3", headers=headers).json()["catalogue"] == 2
            time.sleep(2)
            assert catalogs(client) == {"2"}


def test_the_example_for_kubernetes_names_what_there_is(model, tmp_path, monkeypatch):
    """Its arguments are the application's, and the cluster asks for a token."""
    from tiger.scale.serve import application

    example = yaml.safe_load((ROOT / "docs" / "deploy" / "rayservice.yaml").read_text())["spec"]
    (served,) = yaml.safe_load(example["serveConfigV2"])["applications"]
    assert served["import_path"] == "tiger.scale.serve:application"
    assert [one["name"] for one in served["deployments"]] == [NAME]
    assert example["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    (tmp_path / "token").write_text(TOKEN)
    args = served["args"] | {
        "model": str(model),
        "update_log": str(tmp_path / "log"),
        "token_file": str(tmp_path / "token"),
    }
    assert application(args) is not None and (tmp_path / "log" / "log.json").exists()
    for change, message in (
        ({"modle": "x"}, "no argument modle"),
        ({"update_log": None}, "give --update_log"),
        ({"token_file": None}, "could change its catalog"),
    ):
        with pytest.raises(DataError, match=message):
            application(args | change)


def test_the_command_gives_replicas_a_gpu_and_the_collector(model, monkeypatch):
    started = []
    monkeypatch.setattr("tiger.scale.serve.serve_on_ray", lambda *what: started.append(what))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    for more in ([], ["--no-otel"]):
        main(["serve", str(model), "--engine", "ray", "--read_only", "--device", "cuda:1", *more])
    (told, cluster, _), (without, _, _) = started
    assert (cluster.workers, cluster.gpus, told.otel, without.otel) == (2, 1, None, False)
    assert told.variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"

    def builder(told):
        assert told.device == "cuda"
        raise DataError("seen")

    monkeypatch.setattr("tiger.scale.serve.session", nullcontext)
    monkeypatch.setattr("tiger.scale.serve._builder", builder)
    with pytest.raises(DataError, match="seen"), running_replicas(told, cluster, 0):
        pass


def test_a_replica_makes_spans_where_a_collector_is_named(model, monkeypatch):
    def asked(wanted, environment):
        seen = {name: environment[name] for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME")}
        assert wanted is None and seen == {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
            "OTEL_SERVICE_NAME": "of this machine",
        }
        raise DataError("asked")

    monkeypatch.setattr("tiger.scale.serve.tracing_of", asked)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")  # it is put back, whoever sets it
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of this machine")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SERVICE_NAME": "of the start"}
    told = ReplicaSettings(str(model), None, "cpu", ServiceSettings(read_only=True), otel=None, variables=variables)
    with pytest.raises(DataError, match="asked"):
        replica_app(told)


def test_replicas_need_a_log_and_refuse_what_they_lack(model, capsys):
    for more, message in (
        ([], "give --update_log, or --read_only"),
        (["--save"], "--save belongs to --engine local"),
        (["--read_only", "--client_rate", "5"], "--client_rate belongs to --engine local"),
    ):
        with pytest.raises(SystemExit):
            main(["serve", str(model), "--engine", "ray", *more])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["serve", str(model), "--replicas", "2"])
    assert "--replicas belongs to --engine ray" in capsys.readouterr().err
