"""An S3 server on loopback (moto's) with faults, in a process of its own.

python tests/store_server.py PORT_FILE

POST /_faults takes a JSON list of rules {"method", "match", "fault", "times"}; the first rule that
fits a request is applied `times` times. Faults: 503, cut (the connection ends within the body),
slow (a pause before the answer), wrong (a flipped byte), hold (no answer until the next rules).
GET /_log lists all requests since the last rules.
"""

import json
import logging
import re
import socket
import sys
import threading
import time
from pathlib import Path

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_SLOW = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Faults:
    """WSGI middleware that applies the rules."""

    def __init__(self, app):
        self._app, self._lock = app, threading.Lock()
        self._rules, self._log, self._generation = [], [], 0

    def __call__(self, environ, start_response):
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/_faults":
            content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            with self._lock:
                self._rules, self._log = json.loads(content), []
                self._generation += 1
            return _respond(start_response, "200 OK", b"")
        if path == "/_log":
            return _respond(start_response, "200 OK", json.dumps(self._log).encode())
        with self._lock:
            self._log.append(f"{method} {path}")
            generation = self._generation
            fault = self._next_fault(method, f"{path}?{environ['QUERY_STRING']}")
        if fault == "503":
            _drain(environ)
            return _respond(start_response, "503 Slow Down", b"" if method == "HEAD" else _SLOW)
        if fault == "slow":
            time.sleep(0.5)
        while fault == "hold" and generation == self._generation:
            time.sleep(0.05)
        if fault == "cut" and method in ("PUT", "POST"):
            environ["wsgi.input"].read(1)
            _disconnect(environ)
        body = self._app(environ, start_response)
        if fault in ("cut", "wrong"):
            return _damaged(b"".join(body), fault, environ)
        return body

    def _next_fault(self, method, path):
        for rule in self._rules:
            fits = rule.get("method", method) == method and re.search(rule["match"], path)
            if fits and rule["times"] > 0:
                rule["times"] -= 1
                return rule["fault"]
        return ""


def _drain(environ):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _respond(start_response, status, body):
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]


def _disconnect(environ):
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def _damaged(body, fault, environ):
    if fault == "wrong":
        yield bytes([body[0] ^ 1]) + body[1:]
        return
    yield body[: len(body) // 2]
    _disconnect(environ)


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


def main():
    logging.disable(logging.CRITICAL)
    app = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    file = Path(sys.argv[1])
    file.with_suffix(".new").write_text(str(server.port))
    file.with_suffix(".new").rename(file)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until the tests end


if __name__ == "__main__":
    main()
