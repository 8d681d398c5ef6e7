"""Recognizes videos, cameras and skeleton clips; writes JSON, CSV, annotated video and page."""

import itertools
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdance.data import images, openpose_json, videos
from jdance.errors import UserError
from jdance.progress import counted, rounded
from jdance.recognize import feedback, smoothing, timeline
from jdance.recognize.page import VideoPage
from jdance.recognize.program import Recognized
from jdance.recognize.recognizer import Recognizer, class_index
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.smoothing import MotionSmoother
from jdance.recognize.stream import Stream, TrackedFrame
from jdance.recognize.tracking import Tracker
from jdance.report import draw
from jdance.train.posture import PostureModel

CAMERA_LAG = 0.2  # seconds
KEY_FRAME_SIDE = 480  # pixels


@dataclass(frozen=True)
class Settings:
    """Settings of recognition in videos.

    Attributes:
        every, start, end: see `videos.Video`.
        batch: frames per batch; 0: one per device.
        window: half of the time over which motions are averaged, in seconds.
        sequence: half of the time that the sequence network takes, in seconds.
        smoothing: time after a frame that its motion depends on, besides these, in seconds.
        fps: frame rate of skeleton clips, which do not state it.
        annotate: whether to write the annotated video.
        report: whether to write the HTML page.
        min_confidence: see `smoothing.log_evidence`; None: that of the model, but at most
            `smoothing.MAX_THRESHOLD`.
        posture: model for posture feedback; None: no feedback.
    """

    every: int = 1
    start: float = 0.0
    end: float = float("inf")
    batch: int = 0
    window: float = 0.5
    sequence: float = 1.0
    smoothing: float = 1.0
    fps: float = 30.0
    min_confidence: float | None = None
    annotate: bool = True
    report: bool = True
    posture: PostureModel | None = None


class MotionStream:
    """Tracks people and smooths their motions.

    Attributes:
        classes: names of the motions.
        min_confidence: see `smoothing.log_evidence`.

    Args:
        recognizer: of the frames.
        classifier: classifies the motions of tracks, unless the frame rate is too low for it.
        settings: for the windows.
        fps: frames per second.
        lag: maximum delay in seconds, for cameras; None: as the windows need.
        tracker: None: a new one.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        classifier: SequenceClassifier | None,
        settings: Settings,
        fps: float,
        lag: float | None = None,
        tracker: Tracker | None = None,
    ):
        if classifier and fps < classifier.min_fps:
            classifier = None
        model = classifier or recognizer
        self.classes, self.min_confidence = model.classes, model.min_confidence
        if settings.min_confidence is None:
            self.min_confidence = min(self.min_confidence, smoothing.MAX_THRESHOLD)
        else:
            self.min_confidence = settings.min_confidence
        window = settings.sequence if classifier else settings.window
        self._stream = Stream(
            tracker, window=window, lag=window if lag is None else lag, classifier=classifier
        )
        self._smoother = MotionSmoother(
            self.classes,
            smoothing.DEFAULT,
            lag=settings.smoothing if lag is None else 0.0,
            min_confidence=self.min_confidence,
        )

    def add(
        self,
        index: int,
        time: float,
        image: np.ndarray | None,
        keypoints: Sequence[np.ndarray],
        probabilities: Sequence[np.ndarray],
    ) -> Iterator[TrackedFrame]:
        """Adds a frame, see `Stream.add`; yields frames in which every person has a `motion`."""
        for tracked in self._stream.add(index, time, image, keypoints, probabilities):
            yield from self._smoother.add(tracked)

    def flush(self) -> Iterator[TrackedFrame]:
        """Yields the remaining frames."""
        for tracked in self._stream.flush():
            yield from self._smoother.add(tracked)
        yield from self._smoother.flush()


class JsonStream:
    """Writes a result file frame by frame; `finish` moves it to its final path."""

    def __init__(self, path: Path, head: dict[str, Any]):
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._file = self._partial.open("w")
        self._file.write(json.dumps(head)[:-1] + ', "frames": [')
        self._first = True

    def add(self, frame: dict[str, Any]) -> None:
        self._file.write(("\n" if self._first else ",\n") + json.dumps(frame))
        self._first = False

    def finish(self, tail: dict[str, Any]) -> None:
        self._file.write("\n], " + json.dumps(tail)[1:] + "\n")
        self._file.close()
        os.replace(self._partial, self._path)

    def close(self) -> None:
        """Deletes the file unless `finish` was called."""
        if not self._file.closed:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def recognize_video(
    recognizer: Recognizer,
    source: str | Path,
    stem: Path,
    settings: Settings,
    *,
    keypoints: Path | None = None,
    classifier: SequenceClassifier | None = None,
    show: Callable[[np.ndarray], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_frame: Callable[[TrackedFrame], None] | None = None,
    name: str = "",
) -> str:
    """Recognizes the people in a video or in front of a camera.

    Writes STEM.json, STEM.csv, STEM.html and STEM.webm or .mp4.

    Args:
        recognizer: has a pose network, unless key points are given.
        source: a file, or "camera:N", which ends by `settings.end` or by `show`.
        stem: path of the results without suffix.
        settings: selects the frames and outputs.
        keypoints: folder with OpenPose JSON for each frame.
        classifier: classifies the motions of tracks, instead of the recognizer.
        show: called with every annotated frame; returns False to stop.
        on_progress: called with the numbers of frames read and in total (0: unknown).
        on_frame: called with every tracked frame.
        name: of the source in the results; "": its path.

    Returns:
        The problem if the file or its key points could only be read in part; else "".

    Raises:
        UserError: no frame could be read, or results cannot be written.
    """
    with closing(
        videos.Video(source, every=settings.every, start=settings.start, end=settings.end)
    ) as video:
        known = None if keypoints is None else openpose_json.VideoKeypoints(video.name, keypoints)
        name = name or str(source)
        fps = video.fps / settings.every
        lag = CAMERA_LAG if video.is_camera else None
        # Closed before the video, which its thread reads.
        with closing(_recognize_frames(recognizer, video, settings, known, on_progress)) as frames:
            _write(
                recognizer, frames, name, video.size, fps, stem, settings, classifier, show, lag,
                on_frame,
            )  # fmt: skip
        problems = [video.problem] * bool(video.problem)
        if known and known.problems:
            first = known.problems[min(known.problems)]
            count = counted(len(known.problems), "frame")
            problems.append(f"{count} without key points; the first, {first}")
        return "; ".join(problems)


def recognize_skeletons(
    recognizer: Recognizer,
    folder: Path,
    stem: Path,
    settings: Settings,
    *,
    classifier: SequenceClassifier | None = None,
) -> str:
    """Recognizes the motions in a skeleton clip: a folder with one OpenPose JSON file per frame.

    Writes STEM.json, STEM.csv and STEM.html. Returns the problem if some files cannot be used.

    Raises:
        UserError: the motion network takes images, or no file can be used.
    """
    if recognizer.network.image_size and classifier is None:
        raise UserError(
            f"{folder}: holds no images, which --model needs; train one with "
            "--config.model.branches=keypoints, or give a --sequence_model"
        )
    bad: list[str] = []

    def frames() -> Iterator[tuple[int, float, None, list[np.ndarray], list[np.ndarray]]]:
        paths, good = openpose_json.frames(folder), 0
        for index, path in zip(openpose_json.frame_indices(paths), paths, strict=True):
            when = index / settings.fps
            if index % settings.every or not settings.start <= when < settings.end:
                continue
            try:
                people = openpose_json.read(path)
            except UserError as error:
                bad.append(images.printable(str(error)))
                continue
            good += 1
            enough = (people[..., 2] > 0).sum(-1) >= recognizer.min_joints
            found = list(people[enough])
            yield index, when, None, found, _classify_skeletons(recognizer, found)
        if bad and not good:
            raise UserError(f"{folder}: no frame can be used; the first, {bad[0]}")

    fps = settings.fps / settings.every
    _write(recognizer, frames(), str(folder), None, fps, stem, settings, classifier, None, None)
    return f"{counted(len(bad), 'frame')} left out; the first, {bad[0]}" if bad else ""


def _classify_skeletons(recognizer: Recognizer, people: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns probabilities of skeletons without an image; zeros if the network needs one."""
    if recognizer.network.image_size:
        return [np.zeros(len(recognizer.classes), np.float32) for _ in people]
    if not people:
        return []
    image = np.zeros((1, 1, 3), np.uint8)
    recognized = recognizer.dispatch([image], [np.stack(people)], size=(1, 1))
    return [person.probabilities for person in recognizer.people(recognized)[0]]


# index, time, image, key points and probabilities of the people
_Frame = tuple[int, float, np.ndarray | None, list[np.ndarray], list[np.ndarray]]


def _recognize_frames(
    recognizer: Recognizer,
    video: videos.Video,
    settings: Settings,
    known: openpose_json.VideoKeypoints | None,
    on_progress: Callable[[int, int], None] | None,
) -> Generator[_Frame, None, None]:
    """Recognizes frames in batches, one batch ahead of the consumer; a thread reads ahead."""
    size = settings.batch or jax.device_count()
    running: list[tuple[list[videos.Frame], Recognized]] = []

    def finish() -> Iterator[_Frame]:
        batch, found = running.pop(0)
        for frame, people in zip(batch, recognizer.people(found), strict=False):
            yield (
                frame.index,
                frame.time,
                frame.image,
                [person.keypoints for person in people if person.keypoints is not None],
                [person.probabilities for person in people],
            )
        if on_progress:
            read = batch[-1].index + 1
            total = int(min(video.count, settings.end * video.fps + 1))
            on_progress(read, max(total, read) if video.count else 0)

    # Frames of a camera are dropped if recognition cannot keep up.
    ahead = videos.prefetch(video, 2 * size, newest=video.is_camera)
    with closing(ahead):
        for batch in _batches(ahead, size):
            batch_images = [frame.image for frame in batch]
            # Pads the last batch, to avoid recompilation.
            batch_images += [batch_images[-1]] * (size - len(batch_images))
            people = None
            if known is not None:
                people = [known(frame.index) for frame in batch]
                people += [people[-1]] * (size - len(people))
            shape = batch_images[0].shape[:2]
            running.append((batch, recognizer.dispatch(batch_images, people, size=shape)))
            if len(running) > 1:
                yield from finish()
        while running:
            yield from finish()


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _write(
    recognizer: Recognizer,
    frames: Iterable[_Frame],
    source: str,
    size: tuple[int, int] | None,
    fps: float,
    stem: Path,
    settings: Settings,
    classifier: SequenceClassifier | None,
    show: Callable[[np.ndarray], bool] | None,
    lag: float | None,
    on_frame: Callable[[TrackedFrame], None] | None = None,
) -> None:
    """Tracks the people through the frames and writes all results."""
    stream = MotionStream(recognizer, classifier, settings, fps, lag)
    classes = stream.classes
    motion_timeline = timeline.Timeline(1 / fps)
    posture = feedback.PostureFeedback(settings.posture) if settings.posture else None
    head = {
        "source": images.printable(source),
        "width": size[1] if size else None,
        "height": size[0] if size else None,
        "fps": round(fps, 4),
        "classes": classes,
        "min_confidence": round(stream.min_confidence, 4),
    }
    page = VideoPage(images.printable(Path(source).name), classes)
    count = 0
    last = 0.0
    with ExitStack() as stack:
        result = stack.enter_context(closing(JsonStream(_with_suffix(stem, ".json"), head)))
        writer = None
        if settings.annotate and size is not None:
            writer = stack.enter_context(closing(videos.VideoWriter(videos.output_path(stem), fps)))
        for frame in _track(stream, frames):
            result.add(_entry(frame))
            if on_frame:
                on_frame(frame)
            for person in frame.people:
                if posture and not person.bridged:
                    posture.add(person.track, person.motion, person.keypoints)
            starts = [
                motion_timeline.add(frame.time, p.track, p.motion, p.confidence)
                for p in frame.people
            ]
            if frame.image is not None and (writer or show or any(starts)):
                drawn = draw_frame(frame, classes)
                if any(starts) and page.wants_images:
                    key_frame = images.shrink(drawn, KEY_FRAME_SIDE)
                    page.add_image(frame.time, images.encode_jpeg(key_frame, 80))
                if writer:
                    writer.write(frame.time, drawn)
                if show and not show(drawn):
                    break
            count, last = count + 1, frame.time
        if not count:
            raise UserError(f"{source}: holds no frame that can be read; check --start and --end")
        segments = motion_timeline.finish()
        tracks = timeline.summary(segments)
        if posture:
            for track in tracks:
                # Without motions that are too short for the timeline.
                track["posture"] = [
                    assessment
                    for assessment in posture.for_track(track["track"])
                    if assessment["motion"] in track["seconds"]
                ]
        result.finish({"tracks": tracks})
    timeline.write_csv(_with_suffix(stem, ".csv"), segments)
    if settings.report:
        corrections = [
            f"Dancer {track['track']}, {assessment['motion']}: "
            f"{feedback.describe(assessment, limit=3)}"
            for track in tracks
            for assessment in track.get("posture", [])
        ]
        page.write(_with_suffix(stem, ".html"), segments, last + 1 / fps, corrections)


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _track(stream: MotionStream, frames: Iterable[_Frame]) -> Iterator[TrackedFrame]:
    for frame in frames:
        yield from stream.add(*frame)
    yield from stream.flush()


def _entry(frame: TrackedFrame) -> dict[str, Any]:
    return {
        "index": frame.index,
        "time": round(frame.time, 4),
        "people": [
            {
                "track": person.track,
                "box": rounded(person.box, 2).tolist(),
                "keypoints": rounded(person.keypoints, 3).tolist(),
                "motion": person.motion,
                "probabilities": rounded(person.probabilities, 5).tolist(),
                "bridged": person.bridged,
            }
            for person in frame.people
        ],
    }


def draw_frame(frame: TrackedFrame, classes: Sequence[str]) -> np.ndarray:
    """Draws the people of a frame with their tracks and motions: uint8 RGB [H, W, 3]."""
    assert frame.image is not None
    return draw.people(
        frame.image,
        [person.keypoints for person in frame.people],
        [person.box for person in frame.people],
        [f"{person.track}: {person.motion} {person.confidence:.2f}" for person in frame.people],
        [class_index(person.motion, classes) for person in frame.people],
    )
