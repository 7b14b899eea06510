"""A bucket in a server of this machine that speaks the protocol of S3."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "FSSPEC_S3")


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket, which processes that are started meanwhile reach as well."""
    pytest.importorskip("s3fs", reason="needs s3fs: pip install s3fs")
    server_module = pytest.importorskip("moto.server", reason="needs a server of S3: pip install 'moto[server]'")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    _, port = server.get_host_and_port()
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    os.environ["FSSPEC_S3"] = json.dumps({"endpoint_url": f"http://127.0.0.1:{port}"})
    import fsspec

    fsspec.config.set_conf_env(fsspec.config.conf)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("tests")
    yield "s3://tests"
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    fsspec.config.conf.pop("s3", None)
    server.stop()
