import pytest

from tiger.serving.hosts import HostRules
from tiger.serving.settings import EdgeSettings
from tiger.utils.errors import DataError


def refused(rules, host, method="GET", origin=None):
    headers = [] if host is None else [(b"host", host.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    return rules.refusal(method, headers)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.:1", "127.0.0.1:8000", "[::1]:80", "[::1]"]
)
def test_this_machine_is_always_known(host):
    assert refused(HostRules.from_settings(EdgeSettings()).bound_to("127.0.0.1"), host) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.5", "", None, "[::2]", "127.0.0.1.x"],
)
def test_other_names_are_not(host):
    for method in ("GET", "POST", "DELETE"):
        assert refused(HostRules.from_settings(EdgeSettings()).bound_to("127.0.0.1"), host, method)


def test_two_host_headers_are_refused():
    assert HostRules().refusal("GET", [(b"host", b"localhost"), (b"host", b"localhost")])


def test_allowed_names_and_the_bound_address():
    rules = HostRules.from_settings(EdgeSettings(allowed_hosts=("Shop.example", "*.inner.example"))).bound_to(
        "10.0.0.5"
    )
    for host in ("shop.example:443", "a.inner.example", "a.b.inner.example:80", "10.0.0.5:8000"):
        assert refused(rules, host) is None, host
    for host in ("a.shop.example", "inner.example", "xinner.example", "10.0.0.6"):
        assert refused(rules, host), host
    assert refused(HostRules.from_settings(EdgeSettings(allowed_hosts=("*",))), "evil.example") is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_on_all_addresses_any_address_and_the_machines_name_will_do(address, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Box")
    rules = HostRules.from_settings(EdgeSettings()).bound_to(address)
    for host in ("192.168.3.4:8000", "[fe80::1]:80", "box:8000"):
        assert refused(rules, host) is None, host
    assert refused(rules, "evil.example") and refused(rules, "1.2.3.4.evil.example")


def test_pages_of_other_sites_change_nothing():
    rules = HostRules.from_settings(EdgeSettings(allowed_origins=("https://Shop.example",)))
    for method in ("POST", "DELETE", "PUT"):
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "https://shop.example.evil",
            "localhost:80",
        ):
            assert "may not" in refused(rules, "localhost:8000", method, origin), origin
        for origin in ("http://localhost:8000", "https://shop.example", None):
            assert refused(rules, "localhost:8000", method, origin) is None, origin
    assert refused(rules, "localhost:8000", "GET", "http://evil.example") is None  # a browser keeps the answer from it
    anybody = HostRules.from_settings(EdgeSettings(allowed_origins=("*",)))
    assert refused(anybody, "localhost", "POST", "http://evil.example") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed_hosts": ("http://shop.example",)},
        {"allowed_hosts": ("shop.example:80",)},
        {"allowed_hosts": ("",)},
        {"allowed_origins": ("shop.example",)},
        {"allowed_origins": ("https://shop.example/",)},
        {"max_connections": 0},
        {"keep_alive_seconds": 0.0},
        {"receive_seconds": float("nan")},
        {"grace_seconds": -1.0},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(DataError, match="must be"):
        EdgeSettings(**wrong)
