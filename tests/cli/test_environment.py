"""Options of `tiger serve` from environment variables."""

import argparse

import pytest

from tests.conftest import make_recommender
from tiger.cli.environment import Setting
from tiger.cli.main import main
from tiger.cli.serving import add_serving_verbs

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tiger-recommender[serve]'")

from tiger.serving import service  # noqa: E402
from tiger.serving.settings import ClientSettings  # noqa: E402


@pytest.fixture
def served(monkeypatch):
    """What `serve` was called with."""
    found = []
    monkeypatch.setattr(service, "serve", lambda app, host, port: found.append((app, host, port)))
    monkeypatch.setattr(service, "create_app", lambda recommender, settings, *source: settings)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "model"
    make_recommender(20).save_pretrained(folder)
    return str(folder)


def options() -> dict[str, argparse.Action]:
    """The options of `tiger serve`, by their variables."""
    verbs = argparse.ArgumentParser().add_subparsers()
    add_serving_verbs(verbs)
    actions = [action for action in verbs.choices["serve"]._actions if action.dest not in ("help",)]
    assert all(isinstance(action.default, Setting) for action in actions), "an option without a variable"
    return {action.default.variable: action for action in actions}


def test_every_option_has_a_variable_of_its_name():
    assert all(variable == f"TIGER_{action.dest.upper()}" for variable, action in options().items())
    assert {"TIGER_MODEL", "TIGER_PORT", "TIGER_MAX_BATCH", "TIGER_TOKEN_FILE", "TIGER_LOG_FORMAT"} <= set(options())
    assert not any(
        "token" in option and "file" not in option and "for" not in option
        for action in options().values()
        for option in action.option_strings
    )  # others could read it


def test_variables_reach_the_service_and_the_command_line_wins(served, model, monkeypatch):
    values = {
        "MODEL": model,
        "PORT": "81",
        "HOST": "localhost",
        "MAX_BATCH": "5",
        "MAX_DELAY_MS": "1.5",
        "READ_ONLY": "yes",
        "ALLOWED_HOSTS": "a.example, b.example",
        "LOG_FORMAT": "json",
        "CLIENT_RATE": "2.5",
        "TRUSTED_PROXIES": "10.0.0.5 10.1.0.0/16",
        "TOKEN": "0123456789abcdef",
        "TOKEN_FOR": "all",
        "MAX_QUEUE": "",  # as if it were absent
    }
    for name, value in values.items():
        monkeypatch.setenv(f"TIGER_{name}", value)
    main(["serve"])
    main(["serve", model, "--max-batch", "7", "--no-read_only", "--port", "82", "--allowed_hosts", "c.example"])
    (first, *address), (second, *other) = served
    assert address == ["localhost", 81] and other == ["localhost", 82]
    assert (first.max_batch, first.max_delay_ms, first.max_queue, first.read_only) == (5, 1.5, 1024, True)
    assert first.edge.allowed_hosts == ("a.example", "b.example") and first.log.form == "json"
    assert first.clients == ClientSettings(2.5, 20, ("10.0.0.5", "10.1.0.0/16"))
    assert first.access.token == "0123456789abcdef" and first.access.token_for == "all"
    assert "0123456789abcdef" not in repr(first)
    assert (second.max_batch, second.read_only, second.edge.allowed_hosts) == (7, False, ("c.example",))


@pytest.mark.parametrize(
    "variable, value, why",
    [
        ("TIGER_PORT", "tcp://10.0.0.1:8000", "0 to 65535"),
        ("TIGER_PORT", "65536", "0 to 65535"),
        ("TIGER_MAX_BATCH", "many", "a whole number is needed"),
        ("TIGER_MAX_BATCH", "0", "at least 1"),
        ("TIGER_MAX_QUEUE", "1", "max_queue must be"),
        ("TIGER_MAX_DELAY_MS", "nan", "max_delay_ms at least 0"),
        ("TIGER_GRACE_SECONDS", "-1", "grace_seconds at least 0"),
        ("TIGER_KEEP_ALIVE_SECONDS", "soon", "a number is needed"),
        ("TIGER_CLIENT_RATE", "-1", "client_rate must be at least 0"),
        ("TIGER_TRUSTED_PROXIES", "gateway", "trusted proxy 'gateway' must be an address"),
        ("TIGER_READ_ONLY", "maybe", "give 1 or 0"),
        ("TIGER_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("TIGER_ALLOWED_HOSTS", "http://a.example", "without scheme"),
        ("TIGER_TOKEN", "short", "at least 16"),
        ("TIGER_TOKEN_FILE", "/no/such/file", "/no/such/file is no file"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(served, model, monkeypatch, capsys, variable, value, why):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stop:
        main(["serve", model])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and not served
    assert error.count("\n") == 1 and why in error
    assert variable in error or variable in ("TIGER_TOKEN", "TIGER_TOKEN_FILE")  # the file is named


def test_the_network_needs_a_token(served, model, monkeypatch, capsys, tmp_path):
    def refused(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["serve", model, *arguments])
        assert stop.value.code == 2
        return capsys.readouterr().err

    for host in ("0.0.0.0", "::", "192.168.1.5", "", "tiger.example"):
        assert "--token_file or TIGER_TOKEN" in refused("--host", host)
    assert "token_for is all, and there is no token" in refused("--token_for", "all")
    (tmp_path / "token").write_text("0123456789abcdef\n")
    (tmp_path / "empty").write_text("\n")
    assert "is empty" in refused("--token_file", str(tmp_path / "empty"))
    (tmp_path / "two").write_text("0123456789abcdef\n0123456789abcdef\n")
    assert "one line of ASCII" in refused("--token_file", str(tmp_path / "two"))
    assert not served
    for allowed in (["--token-file", str(tmp_path / "token")], ["--read_only"], ["--insecure"]):
        main(["serve", model, "--host", "0.0.0.0", *allowed])
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        main(["serve", model, "--host", host])
    assert len(served) == 7 and served[0][0].access.token == "0123456789abcdef"
    monkeypatch.setenv("TIGER_TOKEN", "fedcba9876543210")
    main(["serve", model, "--token_file", str(tmp_path / "token")])
    assert served[-1][0].access.token == "0123456789abcdef"  # the command line wins
    monkeypatch.setenv("TIGER_TOKEN_FILE", str(tmp_path / "token"))
    assert "both set" in refused()


def test_no_model_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["serve"])
    assert "TIGER_MODEL" in capsys.readouterr().err
