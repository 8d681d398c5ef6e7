"""The S3 server of store_server.py for tests, and its faults."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT

from jdance.remote import copies, objects

pytest.importorskip("moto.moto_server", reason="needs moto's server (the extra test)")
pytest.importorskip("s3fs", reason="needs the extra remote")

BUCKET = "s3://dances"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "JDANCE_RETRY_SECONDS": "20",
}  # fmt: skip


class Store:
    """A running server with one empty bucket.

    Attributes:
        url: of the server.
        variables: environment variables with which programs use it.
    """

    def __init__(self, folder: Path):
        file = folder / "port"
        self._server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "store_server.py"), str(file)],
            stdin=subprocess.PIPE,
        )
        while not file.exists():
            assert self._server.poll() is None
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{file.read_text()}"
        self.variables = {**VARIABLES, "AWS_ENDPOINT_URL": self.url}

    def faults(self, *rules):
        """Replaces the server's rules by (fault, method, match, times)."""
        names = ("fault", "method", "match", "times")
        body = json.dumps([dict(zip(names, rule, strict=True)) for rule in rules]).encode()
        request = urllib.request.Request(f"{self.url}/_faults", data=body, method="POST")
        with urllib.request.urlopen(request):
            pass

    def log(self):
        """The requests since the last rules, such as "GET /dances/a.txt"."""
        with urllib.request.urlopen(f"{self.url}/_log") as response:
            return json.load(response)

    def close(self):
        self._server.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    yield store
    store.close()


@pytest.fixture
def store(server, monkeypatch, tmp_path):
    """The server with an empty bucket, for this process, and a cache of its own."""
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JDANCE_CACHE", str(tmp_path / "cache"))
    objects._filesystem.cache_clear()
    objects._filesystem("s3").mkdir(BUCKET)
    server.faults()
    yield server
    server.faults()
    objects._filesystem("s3").rm(BUCKET, recursive=True)
    objects._filesystem.cache_clear()


@pytest.fixture
def remote_data(store, tiny_data):
    """The address of the tiny data set in the store."""
    copies.upload_folder(tiny_data, f"{BUCKET}/data")
    return f"{BUCKET}/data"


def variables():
    """The environment of this process as far as stores need it, for `programs.Script`."""
    names = ("AWS_", "JDANCE_CACHE", "JDANCE_RETRY")
    return {name: value for name, value in os.environ.items() if name.startswith(names)}
