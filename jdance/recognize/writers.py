"""The results of a video, written frame by frame: JSON, timeline, page and annotated video.

A `Writer` gets the frames one by one and keeps none of them. Files are written under temporary
names and moved to their paths when they are complete; `formats` has the formats of other tools.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jdance import files
from jdance.data import images, videos
from jdance.progress import rounded
from jdance.recognize import feedback, timeline
from jdance.recognize.page import VideoPage
from jdance.recognize.recognizer import class_index
from jdance.recognize.stream import TrackedFrame
from jdance.recognize.timeline import Segment
from jdance.report import draw

KEY_FRAME_SIDE = 480  # pixels


@dataclass(frozen=True)
class Clip:
    """What the frames are from.

    Attributes:
        source: path of the video or of the clip of skeletons, "camera:N", or "" for images.
        size: height and width in pixels; None: unknown, or different for each image.
        fps: nominal frames per second; None for images.
        classes: names of the motions.
        min_confidence: threshold of `unknown` in videos, see `smoothing.log_evidence`.
        images: file names of the images by frame index; () for videos.
        video: the video file; a relative path is one beside the results. None: there is none.
        folder: where the results will be moved to; None: where they are written.
    """

    source: str
    size: tuple[int, int] | None
    fps: float | None
    classes: Sequence[str]
    min_confidence: float = 0.0
    images: Sequence[str] = ()
    video: Path | None = None
    folder: Path | None = None

    @property
    def period(self) -> float:
        """Seconds from one frame to the next; 0 for images."""
        return 1 / self.fps if self.fps else 0.0


@dataclass(frozen=True)
class MotionFrame(TrackedFrame):
    """A frame of a clip, in which every person has a motion.

    Attributes:
        clip: where it is from.
        starts_motion: whether the motion of a track changes in this frame.
    """

    clip: Clip
    starts_motion: bool = False

    @property
    def labels(self) -> list[str]:
        """The number, motion and probability of each person: "0: walk 0.93"."""
        return [
            f"{person.track}: {person.motion} {person.confidence:.2f}" for person in self.people
        ]

    @property
    def color_indices(self) -> list[int]:
        """The class index of each person's motion, see `draw.motion_color`."""
        return [class_index(person.motion, self.clip.classes) for person in self.people]

    @cached_property
    def drawn(self) -> np.ndarray:
        """The image with the skeletons, boxes and labels of all people: uint8 RGB [H, W, 3]."""
        assert self.image is not None
        return draw.people(
            self.image,
            [person.keypoints for person in self.people],
            [person.box for person in self.people],
            self.labels,
            self.color_indices,
        )


class Writer:
    """Writes the result of a clip in one format.

    Args:
        stem: path of the result without its suffix.
        clip: the frames' origin.

    Raises:
        UserError: the result cannot be written.
    """

    suffix: ClassVar[str]
    needs_time: ClassVar[bool] = False  # holds the motions over time, which images do not have

    def __init__(self, stem: Path, clip: Clip):
        self.clip, self.path = clip, files.with_suffix(stem, self.suffix)

    def add(self, frame: MotionFrame) -> None:
        """Adds the next frame."""

    def finish(self, segments: Sequence[Segment]) -> None:
        """Completes the result.

        Args:
            segments: the motions of all tracks, sorted by track and time.
        """

    def close(self) -> None:
        """Deletes the result unless `finish` was called."""


class Json(Writer):
    """The result file: all frames, then the tracks."""

    suffix = ".json"

    def __init__(self, stem: Path, clip: Clip, posture: feedback.PostureFeedback | None):
        super().__init__(stem, clip)
        self._output, self._posture = files.PartialFile(self.path), posture
        head = {
            "source": images.printable(clip.source),
            "width": clip.size[1] if clip.size else None,
            "height": clip.size[0] if clip.size else None,
            "fps": clip.fps and round(clip.fps, 4),
            "classes": clip.classes,
            "min_confidence": round(clip.min_confidence, 4),
        }
        self._output.file.write(json.dumps(head)[:-1] + ', "frames": [')
        self._separator = ""

    def add(self, frame: MotionFrame) -> None:
        self._output.file.write(f"{self._separator}\n{json.dumps(_entry(frame))}")
        self._separator = ","

    def finish(self, segments: Sequence[Segment]) -> None:
        tail = {"tracks": _tracks(segments, self._posture)}
        self._output.file.write("\n], " + json.dumps(tail)[1:] + "\n")
        self._output.commit()

    def close(self) -> None:
        self._output.close()


class Timeline(Writer):
    """The motions over time as CSV."""

    suffix = ".csv"

    def finish(self, segments: Sequence[Segment]) -> None:
        timeline.write_csv(self.path, segments)


class Page(Writer):
    """The HTML page, with the first frame of each motion.

    Args:
        stem, clip: see `Writer`.
        posture: adds posture feedback.
        annotated: whether the annotated video is written, too.

    Attributes:
        page: the content so far.
        end: of the last frame, in seconds.
    """

    suffix = ".html"

    def __init__(
        self,
        stem: Path,
        clip: Clip,
        posture: feedback.PostureFeedback | None = None,
        annotated: bool = False,
    ):
        super().__init__(stem, clip)
        self._posture, self.end = posture, 0.0
        # Results of an upload, whose path is relative, are downloaded one by one.
        is_moved_together = clip.folder is not None
        is_beside = clip.video is not None and (is_moved_together or clip.video.is_absolute())
        self.page = VideoPage(
            images.printable(Path(clip.source).name),
            clip.classes,
            video=images.printable(clip.video.name) if clip.video else "",
            annotated=images.printable(videos.output_path(stem).name)
            if annotated and is_beside
            else "",
        )

    def add(self, frame: MotionFrame) -> None:
        self.end = frame.time + self.clip.period
        self.page.add_boxes(frame.time, {p.track: p.box for p in frame.people}, frame.starts_motion)
        if frame.image is not None and frame.starts_motion and self.page.wants_images:
            key_frame = images.shrink(frame.drawn, KEY_FRAME_SIDE)
            self.page.add_image(frame.time, images.encode_jpeg(key_frame, 80))

    def finish(self, segments: Sequence[Segment]) -> None:
        corrections = [
            f"Dancer {track['track']}, {assessment['motion']}: "
            f"{feedback.describe(assessment, limit=3)}"
            for track in _tracks(segments, self._posture)
            for assessment in track.get("posture", [])
        ]
        self.page.write(self.path, segments, self.end, corrections)


class AnnotatedVideo(Writer):
    """The video with the people drawn into it."""

    suffix = ""

    def __init__(self, stem: Path, clip: Clip):
        super().__init__(stem, clip)
        assert clip.fps
        self._output = videos.VideoWriter(videos.output_path(stem), clip.fps)

    def add(self, frame: MotionFrame) -> None:
        if frame.image is not None:
            self._output.write(frame.time, frame.drawn)

    def close(self) -> None:
        self._output.close()


def _entry(frame: MotionFrame) -> dict[str, Any]:
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


def _tracks(
    segments: Sequence[Segment], posture: feedback.PostureFeedback | None
) -> list[dict[str, Any]]:
    """Returns `timeline.summary` with the posture feedback of each track."""
    tracks = timeline.summary(segments)
    for track in tracks if posture else []:
        assert posture
        # Without motions that are too short for the timeline.
        track["posture"] = [
            assessment
            for assessment in posture.for_track(track["track"])
            if assessment["motion"] in track["seconds"]
        ]
    return tracks
