"""Requests a second of each client: who is refused, for how long, whom it does not concern, and who is whom."""

import itertools

import pytest

from tests.conftest import make_recommender
from tiger.utils.errors import DataError

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

from fastapi.testclient import TestClient  # noqa: E402
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware  # noqa: E402

from tiger.serving import rate_limit, service  # noqa: E402
from tiger.serving.rate_limit import RateLimit, client_name  # noqa: E402
from tiger.serving.service import create_app  # noqa: E402
from tiger.serving.settings import AccessSettings, ClientSettings, ServiceSettings  # noqa: E402

TOKEN = "0123456789abcdef"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(rate_limit.RateLimit.__init__, "__defaults__", (clock,))
    return clock


def test_a_burst_and_then_the_rate():
    clock = Clock()
    limit = RateLimit(rate=4, burst=3, clock=clock)
    assert [limit.seconds_to_wait("a") for _ in range(5)] == [0, 0, 0, 0.25, 0.25]
    assert limit.seconds_to_wait("b") == 0  # another's bucket
    clock.now += 0.25
    assert [limit.seconds_to_wait("a") for _ in range(2)] == [0, 0.25]
    clock.now += 60  # no more than the burst gathers
    assert [limit.seconds_to_wait("a") for _ in range(4)] == [0, 0, 0, 0.25]


def test_a_steady_client_at_the_rate_is_never_refused():
    clock = Clock()
    limit = RateLimit(rate=3, burst=1, clock=clock)
    for turn in range(10_000):
        clock.now = 100 + turn / 3
        assert limit.seconds_to_wait("a") == 0


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 50)
    clock = Clock()
    limit = RateLimit(rate=1, burst=2, clock=clock)
    assert [limit.seconds_to_wait("busy") for _ in range(3)] == [0, 0, 1]
    for turn in range(49):
        limit.seconds_to_wait(f"client-{turn}")
    assert len(limit) == 50 and limit.seconds_to_wait("client-48") == 0  # its second
    for turn in range(1000):
        limit.seconds_to_wait(f"other-{turn}")
        assert len(limit) <= 50
    clock.now += 10  # all buckets are full: nobody is worth remembering
    for _ in range(30):
        limit.seconds_to_wait("a")
    assert len(limit) == 1


def test_who_is_one_client():
    assert client_name("10.0.0.1", False) == "10.0.0.1" != client_name("10.0.0.2", False)
    assert client_name("::ffff:10.0.0.1", False) == "10.0.0.1"
    assert client_name("2001:db8:1:2:3::4", False) == client_name("2001:db8:1:2::9", False) == "2001:db8:1:2::/64"
    assert client_name("2001:db8:1:3::9", False) != "2001:db8:1:2::/64"
    assert client_name(None, False) == client_name("", False) and len(client_name("x" * 1000, False)) < 100
    assert client_name("10.0.0.1", True) == client_name("2001:db8::1", True) != client_name("token", False)


def test_the_service_refuses_and_says_when_to_come_again(clock):
    settings = ServiceSettings(clients=ClientSettings(0.5, 3), access=AccessSettings(TOKEN))
    with TestClient(create_app(make_recommender(20), settings), "http://localhost") as client:
        assert [client.get("/items/item-1").status_code for _ in range(4)] == [200, 200, 200, 429]
        body = {"histories": [["item-1"]], "k": 1, "num_beams": 1}
        refused = client.post("/recommend", json=body)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "2"
        assert refused.json() == {"error": "too many requests from this client: try again after 2 s"}
        assert {"x-request-id", "x-tiger-model"} <= set(refused.headers)
        for path, _ in itertools.product(("/livez", "/readyz", "/healthz", "/health", "/metrics"), range(5)):
            assert client.get(path).status_code == 200
        guess = {"authorization": "Bearer " + "x" * 16}
        assert client.delete("/items/item-1", headers=guess).status_code == 429  # no answer, so no guessing
        right = {"authorization": f"Bearer {TOKEN}"}
        assert client.delete("/items/item-1", headers=right).status_code == 200  # counted apart
        foreign = client.get("/items/item-2", headers={"host": "evil.example"})
        assert foreign.status_code == 403
        assert "tiger_limited_requests_total 3.0" in client.get("/metrics").text
        clock.now += 2
        assert client.post("/recommend", json=body).status_code == 200


def test_there_is_no_limit_unless_it_is_asked_for():
    with TestClient(create_app(make_recommender(20)), "http://localhost") as client:
        assert {client.get("/items/item-1").status_code for _ in range(100)} == {200}
        assert "tiger_limited_requests_total 0.0" in client.get("/metrics").text


@pytest.mark.parametrize(("proxies", "trusted"), [((), False), (("127.0.0.1", "10.1.2.3/8"), True)])
def test_forwarded_addresses_are_believed_of_trusted_proxies_only(proxies, trusted, monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own, which has no say
    app = create_app(make_recommender(20), ServiceSettings(clients=ClientSettings(0.001, 1, proxies)))
    config = service._server_config(app)
    config.load()
    asked = config.loaded_app
    while asked is not app and not isinstance(asked, ProxyHeadersMiddleware):
        asked = asked.app
    assert isinstance(asked, ProxyHeadersMiddleware) == trusted
    with TestClient(app, "http://localhost"):  # its threads
        with_proxy = TestClient(asked, "http://localhost", client=("127.0.0.1", 1))
        statuses = [
            with_proxy.get("/items/item-1", headers={"x-forwarded-for": forwarded}).status_code
            for forwarded in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "9.9.9.9, 192.0.2.2, 10.9.9.9")
        ]
    assert statuses == ([200, 200, 429, 429] if trusted else [200, 429, 429, 429])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"client_rate": -1.0}, "client_rate must be at least 0"),
        ({"client_rate": float("nan")}, "client_rate must be at least 0"),
        ({"client_burst": 0}, "client_burst at least 1"),
        ({"trusted_proxies": ("gateway",)}, "trusted proxy 'gateway' must be an address or a network"),
        ({"trusted_proxies": ("*",)}, "must be an address or a network"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(DataError, match=message):
        ClientSettings(**wrong)
