"""The camera of the web application, and the order of its work."""

import json
import threading
import time

import numpy as np
import pytest
import spots
from serving import application, held, running, upload, wait, wait_for
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from jdance.serve import live
from jdance.serve.live import MAX_FRAME_BYTES, LiveSession, jpeg_size
from jdance.serve.worker import Priority, Stopped, Worker

PEOPLE = [(40, 70), (150, 70)]


@pytest.fixture(scope="module")
def recognizer():
    return spots.recognizer()


@pytest.fixture
def client(recognizer):
    with application(recognizer) as client:
        yield client


def test_frames_are_tracked(client):
    seen = []
    with client.websocket_connect("ws://localhost/api/live?lag=0.1") as camera:
        for number in range(20):
            camera.send_bytes(spots.jpeg([(40 + 2 * number, 70), (150, 70)]))
            answer = camera.receive_json()
            assert answer["done"] == number and answer["milliseconds"] > 0
            seen += answer["frames"]
            time.sleep(0.02)
    assert [frame["index"] for frame in seen] == list(range(len(seen))) and len(seen) >= 10
    times = [frame["time"] for frame in seen]
    assert times == sorted(times) and 0 <= times[0] < 5
    for frame in seen:
        assert [person["track"] for person in frame["people"]] == [0, 1]
        x = [person["box"][0] + person["box"][2] / 2 for person in frame["people"]]
        assert x == pytest.approx([40 + 2 * frame["index"], 150], abs=6)


def test_frames_without_lag_are_answered_at_once(client):
    with client.websocket_connect("ws://localhost/api/live?lag=0") as camera:
        for number in range(5):
            camera.send_bytes(spots.jpeg(PEOPLE))
            (frame,) = camera.receive_json()["frames"]
            assert frame["index"] == number
            # A track is confirmed by its third frame.
            assert len(frame["people"]) == (2 if number >= 2 else 0)


def test_late_frames_are_dropped(recognizer):
    with (
        running(recognizer) as (port, server),
        connect(f"ws://localhost:{port}/api/live?lag=0") as camera,
    ):
        camera.send(spots.jpeg(PEOPLE))
        assert json.loads(camera.recv())["done"] == 0  # compiled
        with held(server):
            for _ in range(30):
                camera.send(spots.jpeg(PEOPLE))
            time.sleep(0.5)
        done = [json.loads(camera.recv())["done"]]
        while done[-1] < 30:
            done.append(json.loads(camera.recv())["done"])
        assert len(done) <= 3  # the one in progress, perhaps one more, and the newest


def _with_size(data, height, width):
    """Claims another size in the header of a JPEG."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def test_unreadable_frames(client):
    good = spots.jpeg(PEOPLE)
    assert jpeg_size(good) == (144, 192)
    bad = [b"", b"x", b"\xff\xd8", b"\xff\xd8\xff\xc0", good[:50], _with_size(good, 60000, 60000),
           b"\x89PNG\r\n\x1a\n", _with_size(good, 0, 0), bytes(1000)]  # fmt: skip
    with client.websocket_connect("ws://localhost/api/live?lag=0") as camera:
        for data in bad:
            camera.send_bytes(data)
            answer = camera.receive_json()
            assert answer["error"].startswith("frame: ") and answer["frames"] == []
        camera.send_bytes(good)
        assert len(camera.receive_json()["frames"]) == 1
        camera.send_text("text")  # ends the connection
        with pytest.raises(WebSocketDisconnect):
            camera.receive_json()


def test_large_messages_end_the_connection(recognizer):
    with running(recognizer) as (port, server):
        with connect(f"ws://localhost:{port}/api/live") as camera:
            camera.send(bytes(MAX_FRAME_BYTES + 1))
            with pytest.raises(ConnectionClosed) as closed:
                camera.recv()
            assert closed.value.rcvd.code == 1009
        wait_for(lambda: server.cameras == 0)


def test_number_of_cameras(recognizer):
    with application(recognizer, cameras=1) as client:
        first, second = (client.websocket_connect("ws://localhost/api/live") for _ in range(2))
        with first, second, pytest.raises(WebSocketDisconnect) as refused:
            second.receive_json()
        assert refused.value.code == 1013 and "in use already" in refused.value.reason
        wait_for(lambda: client.server.cameras == 0)
        with client.websocket_connect("ws://localhost/api/live?lag=0") as camera:
            camera.send_bytes(spots.jpeg(PEOPLE))
            assert camera.receive_json()["done"] == 0
        bad = client.websocket_connect("ws://localhost/api/live?lag=9")
        with bad, pytest.raises(WebSocketDisconnect):
            bad.receive_json()


def test_cameras_that_go_away(recognizer, monkeypatch):
    """Their place is free again: closed in the middle of a frame, aborted, or silent."""
    monkeypatch.setattr(live, "_SILENCE_SECONDS", 0.5)
    with running(recognizer, cameras=1) as (port, server):
        address = f"ws://localhost:{port}/api/live?lag=0"
        before = None
        for ending in ("close", "abort", "silent") * 2:
            with connect(address) as camera:
                camera.send(spots.jpeg(PEOPLE))
                if ending == "silent":
                    camera.recv()
                    with pytest.raises(ConnectionClosed):
                        camera.recv()
                elif ending == "abort":
                    camera.socket.close()
            wait_for(lambda: server.cameras == 0)
            before = before or threading.active_count()
        assert threading.active_count() <= before + 1


def test_camera_while_a_video_is_processed(recognizer, tmp_path):
    spots.video(tmp_path / "x.webm", frames=200)
    with application(recognizer) as client:
        with client.websocket_connect("ws://localhost/api/live?lag=0") as camera:
            camera.send_bytes(spots.jpeg(PEOPLE))
            camera.receive_json()
            job = upload(client, (tmp_path / "x.webm").read_bytes(), "x.webm", annotate=0)
            answered = 0
            while client.get(job, params={"from": 10**9}).json()["state"] != "done":
                camera.send_bytes(spots.jpeg(PEOPLE))
                answered += len(camera.receive_json()["frames"])
        assert answered >= 10  # neither waits for the other to end
        assert len(wait(client, job)["frames"]) == 200


def test_worker_takes_calls_by_priority():
    worker, order = Worker(), []
    release = threading.Event()
    worker.submit(Priority.LIVE, release.wait)
    calls = [(Priority.VIDEO, "v1"), (Priority.VIDEO, "v2"), (Priority.IMAGE, "i1"),
             (Priority.LIVE, "l1"), (Priority.LIVE, "l2"), (Priority.IMAGE, "i2")]  # fmt: skip
    futures = [worker.submit(p, lambda name=name: order.append(name)) for p, name in calls]
    dropped = worker.submit(Priority.VIDEO, lambda: order.append("cancelled"))
    assert dropped.cancel()
    release.set()
    for future in futures:
        future.result()
    assert order == ["l1", "l2", "i1", "i2", "v1", "v2"]
    failing = worker.submit(Priority.LIVE, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result()
    release.clear()
    worker.submit(Priority.LIVE, release.wait)
    waiting = worker.submit(Priority.LIVE, int)
    closing = threading.Thread(target=worker.close)
    closing.start()
    time.sleep(0.05)
    release.set()
    closing.join()
    with pytest.raises(Stopped):
        waiting.result(5)
    with pytest.raises(Stopped):
        worker.submit(Priority.LIVE, int).result(5)


def test_memory_of_a_session_is_bounded(recognizer):
    session = LiveSession(recognizer)
    data = spots.jpeg(PEOPLE)
    for number in range(60):
        session.add(number, number / 30, data)
    stream = session._stream._stream
    assert len(stream._pending) < 10 and len(stream._past) < 20


class _FakeClassifier:
    """Calls every track a spin."""

    classes, min_confidence, min_fps = ["spin", "walk"], 0.0, 6.0

    def __call__(self, keypoints, times, ends):
        return np.array([0.9, 0.1])


def test_tracks_are_classified_if_there_are_enough_frames(recognizer):
    session = LiveSession(recognizer, _FakeClassifier(), lag=0.0)
    data, when, motions, indices, tracks = spots.jpeg(PEOPLE), 0.0, [], [], set()
    for fps in (10.0, 2.0, 10.0):
        for _ in range(30):
            when += 1 / fps
            for frame in session.add(len(indices), when, data):
                indices.append(frame["index"])
                tracks |= {person["track"] for person in frame["people"]}
        motions.append({person["motion"] for person in frame["people"]})
    assert motions[0] == motions[2] == {"spin"} and "spin" not in motions[1]
    assert indices == list(range(90)) and tracks == {0, 1}
