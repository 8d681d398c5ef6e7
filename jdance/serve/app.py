"""The web application: the page, jobs, and the camera."""

import asyncio
import base64
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from jdance import skeleton
from jdance.data import containers, images, videos
from jdance.errors import UserError
from jdance.recognize import formats, page
from jdance.recognize.recognizer import Recognizer, class_index
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.video import CAMERA_LAG
from jdance.report import draw
from jdance.serve.jobs import Job, Jobs, Limits, Refused
from jdance.serve.live import LiveSession, serve_camera
from jdance.serve.recognition import recognize
from jdance.serve.security import Guard
from jdance.serve.worker import Priority, Programs, QueuedClassifier, QueuedRecognizer, Worker
from jdance.train.calibration import UNKNOWN

_STATIC_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_MEDIA_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm",
    ".mkv": "video/webm", ".ogv": "video/ogg",
}  # fmt: skip
_RESULT_TYPES = {
    ".json": "application/json", ".csv": "text/csv", ".html": "text/html", ".mp4": "video/mp4",
    ".webm": "video/webm", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png",
    ".zip": "application/zip", ".eaf": "application/xml", ".TextGrid": "text/plain",
    ".srt": "application/x-subrip", ".vtt": "text/vtt", ".rrd": "application/octet-stream",
}  # fmt: skip
# A report has inline styles and images, and one script, which cannot reach the server: a sandbox is
# an origin of its own.
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(page.script().encode()).digest()).decode()
_REPORT_POLICY = (
    f"default-src 'none'; script-src 'sha256-{_SCRIPT_HASH}'; style-src 'unsafe-inline'; "
    "img-src data:; sandbox allow-scripts allow-downloads allow-forms"
)
_FRAME_BYTES = 2**19  # of the frames in one answer; a frame of 40 people has 25 kB
_EXPIRY_SECONDS = 2.0  # between two searches for old jobs
_MAX_NAME = 120


class Server:
    """State of the application.

    Args:
        recognizer: has a pose network.
        limits: of the server.
        labels: names of the motion model and the pose network, for display.
        classifier: classifies the motions of tracks, instead of the recognizer.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        limits: Limits,
        labels: dict[str, str],
        classifier: SequenceClassifier | None = None,
    ):
        self.recognizer, self.limits, self.labels = recognizer, limits, labels
        self.classifier = classifier
        self.worker, self.programs = Worker(), Programs()
        self.jobs = Jobs(
            limits,
            partial(
                recognize,
                for_images=self.queued(Priority.IMAGE),
                for_videos=self.queued(Priority.VIDEO),
                classifier=self.queued_classifier(Priority.VIDEO),
                seconds=limits.seconds,
            ),
        )
        self.cameras = 0

    def queued(self, priority: Priority) -> QueuedRecognizer:
        return QueuedRecognizer(self.recognizer, self.worker, self.programs, priority)

    def queued_classifier(self, priority: Priority) -> QueuedClassifier | None:
        if self.classifier is None:
            return None
        return QueuedClassifier(self.classifier, self.worker, priority)

    @property
    def classes(self) -> list[str]:
        """The motions of images, and the further ones of tracks."""
        own = self.recognizer.classes
        more = self.classifier.classes if self.classifier else []
        return [*own, *(motion for motion in more if motion not in own)]

    def close(self) -> None:
        """Ends all jobs and threads, and deletes all files."""
        self.jobs.close()
        self.worker.close()


def create_app(
    recognizer: Recognizer,
    limits: Limits | None = None,
    *,
    labels: dict[str, str] | None = None,
    classifier: SequenceClassifier | None = None,
    local: bool = True,
    token: str = "",
    cookie: str = "jdance-token",
) -> Starlette:
    """Creates the application; see `Server` and `security.Guard` for the arguments."""
    server = Server(recognizer, limits or Limits(), labels or {}, classifier)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async def expire() -> None:
            while True:
                await asyncio.sleep(_EXPIRY_SECONDS)
                await anyio.to_thread.run_sync(server.jobs.expire)

        task = asyncio.create_task(expire())
        try:
            yield
        finally:
            task.cancel()
            await anyio.to_thread.run_sync(server.close)

    folder = resources.files("jdance.serve") / "static"
    static = {file.name: file.read_bytes() for file in folder.iterdir()}
    static["labels.js"] = page.static("labels.js").encode()
    job = "/api/jobs/{id}"
    routes = [
        Route("/", partial(_static, static)),
        Route("/static/{name}", partial(_static, static)),
        Route("/api/info", _info),
        Route("/api/jobs", _upload, methods=["POST"]),
        Route(job, _status, methods=["GET"]),
        Route(job, _remove, methods=["DELETE"]),
        Route(f"{job}/media", _media),
        Route(f"{job}/preview", _preview),
        Route(f"{job}/shown", _shown),
        Route(f"{job}/keyframes/{{number:int}}", _key_frame),
        Route(f"{job}/files/{{kind}}", _file),
        WebSocketRoute("/api/live", _live),
    ]
    handlers: dict[Any, Callable[..., Any]] = {
        Refused: _refused,
        HTTPException: _http_error,
        FileNotFoundError: _removed,
    }
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.add_middleware(Guard, local=local, token=token, cookie=cookie)
    app.state.server = server
    return app


async def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse({"error": str(error)}, error.status)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)


async def _removed(request: Request, error: FileNotFoundError) -> Response:
    return JSONResponse({"error": "the job was removed meanwhile"}, 404)


async def _static(files: dict[str, bytes], request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in files:
        raise Refused(404, "no such page")
    return Response(files[name], media_type=_STATIC_TYPES[Path(name).suffix])


async def _info(request: Request) -> Response:
    """What the page needs to draw and to explain itself."""
    server: Server = request.app.state.server
    limits, classes = server.limits, server.classes
    sides = ["right" if n.startswith("right") else "left" if n.startswith("left") else "middle"
             for n in skeleton.NAMES]  # fmt: skip
    return JSONResponse(
        {
            **server.labels,
            "classes": classes,
            "colors": {motion: _color(motion, classes) for motion in (*classes, UNKNOWN)},
            "limbs": skeleton.LIMBS[: skeleton.NUM_TREE_LIMBS].tolist(),
            "sides": sides,
            "upload_bytes": limits.upload_bytes,
            "seconds": limits.seconds,
            "lag": CAMERA_LAG,
            "recordings": "rerun" in formats.offered(videos=True),
        }
    )  # fmt: skip


def _color(motion: str, classes: list[str]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*draw.motion_color(class_index(motion, classes)))


def display_name(text: str) -> str:
    """Sanitizes a user's file name for display and downloads; it is never used as a path."""
    text = unicodedata.normalize("NFC", text).replace("\\", "/").rpartition("/")[2]
    text = "".join(c if c.isprintable() and c not in '<>:"|?*' else "_" for c in text).strip(". ")
    stem, dot, suffix = text.rpartition(".")
    if dot and len(suffix) < 10:
        return f"{stem[: _MAX_NAME - 10]}.{suffix}" if stem else suffix
    return text[:_MAX_NAME] or "file"


def _number(request: Request, key: str, default: float, low: float) -> float:
    text = request.query_params.get(key, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not value >= low:
        raise Refused(400, f"{key}={text[:20]}: expected a number of at least {low:g}")
    return value


async def _upload(request: Request) -> Response:
    """Receives a file as the body of a request, and queues it."""
    server: Server = request.app.state.server
    start, end = _number(request, "start", 0.0, 0.0), _number(request, "end", math.inf, 0.0)
    if start >= end:
        raise Refused(400, "the start must be before the end")
    options = {
        "start": start,
        "end": end,
        "every": int(min(_number(request, "every", 1, 1), 1000)),
        "annotate": request.query_params.get("annotate") != "0",
        "recording": request.query_params.get("recording") == "1",
    }
    length = request.headers.get("content-length", "")
    size = int(length) if re.fullmatch("[0-9]{1,15}", length) else 0
    name = display_name(request.query_params.get("name", ""))
    job = server.jobs.open(name, options, size)
    try:
        suffix = Path(name).suffix.lower()
        if suffix in (*videos.SUFFIXES, *images.SUFFIXES, *images.HEIF_SUFFIXES):
            job.upload = job.folder / f"upload{suffix}"
        await _receive(request, job, server.jobs)
        media = await anyio.to_thread.run_sync(_media_of, job)
    except BaseException:  # the client has gone away, among others
        server.jobs.remove(job)
        raise
    server.jobs.start(job, media)
    return JSONResponse({"id": job.id}, 201)


async def _receive(request: Request, job: Job, jobs: Jobs) -> None:
    received = 0
    stream = request.stream().__aiter__()
    try:
        async with await anyio.open_file(job.upload, "wb") as file:
            while True:
                try:
                    with anyio.fail_after(jobs.limits.stall_seconds):
                        chunk = await stream.__anext__()
                except StopAsyncIteration:
                    break
                received += len(chunk)
                jobs.check_size(received)
                if job.is_cancelled:
                    raise Refused(409, "the upload was cancelled")
                await file.write(chunk)
    except TimeoutError:
        raise Refused(408, "the upload has stalled") from None
    except ClientDisconnect:
        raise Refused(400, "the upload was interrupted") from None
    except OSError as error:
        raise Refused(507, f"the upload cannot be stored ({error.strerror})") from None
    if not received:
        raise Refused(400, f"{job.name}: is empty")


def _media_of(job: Job) -> Literal["image", "video"]:
    """Returns how a file is processed, by its name, else by its content."""
    if images.is_image(job.upload) or videos.is_video(job.upload):
        return "video" if videos.is_video(job.upload) else "image"
    try:
        images.read(job.upload)
        return "image"
    except UserError:
        pass
    try:
        containers.probe(job.upload)
        return "video"
    except UserError:
        raise Refused(415, f"{job.name}: neither an image nor a video that can be read") from None


def _job(request: Request) -> Job:
    return request.app.state.server.jobs.get(request.path_params["id"])


async def _status(request: Request) -> Response:
    """State of a job, and its frames from ?from=OFFSET on."""
    server: Server = request.app.state.server
    job = _job(request)
    state, ended = job.state, job.is_ended  # before the frames are read
    frames: list[str] = []
    offset = 0
    if job.frames is not None:
        begin = int(min(_number(request, "from", 0, 0), 2**53))
        frames, offset = await anyio.to_thread.run_sync(job.frames.read, begin, _FRAME_BYTES)
    each = job.frame_seconds
    left = each * (job.total - job.done) if each and not ended else None
    status = {
        "id": job.id,
        "name": job.name,
        "media": job.media,
        "playable": job.upload.suffix in _MEDIA_TYPES,
        "state": state,
        "message": job.message,
        "place": server.jobs.place(job),
        "done": job.done,
        "total": job.total,
        "seconds_left": None if left is None else round(left, 1),
        "frame_milliseconds": None if each is None else round(1000 * each, 1),
        "head": job.head,
        "preview": job.preview and job.preview[:2],
        "key_frames": job.key_frames,
        "files": list(job.files) if ended else [],
        "tracks": job.segments if ended else None,
        "next": offset,
    }
    # The frames are JSON already.
    text = json.dumps(status)[:-1] + ', "frames": [' + ",".join(frames) + "]}"
    return Response(text, media_type="application/json")


async def _remove(request: Request) -> Response:
    await anyio.to_thread.run_sync(request.app.state.server.jobs.remove, _job(request))
    return Response(status_code=204)


def _stored(path: Path, media_type: str, **options: Any) -> Response:
    if not path.is_file():
        raise Refused(404, "no such file")
    return FileResponse(path, media_type=media_type, **options)


async def _media(request: Request) -> Response:
    """The uploaded video, for the page's player."""
    job = _job(request)
    kind = _MEDIA_TYPES.get(job.upload.suffix)
    if kind is None or job.media != "video":
        raise Refused(404, "browsers cannot play this format")
    return _stored(job.upload, kind)


async def _preview(request: Request) -> Response:
    """The last frame of a video in progress."""
    preview = _job(request).preview
    if preview is None:
        raise Refused(404, "no frame yet")
    return Response(preview[2], media_type="image/jpeg", headers={"X-Time": f"{preview[1]:.4f}"})


async def _shown(request: Request) -> Response:
    """The uploaded image as JPEG, upright."""
    return _stored(_job(request).folder / "shown.jpg", "image/jpeg")


async def _key_frame(request: Request) -> Response:
    job, number = _job(request), request.path_params["number"]
    if number >= len(job.key_frames):
        raise Refused(404, "no such key frame")
    return _stored(job.folder / f"key-{number}.jpg", "image/jpeg")


async def _file(request: Request) -> Response:
    """A result; as a download unless ?show=1."""
    job, kind = _job(request), request.path_params["kind"]
    if kind not in job.files or job.state != "done":
        raise Refused(404, "no such result")
    path = job.files[kind]
    suffix = path.suffix
    ending = f"-jdance{suffix}" if kind in ("video", "image") else path.name.removeprefix("result")
    name = f"{Path(job.name).stem}{ending}"
    return _stored(
        path,
        _RESULT_TYPES[suffix],
        filename=name,
        content_disposition_type="inline" if request.query_params.get("show") else "attachment",
        headers={"Content-Security-Policy": _REPORT_POLICY} if suffix == ".html" else None,
    )


async def _live(socket: WebSocket) -> None:
    """The camera; ?lag=SECONDS is the delay for smoothing."""
    server: Server = socket.app.state.server
    try:
        lag = float(socket.query_params.get("lag", CAMERA_LAG))
    except ValueError:
        lag = math.nan
    await socket.accept()
    if not 0 <= lag <= 1:
        await socket.close(1008, "lag: expected 0 to 1 seconds")
    elif server.cameras >= server.limits.cameras:
        await socket.close(1013, f"{server.cameras} cameras are in use already; try again later")
    else:
        server.cameras += 1
        try:
            with suppress(ClientDisconnect):
                recognizer = server.queued(Priority.LIVE)
                classifier = server.queued_classifier(Priority.LIVE)
                await serve_camera(socket, LiveSession(recognizer, classifier, lag))
        finally:
            server.cameras -= 1
