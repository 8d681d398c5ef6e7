"""Helpers of the tests of the web application."""

import socket
import threading
import time
from contextlib import contextmanager

import uvicorn
from starlette.testclient import TestClient

from jdance.serve.app import create_app
from jdance.serve.jobs import Limits
from jdance.serve.service import configure
from jdance.serve.worker import Priority


@contextmanager
def application(recognizer, options=None, **limits):
    """A client of the application; `client.server` is its state.

    Args:
        recognizer: has a pose network.
        options: further arguments of `create_app`.
        **limits: see `Limits`.
    """
    app = create_app(recognizer, Limits(**limits), **(options or {}))
    with TestClient(app, base_url="http://localhost") as client:
        client.server = app.state.server
        yield client


@contextmanager
def running(recognizer, **limits):
    """Serves on a free port in a thread; yields the port and the state of the application."""
    app = create_app(recognizer, Limits(**limits))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(configure(app))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1], app.state.server
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def held(server):
    """Keeps the recognizer busy."""
    release = threading.Event()
    server.worker.submit(Priority.LIVE, release.wait)
    try:
        yield
    finally:
        release.set()


def upload(client, data, name="photo.jpg", **options):
    """Uploads a file; returns the path of its job."""
    response = client.post("/api/jobs", params={"name": name, **options}, content=data)
    assert response.status_code == 201, response.text
    return f"/api/jobs/{response.json()['id']}"


def wait(client, job, timeout=120):
    """Polls a job as the page does, until it ends; returns its last status with all frames."""
    frames, offset, deadline = [], 0, time.monotonic() + timeout
    while True:
        status = client.get(job, params={"from": offset}).json()
        frames += status["frames"]
        offset = status["next"]
        if status["state"] in ("done", "failed", "cancelled") and not status["frames"]:
            return status | {"frames": frames}
        assert time.monotonic() < deadline, status
        time.sleep(0.02)


def wait_for(condition, timeout=60):
    """Waits until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
