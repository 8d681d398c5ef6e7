"""The web application against other sites, other users, and clients that misbehave."""

import gc
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import spots
from conftest import ROOT
from programs import Script, program
from serving import application, running, upload, wait, wait_for
from starlette.websockets import WebSocketDisconnect

from jdance.serve.security import is_loopback

PEOPLE = [(40, 70), (150, 70)]


@pytest.fixture(scope="module")
def recognizer():
    return spots.recognizer()


def test_responses_forbid_foreign_content(recognizer):
    with application(recognizer) as client:
        page = client.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        # The page needs nothing that the policy forbids, and nothing from elsewhere.
        assert not re.search(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", page.text)
        names = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text))
        while names:
            name = names.pop()
            response = client.get(name)
            assert response.status_code == 200, name
            assert not re.search(r"https?://\w", response.text), name
            names |= set(re.findall(r'from "(/static/[^"]+)"', response.text)) - {name}


@pytest.mark.parametrize("path", [
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
    "/static/app.py", "/api/jobs/..", "/api/jobs/../../etc/passwd", "/api/jobs/x/files/json",
    "/api/jobs/x/media", "/api/jobs/x/keyframes/0", "/api/jobs/x/keyframes/-1", "/etc/passwd",
])  # fmt: skip
def test_no_other_files_are_served(recognizer, path):
    with application(recognizer) as client:
        response = client.get(path)
        assert response.status_code == 404 and "root:" not in response.text


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "[",
                                  "127.0.0.1.evil.example:80"])  # fmt: skip
def test_other_host_names_are_refused(recognizer, host):
    with application(recognizer) as client:
        for path in ("/", "/api/info"):
            assert client.get(path, headers={"Host": host}).status_code == 403
        for good in ("localhost:99", "127.0.0.1", "[::1]:8765", "LOCALHOST"):
            assert client.get("/api/info", headers={"Host": good}).status_code == 200


def test_other_sites_are_refused(recognizer):
    photo = spots.jpeg(PEOPLE)
    with application(recognizer) as client:
        for origin in ("http://evil.example", "null", "http://localhost:81", "http://[", ""):
            headers = {"Origin": origin}
            response = client.post("/api/jobs", content=photo, headers=headers)
            assert response.status_code == 403
            with (
                pytest.raises(WebSocketDisconnect),
                client.websocket_connect("ws://localhost/api/live", headers=headers),
            ):
                pass
        assert client.get("/api/info", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.get("/", headers=link).status_code == 200
        assert not list(client.server.jobs.root.iterdir())
        own = {"Origin": "http://localhost"}
        assert client.post("/api/jobs", content=photo, headers=own).status_code == 201
        with client.websocket_connect("ws://localhost/api/live", headers=own):
            pass


def test_token(recognizer):
    options = dict(local=False, token="secret-é", cookie="jdance-1")
    with application(recognizer, options) as client:
        host = {"Host": "192.168.1.5:8765"}
        for path in ("/", "/?token=wrong", "/api/info", "/static/app.js", "/api/info?token="):
            response = client.get(path, headers=host, follow_redirects=False)
            assert response.status_code == 401 and "secret" not in response.text
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("ws://localhost/api/live", headers=host),
        ):
            pass
        wrong = {**host, "Cookie": "jdance-1=wrong; x"}
        assert client.get("/", headers=wrong).status_code == 401
        response = client.get(
            "/", params={"token": "secret-é", "a": "b"}, headers=host, follow_redirects=False
        )
        assert response.status_code == 303 and response.headers["location"] == "/?a=b"
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=lax" in cookie.lower()
        good = {**host, "Cookie": cookie.partition(";")[0]}
        assert client.get("/", headers=good).status_code == 200
        assert client.get("/api/info", headers=good).status_code == 200
        assert client.get("/api/info", params={"token": "secret-é"}).status_code == 200
        with client.websocket_connect("ws://localhost/api/live", headers=good):
            pass
        # The token does not help other sites.
        foreign = {**good, "Origin": "http://evil.example"}
        assert client.post("/api/jobs", content=b"x", headers=foreign).status_code == 403


def test_loopback_names():
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "192.168.1.1", "localhost.x", "1"]))


def _send(port, text):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(text.encode())
    return connection


def _post(port, length):
    return _send(port, f"POST /api/jobs?name=a.jpg HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n")


def test_aborted_and_stalled_uploads(recognizer):
    with running(recognizer, jobs=1, stall_seconds=0.5) as (port, server):
        root = server.jobs.root
        for ending in ("closed", "reset", "stalled"):
            connection = _post(port, "Content-Length: 100000")
            connection.sendall(bytes(5000))
            wait_for(lambda: list(root.glob("*/upload*")))
            if ending == "reset":
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if ending == "stalled":
                assert connection.recv(100).startswith(b"HTTP/1.1 408")
            connection.close()
            wait_for(lambda: not list(root.iterdir()))
        # The only place is free again.
        with httpx2.Client(base_url=f"http://localhost:{port}") as client:
            assert wait(client, upload(client, spots.jpeg(PEOPLE)))["state"] == "done"


def test_large_uploads_are_refused_before_they_are_sent(recognizer):
    with running(recognizer, upload_bytes=10**6) as (port, server):
        connection = _post(port, "Content-Length: 1000001")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
        connection.close()
        connection = _post(port, "Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(16):
            connection.sendall(chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
        connection.close()
        assert not list(server.jobs.root.iterdir())


def _memory():
    """Returns the resident memory of this process in MiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_twenty_uploads_at_once(recognizer, tmp_path):
    """Each gets its own result; threads and memory do not grow."""
    spots.video(tmp_path / "x.webm", frames=8)
    clip = (tmp_path / "x.webm").read_bytes()

    def use(client, number):
        x = 20 + 8 * number
        if number % 5 == 0:
            return len(wait(client, upload(client, clip, f"{number}.webm"))["frames"]) == 8
        status = wait(client, upload(client, spots.jpeg([(x, 70)]), f"{number}.jpg"))
        (person,) = status["frames"][0]["people"]
        left, _, width, _ = person["box"]
        return status["name"] == f"{number}.jpg" and abs(left + width / 2 - x) < 4

    measured = []
    with running(recognizer, jobs=20, results=20) as (port, server):
        for _ in range(4):
            with (
                httpx2.Client(base_url=f"http://localhost:{port}", timeout=120) as client,
                ThreadPoolExecutor(20) as pool,
            ):
                assert all(pool.map(lambda n, c=client: use(c, n), range(20)))
            server.jobs.expire()
            wait_for(lambda: len(list(server.jobs.root.iterdir())) == 20)
            # Those of anyio end late, and are 40 at most.
            own = [t for t in threading.enumerate() if not t.name.startswith("AnyIO")]
            measured.append((len(own), _memory()))
    threads, memory = zip(*measured, strict=True)
    assert max(threads[1:]) <= threads[0]
    assert memory[-1] <= memory[1] + 40


def _start(tmp_path, *arguments):
    words = [ROOT / "launch" / "serve.py", "--pose=stage", "--port=0", *arguments]
    stdout = tmp_path / "stdout"
    script = Script(words, stdout, tmp_path / "stderr")
    pattern = re.compile(r"(https?)://127\.0\.0\.1:(\d+)/(\?token=(\S+))?")
    read = lambda: stdout.read_text() if stdout.exists() else ""  # noqa: E731
    wait_for(lambda: pattern.search(read()) or script.poll() is not None, 300)
    found = pattern.search(read())
    assert found, (tmp_path / "stderr").read_text()
    return script, found[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_program_ends_cleanly(tmp_path, monkeypatch, number):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    script, address = _start(tmp_path)
    try:
        with httpx2.Client(base_url=address) as client:
            assert client.get("/api/info").json()["pose"] == "stage"
            wait(client, upload(client, spots.jpeg(PEOPLE)))
            camera = socket.create_connection(("127.0.0.1", int(address.split(":")[2].strip("/"))))
            camera.sendall(b"GET /api/info HTTP/1.1\r\nHost: localhost\r\n\r\n")  # stays open
            script.send_signal(number)
            assert script.wait(60) == 0
            camera.close()
    finally:
        script.kill()
    assert (tmp_path / "stderr").read_text() == ""
    assert not list((tmp_path / "temporary").glob("jdance-serve-*"))


def test_program_with_https_and_a_token(tmp_path):
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
               "/CN=localhost", "-keyout", "key.pem", "-out", "certificate.pem"]  # fmt: skip
    try:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    script, address = _start(
        tmp_path, "--host=0.0.0.0", f"--certificate={certificate}", f"--key={key}"
    )
    try:
        assert address.startswith("https:") and len(address.partition("token=")[2]) >= 32
        context = ssl.create_default_context(cafile=certificate)
        context.check_hostname = False
        cookies = urllib.request.HTTPCookieProcessor()
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), cookies)
        with opener.open(address) as page:
            assert b"jdance" in page.read() and "token" not in page.url
        (cookie,) = cookies.cookiejar
        assert cookie.secure
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 0
    finally:
        script.kill()


def test_invalid_arguments_of_the_program(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags, message in (
            ((f"--port={port}",), "cannot listen there"),
            (("--host=203.0.113.1",), "cannot listen there"),
            (("--key=x",), "give its --certificate"),
            ((f"--certificate={tmp_path / 'x'}",), "cannot be used with the key"),
            (("--port=0", "--model=nothing"), "nothing"),
        ):
            _, error = program("serve", "--pose=stage", *flags, status=1)
            assert message in error
