"""The browser's camera: JPEG frames in over a WebSocket, tracked people out as JSON."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio.to_thread
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from jdance.data import images
from jdance.errors import UserError
from jdance.recognize.recognizer import Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.stream import TrackedFrame
from jdance.recognize.tracking import Tracker
from jdance.recognize.video import CAMERA_LAG, MotionStream, Settings
from jdance.serve.frames import frame_json
from jdance.serve.worker import Stopped

MAX_FRAME_BYTES = 2**20
_MAX_SIDE = 1280  # pixels
_RATE_FRAMES = 12  # over which the frame rate is measured
_SILENCE_SECONDS = 60.0  # without a frame
# The markers of JPEG segments with the size of the image (SOF0 to SOF15, without DHT, JPG and DAC).
_SIZE_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Reads the height and width of a JPEG without decoding it; None for other data."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _SIZE_MARKERS:
            return (
                int.from_bytes(data[at + 5 : at + 7], "big"),
                int.from_bytes(data[at + 7 : at + 9], "big"),
            )
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def decode(data: bytes) -> np.ndarray:
    """Decodes a camera's frame: uint8 RGB [H, W, 3].

    Raises:
        UserError: not a JPEG, or too large.
    """
    size = jpeg_size(data)
    if size is None:
        raise UserError("frame: not a JPEG")
    if max(size) > _MAX_SIDE:
        raise UserError(f"frame: larger than {_MAX_SIDE} pixels")
    image = images.decode(data)
    if image is None:
        raise UserError("frame: not a readable JPEG")
    return image


class LiveSession:
    """Tracks the people in front of one camera.

    Args:
        recognizer: of the frames.
        classifier: classifies the motions of tracks, while the frame rate suffices.
        lag: delay in seconds, over which tracks and motions are smoothed.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        classifier: SequenceClassifier | None = None,
        lag: float = CAMERA_LAG,
    ):
        self._recognizer, self._classifier, self._lag = recognizer, classifier, lag
        self._tracker = Tracker()
        self._times: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._stream = self._open(0.0)
        self._is_fast = False

    def _open(self, fps: float) -> MotionStream:
        return MotionStream(
            self._recognizer, self._classifier, Settings(), fps, self._lag, self._tracker
        )

    def add(self, index: int, when: float, data: bytes) -> list[dict[str, Any]]:
        """Recognizes a frame, and returns the frames that are complete.

        Args:
            index: of the frame.
            when: in seconds, increasing.
            data: the frame as JPEG.

        Raises:
            UserError: see `decode`.
        """
        people = self._recognizer(decode(data))
        keypoints = [person.keypoints for person in people if person.keypoints is not None]
        probabilities = [person.probabilities for person in people]
        frames = [*self._adapt(when)]
        frames += self._stream.add(index, when, None, keypoints, probabilities)
        return [frame_json(frame) for frame in frames]

    def _adapt(self, when: float) -> Iterator[TrackedFrame]:
        """Uses the classifier while there are enough frames per second."""
        self._times.append(when)
        if self._classifier is None or len(self._times) < _RATE_FRAMES:
            return
        fps = (_RATE_FRAMES - 1) / (when - self._times[0])
        # Changes need a clear difference.
        limit = self._classifier.min_fps * (1.0 if self._is_fast else 1.25)
        if (fps >= limit) != self._is_fast:
            self._is_fast = not self._is_fast
            yield from self._stream.flush()
            self._stream = self._open(np.inf if self._is_fast else 0.0)


async def serve_camera(socket: WebSocket, session: LiveSession) -> None:
    """Answers each frame of a connection; of frames that arrive meanwhile, only the newest counts.

    Messages from the browser are JPEG files, numbered from 0 in their order. Each answer has the
    number `done` of the frame that was recognized last, the `milliseconds` that it took, and the
    `frames` that are complete, with times since the first one. An `error` describes a frame that
    cannot be read.
    """
    newest: tuple[int, float, bytes] | None = None
    arrived, ended = asyncio.Event(), False
    origin = time.monotonic()

    async def receive() -> None:
        nonlocal newest, ended
        index = 0
        try:
            while True:
                data = await asyncio.wait_for(socket.receive_bytes(), _SILENCE_SECONDS)
                newest = index, time.monotonic() - origin, data
                index += 1
                arrived.set()
        except (WebSocketDisconnect, TimeoutError, KeyError):  # KeyError: a text message
            ended = True
            arrived.set()

    receiver = asyncio.create_task(receive())
    try:
        while await arrived.wait() and not ended:
            arrived.clear()
            assert newest is not None
            index, when, data = newest
            began = time.monotonic()
            answer: dict[str, Any] = {"done": index, "frames": []}
            try:
                answer["frames"] = await anyio.to_thread.run_sync(session.add, index, when, data)
            except UserError as error:
                answer["error"] = str(error)
            answer["milliseconds"] = round(1000 * (time.monotonic() - began), 1)
            with suppress(RuntimeError):  # closed meanwhile, which `receive` notices
                await socket.send_json(answer)
    except (WebSocketDisconnect, Stopped):
        pass
    finally:
        receiver.cancel()
        with suppress(asyncio.CancelledError):
            await receiver
        if socket.client_state == socket.application_state == WebSocketState.CONNECTED:
            await socket.close()
