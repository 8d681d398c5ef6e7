"""Runs the web application as a server of its own."""

import secrets
import socket
from pathlib import Path
from typing import Any

import jax
import uvicorn
from starlette.applications import Starlette

from jdance.recognize.recognizer import Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.serve.app import create_app
from jdance.serve.jobs import Limits
from jdance.serve.live import MAX_FRAME_BYTES
from jdance.serve.security import is_loopback
from jdance.serve.worker import SMALL_CANVAS

_GRACE_SECONDS = 2  # for requests in progress when the server ends


def serve(
    recognizer: Recognizer,
    limits: Limits,
    listener: socket.socket,
    *,
    labels: dict[str, str],
    classifier: SequenceClassifier | None = None,
    token: bool | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, whose former handlers are called in the end.

    Args:
        recognizer: has a pose network.
        limits: of the server.
        listener: the listening socket.
        labels, classifier: see `app.Server`.
        token: whether a token is required; None: unless the socket is a loopback one.
        certificate, key: files in PEM format for HTTPS; None: HTTP.
    """
    host, port = listener.getsockname()[:2]
    local = is_loopback(host)
    secret = secrets.token_urlsafe(24) if token or (token is None and not local) else ""
    app = create_app(
        recognizer,
        limits,
        labels=labels,
        classifier=classifier,
        local=local,
        token=secret,
        cookie=f"jdance-{port}",
    )
    try:
        server = app.state.server
        for images in {1, jax.device_count()}:
            server.programs.prepare(recognizer, images, (SMALL_CANVAS, SMALL_CANVAS))
        query = f"?token={secret}" if secret else ""
        scheme = "https" if certificate else "http"
        for name in _names(host):
            print(f"{scheme}://{name}:{port}/{query}", flush=True)
        config = configure(app, ssl_certfile=certificate, ssl_keyfile=key)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        app.state.server.close()


def configure(app: Starlette, **options: Any) -> uvicorn.Config:
    """Returns the server's configuration, with further options of uvicorn."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        http="h11",
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_max_queue=2,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        **options,
    )


def _names(host: str) -> list[str]:
    """Returns the names under which a listening address can be opened."""
    if host not in ("0.0.0.0", "::"):
        return [f"[{host}]" if ":" in host else host]
    names = ["127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # selects an interface; sends nothing
            names.append(probe.getsockname()[0])
        except OSError:  # no network
            pass
    return names
