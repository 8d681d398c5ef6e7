"""The web application: jobs, limits, protection, and the camera."""

import base64
import hashlib
import io
import os
import re
import tempfile
import threading
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import spots
from serving import application, held, upload, wait, wait_for

from jdance.data import images, openpose_json, videos
from jdance.recognize import formats, timeline
from jdance.recognize.video import Settings, recognize_video
from jdance.serve import recognition
from jdance.serve.app import display_name
from jdance.serve.jobs import Job, Jobs, Limits
from jdance.serve.worker import Priority, Stopped

PEOPLE = [(40, 70), (150, 70)]


@pytest.fixture(scope="module")
def recognizer():
    return spots.recognizer()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.webm"
    spots.video(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def client(recognizer):
    with application(recognizer) as client:
        yield client


def test_image(client):
    job = upload(client, spots.jpeg(PEOPLE), "my photo.jpg")
    status = wait(client, job)
    assert (status["state"], status["media"], status["message"]) == ("done", "image", "")
    assert status["head"] == {"width": 192, "height": 144}
    (frame,) = status["frames"]
    result = client.get(f"{job}/files/json")
    assert "my%20photo.json" in result.headers["content-disposition"]
    content = result.json()
    assert content["source"] == "my photo.jpg"
    for shown, full in zip(frame["people"], content["frames"][0]["people"], strict=True):
        assert shown["motion"] == full["motion"]
        assert shown["confidence"] == pytest.approx(max(full["probabilities"]), abs=1e-3)
        np.testing.assert_allclose(shown["keypoints"], full["keypoints"], atol=0.051)
    centers = [np.mean([p["box"][0], p["box"][0] + p["box"][2]]) for p in frame["people"]]
    np.testing.assert_allclose(centers, [40, 150], atol=3)
    for path in (f"{job}/shown", f"{job}/files/image"):
        image = images.decode(client.get(path).content)
        assert image is not None and image.shape == (144, 192, 3)
    assert client.get(f"{job}/files/timeline").status_code == 404


def test_video(client, clip, tmp_path):
    job = upload(client, clip, "dance <1>.webm")
    status = wait(client, job)
    assert (status["state"], status["message"]) == ("done", "")
    assert status["name"] == "dance _1_.webm"
    assert (status["done"], status["total"]) == (24, 24) and status["frame_milliseconds"] > 0
    assert status["files"][:4] == ["json", "timeline", "html", "video"]
    content = client.get(f"{job}/files/json").json()
    assert content["source"] == "dance _1_.webm" and len(content["frames"]) == 24
    for shown, full in zip(status["frames"], content["frames"], strict=True):
        assert (shown["index"], shown["time"]) == (full["index"], full["time"])
        assert [p["track"] for p in shown["people"]] == [p["track"] for p in full["people"]]
    assert {p["track"] for frame in status["frames"] for p in frame["people"]} == {0, 1}
    assert status["tracks"] == content["tracks"]
    (tmp_path / "x.csv").write_bytes(client.get(f"{job}/files/timeline").content)
    assert timeline.summary(timeline.read_csv(tmp_path / "x.csv")) == status["tracks"]
    report = client.get(f"{job}/files/html", params={"show": 1})
    assert "dance _1_.webm" in report.text
    # Its script is allowed by its hash, in an origin of its own.
    policy = report.headers["content-security-policy"]
    (script,) = re.findall(r'<script type="module">(.*?)</script>', report.text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "sandbox" in policy and "allow-same-origin" not in policy
    assert report.headers["content-disposition"].startswith("inline")
    path = tmp_path / f"x{videos.output_path(Path('x')).suffix}"
    path.write_bytes(client.get(f"{job}/files/video").content)
    assert len(list(videos.Video(path))) == 24
    assert status["key_frames"] and status["key_frames"][0] >= 1.0
    assert images.decode(client.get(f"{job}/keyframes/0").content) is not None
    assert client.get(f"{job}/keyframes/99").status_code == 404
    part = client.get(f"{job}/media", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == clip[10:20]


def test_part_of_a_video(client, clip):
    job = upload(client, clip, "x.webm", start=1, end=2, every=2, annotate=0)
    status = wait(client, job)
    assert [frame["time"] for frame in status["frames"]] == [1.0, 1.25, 1.5, 1.75]
    assert status["head"] == {"width": 192, "height": 144, "fps": 4, "begin": 1, "end": 2}
    assert not {"video", "rerun"} & set(status["files"])
    for wrong in ({"start": "x"}, {"start": 3, "end": 2}, {"every": 0}, {"end": "nan"}):
        response = client.post("/api/jobs", params=wrong, content=clip)
        assert response.status_code == 400 and response.json()["error"]


def test_formats_of_other_tools(client, clip, tmp_path):
    """They are the files of launch/recognize.py --format, under the user's name."""
    job = upload(client, clip, "my dance.webm", recording=1)
    status = wait(client, job)
    kinds = formats.offered(videos=True)
    assert "rerun" in kinds or not find_spec("rerun")
    assert set(status["files"]) == {"json", "timeline", "html", "video", *kinds}
    names, contents = {}, {}
    for kind in kinds:
        response = client.get(f"{job}/files/{kind}")
        disposition = unquote(response.headers["content-disposition"])
        names[kind], contents[kind] = disposition.rpartition("'")[2], response.content
    assert {kind: name.removeprefix("my dance") for kind, name in names.items()} == {
        kind: "_keypoints.zip" if kind == "openpose" else formats.FORMATS[kind].suffix
        for kind in kinds
    }
    (tmp_path / "x.webm").write_bytes(clip)
    settings = Settings(formats=kinds)
    recognize_video(client.server.recognizer, tmp_path / "x.webm", tmp_path / "y", settings)
    for kind in ("coco", "csv", "textgrid", "srt", "vtt"):
        path = tmp_path / f"y{formats.FORMATS[kind].suffix}"
        assert contents[kind] == path.read_bytes(), kind
    own = re.sub(rb' DATE="[^"]*"', b"", contents["eaf"])
    other = re.sub(rb' DATE="[^"]*"', b"", (tmp_path / "y.eaf").read_bytes())
    # The link is to the user's file beside the document, not to a path on the server.
    assert b'MEDIA_URL="./my dance.webm"' in own and own.count(b"file:") == 0
    assert re.sub(rb"<MEDIA_D[^>]*>", b"", own) == re.sub(rb"<MEDIA_D[^>]*>", b"", other)
    with zipfile.ZipFile(io.BytesIO(contents["openpose"])) as archive:
        assert len(archive.namelist()) == 24
        for name in archive.namelist():
            path = tmp_path / "y_keypoints" / name.replace("my dance", "x")
            assert archive.read(name) == path.read_bytes()

    status = wait(client, job := upload(client, spots.jpeg(PEOPLE), "p 1.jpg"))
    assert status["files"] == ["json", "image", "openpose", "coco", "csv"]
    results = client.get(f"{job}/files/coco").json()
    assert [entry["file_name"] for entry in results] == ["p 1.jpg"] * 2
    (tmp_path / "z.json").write_bytes(client.get(f"{job}/files/openpose").content)
    (frame,) = status["frames"]
    for read, person in zip(openpose_json.read(tmp_path / "z.json"), frame["people"], strict=True):
        np.testing.assert_allclose(read[:, :2], np.array(person["keypoints"])[:, :2], atol=0.051)


def test_long_names(client, clip):
    """More bytes than a file name may have."""
    for suffix, data in ((".webm", clip), (".jpg", spots.jpeg(PEOPLE))):
        status = wait(client, upload(client, data, "ダンス" * 40 + suffix))
        assert (status["state"], status["message"]) == ("done", "")


@pytest.mark.parametrize("name", ["x.jpg", "x.heic", "x.mp4", "x.webm", "x.gif", "x", "x.exe", ""])
@pytest.mark.parametrize("data", [b"nothing", b"\xff\xd8\xff\xe0", b"GIF89a", bytes(5000)])
def test_garbage(client, name, data):
    response = client.post("/api/jobs", params={"name": name}, content=data)
    if response.status_code == 201:
        status = wait(client, f"/api/jobs/{response.json()['id']}")
        assert status["state"] == "failed"
        message = status["message"]
    else:
        assert response.status_code == 415
        message = response.json()["error"]
    assert message.startswith(name or "file") and "\n" not in message
    assert str(client.server.jobs.root) not in message


def test_files_without_a_suffix_are_recognized_by_their_content(client, clip):
    for data, media in ((spots.jpeg(PEOPLE), "image"), (clip, "video")):
        status = wait(client, upload(client, data, "file"))
        assert (status["state"], status["media"]) == ("done", media)


@pytest.mark.parametrize(("name", "shown"), [
    ("../../etc/passwd", "passwd"), ("C:\\x\\a.jpg", "a.jpg"), ("a\nb\x00.jpg", "a_b_.jpg"),
    ("..", "file"), ("", "file"), (".jpg", "jpg"), ("x" * 300 + ".webm", "x" * 110 + ".webm"),
    ("é\u202e.png", "é_.png"), ("con:a|b?.jpg", "con_a_b_.jpg"), ("/", "file"),
])  # fmt: skip
def test_names_are_for_display_only(client, name, shown):
    assert display_name(name) == shown
    job = upload(client, spots.jpeg(PEOPLE), name)
    assert wait(client, job)["name"] == shown
    # Unlike rglob, walk bears that earlier jobs are being deleted.
    walk = os.walk(client.server.jobs.root)
    stored = {name for _, folders, files in walk for name in (*folders, *files)}
    assert stored
    assert not any("passwd" in name or "x" * 20 in name for name in stored)


def test_size_limits(recognizer):
    with application(recognizer, upload_bytes=10_000, seconds=2.0) as client:
        for content in (bytes(10_001), iter([bytes(6000), bytes(6000)])):  # the second: chunked
            response = client.post("/api/jobs", params={"name": "a.jpg"}, content=content)
            assert response.status_code == 413 and "0.00954 MiB" in response.json()["error"]
        assert client.post("/api/jobs", params={"name": "a.jpg"}).status_code == 400
        assert not list(client.server.jobs.root.iterdir())


def test_length_limit(recognizer, clip):
    with application(recognizer, seconds=2.0) as client:
        status = wait(client, upload(client, clip, "a.webm"))
        assert status["state"] == "failed"
        assert status["message"].startswith("a.webm: 0.05 minutes are more than the 0.0333 ")
        assert wait(client, upload(client, clip, "a.webm", start=1.5))["state"] == "done"


def test_number_of_jobs(recognizer, clip):
    with application(recognizer, jobs=3, videos=1) as client:
        wait(client, upload(client, spots.jpeg([])))  # compiles
        wait(client, upload(client, clip, "a.webm"))
        with held(client.server):
            jobs = [upload(client, clip, f"{i}.webm") for i in range(3)]
            response = client.post("/api/jobs", params={"name": "a.webm"}, content=clip)
            assert response.status_code == 429 and "3 files in progress" in response.text
            places = [client.get(job).json() for job in jobs]
            assert [status["place"] for status in places[1:]] == [0, 1]
            assert [status["state"] for status in places[1:]] == ["queued", "queued"]
            assert client.delete(jobs[1]).status_code == 204
            assert client.get(jobs[2]).json()["place"] == 0
        assert wait(client, jobs[0])["state"] == wait(client, jobs[2])["state"] == "done"
        assert client.get(jobs[1]).status_code == 404


def test_the_annotated_image_is_chosen_by_name(recognizer, tmp_path, monkeypatch):
    job = Job(tmp_path, "photo.jpg", {"start": 0, "end": 9, "every": 1, "recording": False})
    job.media = "image"
    job.upload.write_bytes(spots.jpeg(PEOPLE))
    (tmp_path / "result.rrd").touch()  # first in the listing, as on some file systems
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *words: iter(sorted(listed(*words), reverse=True)))
    recognition.recognize(job, recognizer, recognizer, None, 600)
    assert job.files["image"] == tmp_path / "result.jpg" and job.files["image"].exists()


def test_images_do_not_wait_for_videos(recognizer, clip):
    with application(recognizer, videos=1) as client:
        with held(client.server):
            video = upload(client, clip, "a.webm")
            later = upload(client, clip, "b.webm")
            image = upload(client, spots.jpeg(PEOPLE))
        assert wait(client, image)["state"] == "done"
        assert client.get(later).json()["state"] == "queued"
        assert wait(client, video)["state"] == wait(client, later)["state"] == "done"


def test_cancel(recognizer, tmp_path):
    spots.video(tmp_path / "x.webm", frames=300)
    clip = (tmp_path / "x.webm").read_bytes()
    with application(recognizer) as client:
        root = client.server.jobs.root
        with held(client.server):  # it waits for the recognizer
            job = upload(client, clip, "a.webm")
            wait_for(lambda: client.get(job).json()["state"] == "preparing")
            assert client.delete(job).status_code == 204
            assert client.get(job).status_code == client.delete(job).status_code == 404
        wait_for(lambda: not list(root.iterdir()))
        job = upload(client, clip, "a.webm")
        wait_for(lambda: client.get(job).json()["done"] > 4)
        assert client.get(job).json()["state"] == "running"
        assert client.delete(job).status_code == 204
        wait_for(lambda: not list(root.iterdir()))
        assert wait(client, upload(client, spots.jpeg(PEOPLE)))["state"] == "done"


def test_stopped_recognition_closes_the_video(recognizer, clip, tmp_path, monkeypatch):
    """The decoder may be in the middle of a frame."""
    decode = videos.Video._file_frames

    def slow(self):
        for frame in decode(self):
            yield frame
            time.sleep(0.05)

    def stop(done, total):
        raise KeyError("stopped")

    monkeypatch.setattr(videos.Video, "_file_frames", slow)
    (tmp_path / "x.webm").write_bytes(clip)
    before = set(threading.enumerate())
    for _ in range(3):
        with pytest.raises(KeyError, match="stopped"):
            recognize_video(
                recognizer, tmp_path / "x.webm", tmp_path / "y", Settings(batch=1),
                on_progress=stop,
            )  # fmt: skip
    assert not set(threading.enumerate()) - before  # other tests' threads may end meanwhile
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".webm"] == []


def test_unattended_jobs_are_cancelled_and_old_results_deleted(recognizer, clip):
    limits = dict(unattended_seconds=1000.0, keep_seconds=1000.0, results=2)
    with application(recognizer, **limits) as client:
        jobs = client.server.jobs

        def leave(path):
            jobs.get(path.rpartition("/")[2]).touched -= 1001

        with held(client.server):
            leave(upload(client, clip, "a.webm"))
            leave(upload(client, clip, "b.webm"))
            jobs.expire()
        wait_for(lambda: not list(jobs.root.iterdir()))
        done = [upload(client, spots.jpeg(PEOPLE)) for _ in range(3)]
        for job in done:
            wait(client, job)
        jobs.expire()
        assert [client.get(job).status_code for job in done] == [404, 200, 200]
        for job in done[1:]:
            leave(job)
        jobs.expire()
        wait_for(lambda: not list(jobs.root.iterdir()))  # the server's own thread may do it


def test_close_deletes_everything(recognizer, clip):
    with application(recognizer) as client:
        root = client.server.jobs.root
        assert root.stat().st_mode & 0o777 == 0o700
        upload(client, clip, "a.webm")
        wait(client, upload(client, spots.jpeg(PEOPLE)))
    assert not root.exists()
    with pytest.raises(Stopped):
        client.server.worker.submit(Priority.LIVE, int).result()


def test_only_files_of_killed_servers_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    running = Jobs(Limits(), recognize=print)
    os.utime(running.root.parent / "lock", (1e9, 1e9))
    for name in ("jdance-serve-killed", "jdance-serve-starting", "other"):
        (tmp_path / name / "jobs").mkdir(parents=True)
        (tmp_path / name / "lock").touch()
        if "starting" not in name:
            os.utime(tmp_path / name / "lock", (1e9, 1e9))
    Jobs(Limits(), recognize=print).close()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {running.root.parent.name, "jdance-serve-starting", "other"}
    running.close()
    assert not running.root.exists()
