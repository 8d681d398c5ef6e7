"""Recognizes videos, cameras and skeleton clips; writes JSON, CSV, annotated video and page."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jdance.data import images, openpose_json, videos
from jdance.errors import UserError
from jdance.progress import counted
from jdance.recognize import feedback, smoothing, timeline, writers
from jdance.recognize.batches import Batches
from jdance.recognize.formats import Several
from jdance.recognize.recognizer import Person, Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.smoothing import MotionSmoother
from jdance.recognize.stream import Stream, TrackedFrame
from jdance.recognize.tracking import Tracker
from jdance.recognize.writers import Clip, MotionFrame, Writer
from jdance.train.posture import PostureModel

CAMERA_LAG = 0.2  # seconds
_AHEAD = 8  # frames that are decoded ahead, and that wait to be written


@dataclass(frozen=True)
class Settings:
    """Settings of recognition in videos.

    Attributes:
        every, start, end: see `videos.Video`.
        batch: frames per batch; 0: see `batches.default_size`.
        window: half of the time over which motions are averaged, in seconds.
        sequence: half of the time that the sequence network takes, in seconds.
        smoothing: time after a frame that its motion depends on, besides these, in seconds.
        fps: frame rate of skeleton clips, which do not state it.
        hardware: see `videos.Video`.
        annotate: whether to write the annotated video.
        report: whether to write the HTML page.
        min_confidence: see `smoothing.log_evidence`; None: that of the model, but at most
            `smoothing.MAX_THRESHOLD`.
        formats: further formats to write, see `formats.FORMATS`.
        posture: model for posture feedback; None: no feedback.
        folder: where the results will be moved to; None: where they are written.
    """

    every: int = 1
    start: float = 0.0
    end: float = float("inf")
    batch: int = 0
    window: float = 0.5
    sequence: float = 1.0
    smoothing: float = 1.0
    fps: float = 30.0
    hardware: str = ""
    min_confidence: float | None = None
    annotate: bool = True
    report: bool = True
    formats: Sequence[str] = ()
    posture: PostureModel | None = None
    folder: Path | None = None


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


def recognize_video(
    recognizer: Recognizer,
    source: str | Path,
    stem: Path | None,
    settings: Settings,
    *,
    keypoints: Path | None = None,
    classifier: SequenceClassifier | None = None,
    collector: Writer | None = None,
    show: Callable[[np.ndarray], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    name: str = "",
    batches: Batches | None = None,
) -> str:
    """Recognizes the people in a video or in front of a camera.

    Threads read ahead, and track people while this thread writes.

    Writes STEM.json, STEM.csv, STEM.html, STEM.webm or .mp4, and `settings.formats`.

    Args:
        recognizer: has a pose network, unless key points are given.
        source: a file, or "camera:N", which ends by `settings.end` or by `show`.
        stem: path of the results without suffix; None: nothing is written.
        settings: selects the frames and outputs.
        keypoints: folder with OpenPose JSON for each frame.
        classifier: classifies the motions of tracks, instead of the recognizer.
        collector: receives the frames and segments, too.
        show: called with every annotated frame; returns False to stop.
        on_progress: called with the numbers of frames read and in total (0: unknown).
        name: of the source in the results, for files that are not kept, or its address; "": its
            path.
        batches: shared with videos that are recognized by other threads; None: own ones.

    Returns:
        The problem if the file or its key points could only be read in part; else "".

    Raises:
        UserError: no frame could be read, or results cannot be written.
    """
    with closing(
        videos.Video(
            source,
            every=settings.every,
            start=settings.start,
            end=settings.end,
            hardware=settings.hardware,
        )
    ) as video:
        known = None
        if keypoints is not None:
            known = openpose_json.VideoKeypoints(video.name, keypoints, video.size)
        path = None if video.is_camera else Path(source).resolve()
        if name:
            path = Path(Path(name).name)
        fps = video.fps / settings.every
        lag = CAMERA_LAG if video.is_camera else None
        if batches is None:
            size = settings.batch or (jax.device_count() if video.is_camera else 0)
            batches = Batches(recognizer, size)
        # Closed before the video, which its thread reads.
        with closing(_recognize_frames(batches, video, settings, known, on_progress)) as frames:
            write_recognized(
                recognizer, frames, path, video.size, fps, stem, settings, classifier,
                source=name or str(source), collector=collector, show=show, lag=lag,
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
    stem: Path | None,
    settings: Settings,
    *,
    classifier: SequenceClassifier | None = None,
    collector: Writer | None = None,
    name: str = "",
) -> str:
    """Recognizes the motions in a skeleton clip: a folder with one OpenPose JSON file per frame.

    Writes STEM.json, STEM.csv, STEM.html and `settings.formats`; nothing if `stem` is None. Returns
    the problem if some files cannot be used. `collector` and `name` as for `recognize_video`.

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
    write_recognized(
        recognizer, frames(), None, None, fps, stem, settings, classifier,
        source=name or str(folder), collector=collector,
    )  # fmt: skip
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


def recognized(frame: videos.Frame, people: Sequence[Person]) -> _Frame:
    """A frame with its people, for `write_recognized`."""
    return (
        frame.index,
        frame.time,
        frame.image,
        [person.keypoints for person in people if person.keypoints is not None],
        [person.probabilities for person in people],
    )


def _recognize_frames(
    batches: Batches,
    video: videos.Video,
    settings: Settings,
    known: openpose_json.VideoKeypoints | None,
    on_progress: Callable[[int, int], None] | None,
) -> Generator[_Frame, None, None]:
    """Recognizes frames in batches, one batch ahead of the consumer; a thread reads ahead."""

    def result(frame: videos.Frame, people: Sequence[Person]) -> _Frame:
        if on_progress:
            read = frame.index + 1
            total = int(min(video.count, settings.end * video.fps + 1))
            on_progress(read, max(total, read) if video.count else 0)
        return recognized(frame, people)

    # Frames of a camera are dropped if recognition cannot keep up.
    count = 2 * batches.size if video.is_camera else _AHEAD
    with ExitStack() as stack:
        ahead = stack.enter_context(
            closing(videos.prefetch(video, count, newest=video.is_camera))
        )  # fmt: skip
        running = None
        for frame in ahead:
            if running is None:
                shape = frame.image.shape[:2]
                running = stack.enter_context(closing(batches.start(shape, known is not None)))
            people = known(frame.index) if known else None
            for item in running.add(frame, frame.image, people):
                yield result(*item)
        for item in running.flush() if running else ():
            yield result(*item)


def write_recognized(
    recognizer: Recognizer,
    frames: Iterable[_Frame],
    path: Path | None,
    size: tuple[int, int] | None,
    fps: float,
    stem: Path | None,
    settings: Settings,
    classifier: SequenceClassifier | None,
    *,
    source: str = "",
    collector: Writer | None = None,
    show: Callable[[np.ndarray], bool] | None = None,
    lag: float | None = None,
) -> None:
    """Tracks the people through recognized frames and writes all results.

    Args:
        recognizer: of the frames.
        frames: index, time in seconds, image uint8 [H, W, 3] or None, key points float32 [18, 3]
            and probabilities float [M] of each person.
        path: the video; None: there is no file.
        size: height and width; None: there are no images.
        fps: frames per second.
        stem, settings, classifier, collector, show: see `recognize_video`.
        source: of the frames in the results; "": `path`.
        lag: see `MotionStream`.

    Raises:
        UserError: there are no frames, or results cannot be written.
    """
    stream = MotionStream(recognizer, classifier, settings, fps, lag)
    clip = Clip(
        source or str(path),
        size,
        fps,
        stream.classes,
        stream.min_confidence,
        video=path,
        folder=settings.folder,
    )
    tracked = _track(stream, frames)
    if lag is None:  # else, nothing may wait
        tracked = videos.prefetch(tracked, _AHEAD)
    with closing(tracked):
        write(tracked, clip, stem, settings, collector=collector, show=show)


def write(
    frames: Iterable[TrackedFrame],
    clip: Clip,
    stem: Path | None,
    settings: Settings,
    *,
    collector: Writer | None = None,
    show: Callable[[np.ndarray], bool] | None = None,
) -> None:
    """Writes all results of frames in which every person has a motion, see `recognize_video`.

    Raises:
        UserError: there are no frames, or the results cannot be written.
    """
    motion_timeline = timeline.Timeline(clip.period)
    posture = feedback.PostureFeedback(settings.posture) if settings.posture else None
    annotated = settings.annotate and clip.size is not None
    count, previous = 0, math.inf
    with ExitStack() as stack:

        def opened(writer: Writer) -> Writer:
            return stack.enter_context(closing(writer))

        outputs = [collector] if collector else []
        if stem is not None:
            outputs.append(opened(writers.Json(stem, clip, posture)))
            outputs.append(opened(writers.Timeline(stem, clip)))
            if settings.report:
                outputs.append(opened(writers.Page(stem, clip, posture, annotated)))
            if annotated:
                outputs.append(opened(writers.AnnotatedVideo(stem, clip)))
            outputs.append(opened(Several(settings.formats, stem, clip)))
        for frame in frames:
            for person in frame.people:
                if posture and not person.bridged:
                    posture.add(person.track, person.motion, person.keypoints)
            starts = [
                motion_timeline.add(frame.time, p.track, p.motion, p.confidence, previous)
                for p in frame.people
            ]
            previous = frame.time
            motion_frame = MotionFrame(
                frame.index, frame.time, frame.image, frame.people, clip, any(starts)
            )
            for output in outputs:
                output.add(motion_frame)
            if show and frame.image is not None and not show(motion_frame.drawn):
                break
            count += 1
        if not count:
            raise UserError(f"{clip.source}: holds no frame that can be read; check start and end")
        segments = motion_timeline.finish()
        for output in outputs:
            output.finish(segments)


def _track(stream: MotionStream, frames: Iterable[_Frame]) -> Generator[TrackedFrame, None, None]:
    for frame in frames:
        yield from stream.add(*frame)
    yield from stream.flush()
