"""The files of docs/deploy: they parse, and name nothing that the service lacks."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cli.test_environment import options
from tests.conftest import make_recommender

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

from fastapi.testclient import TestClient  # noqa: E402

from tiger.serving.access import OPEN, TOKEN_VARIABLE  # noqa: E402
from tiger.serving.service import create_app  # noqa: E402

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "deploy"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
DASHBOARD = json.loads((FOLDER / "grafana" / "tiger.json").read_text())


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def names_in(query: str) -> set[str]:
    """Metrics of a query."""
    return set(re.findall(r"\b(?:tiger|process)_\w+", query))


def test_every_metric_of_the_dashboard_exists():
    with TestClient(create_app(make_recommender(20)), "http://localhost") as client:
        client.post("/recommend", json={"histories": [[]], "k": 1, "num_beams": 1})
        text = client.get("/metrics").text
    there = set(re.findall(r"^(\w+)[{ ]", text, flags=re.MULTILINE))
    assert all(names_in(query) for query in queries()) and len(queries()) > 15
    assert {name for query in queries() for name in names_in(query)} <= there
    own = {name for name in there if name.startswith("tiger_") and not name.endswith(("_created", "_bucket", "_sum"))}
    shown = " ".join(queries())
    assert not {name for name in own if name.removesuffix("_count") not in shown}  # and each of ours is shown
    paths = re.findall(r'path=~"([^"]+)"', shown)
    assert paths and {path for one in paths for path in one.split("|")} == {"/recommend", "/rank"}


def test_panels_are_whole():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in panels for target in panel["targets"]}
    assert used == {source["uid"]} and source["url"] == "http://prometheus:9090"
    for query in queries():
        assert query.count("(") == query.count(")") and query.count("[") == query.count("]")


def test_every_variable_is_an_option():
    known = {*options(), TOKEN_VARIABLE}
    pages = [*FOLDER.rglob("*"), ROOT / "docs" / "serving.md"]
    for file in (page for page in pages if page.is_file()):
        assert set(re.findall(r"\bTIGER_[A-Z_0-9]*[A-Z0-9]\b", file.read_text())) <= known, file.name
    assert set(COMPOSE["services"]["tiger"]["environment"]) <= known
    for variable, value in COMPOSE["services"]["tiger"]["environment"].items():
        options()[variable].default.read({variable: str(value)})
    for variable, value in re.findall(r"(TIGER_\w+)=(\S+)", DOCKERFILE):
        options()[variable].default.read({variable: value})


def test_every_option_of_the_page_exists_and_none_is_missing():
    page = (ROOT / "docs" / "serving.md").read_text()
    page = page[: page.index("## Times of events")]
    given = {"--" + name.replace("-", "_") for name in re.findall(r"--([a-z][a-z0-9_-]*[a-z0-9])", page)}
    there = {f"--{action.dest}" for action in options().values() if action.option_strings}
    assert {name.replace("--no_", "--") for name in given} <= there and there <= given


def test_the_image_is_not_root_and_writes_nothing():
    tiger = COMPOSE["services"]["tiger"]
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    assert user == tiger["user"] == "10001:10001" and tiger["read_only"] is True and tiger["tmpfs"] == ["/tmp"]
    assert tiger["cap_drop"] == ["ALL"] and tiger["volumes"][0].endswith(":/model:ro")
    assert DOCKERFILE.index("USER ") < DOCKERFILE.index("ENTRYPOINT")
    (check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE, flags=re.DOTALL | re.MULTILINE)
    probe = json.loads(check)
    compile(probe[2], "healthcheck", "exec")
    assert "'/readyz'" in probe[2] and "/readyz" in OPEN
    assert all(port.startswith("127.0.0.1:") for one in COMPOSE["services"].values() for port in one.get("ports", ()))
    for name in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, flags=re.MULTILINE):
        assert all((ROOT / part).exists() for part in name.split())
        assert all(f"!{part}" in (FOLDER / "Dockerfile.dockerignore").read_text().split() for part in name.split())


def test_what_compose_mounts_and_prometheus_asks():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            assert not volume.startswith("./") or (FOLDER / volume.partition(":")[0]).is_file(), volume
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics" and job["static_configs"] == [{"targets": ["tiger:8000"]}]
    # Or the service would refuse its Host header.
    assert COMPOSE["services"]["tiger"]["environment"]["TIGER_ALLOWED_HOSTS"] == "tiger"
    provider = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"][0]
    assert any(
        f":{provider['options']['path']}/tiger.json" in one for one in COMPOSE["services"]["grafana"]["volumes"]
    )
    assert COMPOSE["secrets"]["tiger_token"]["file"] == "./token.txt"
    assert "token.txt" in (FOLDER / ".gitignore").read_text()
