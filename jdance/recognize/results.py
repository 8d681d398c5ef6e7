"""Results of recognition in Python and in notebooks: people, motions, drawings and tables."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jdance import files
from jdance.data import images, videos
from jdance.errors import UserError
from jdance.progress import counted
from jdance.recognize import timeline, video
from jdance.recognize.formats import JOINT_COLUMNS, Several, joint_rows, select
from jdance.recognize.page import VideoPage
from jdance.recognize.recognizer import Person, annotate, confidence
from jdance.recognize.stream import TrackedPerson
from jdance.recognize.timeline import Segment
from jdance.recognize.writers import Clip, MotionFrame, Page, Writer
from jdance.remote import objects
from jdance.report.html import Block, Figure, Section, Table, to_fragment

if TYPE_CHECKING:
    import pandas

_SIDE = 960  # pixels, of images in notebooks
_NO_FILE = "image"  # name of the results of an image that is not from a file


@dataclass(frozen=True, repr=False, eq=False)
class ImageResult:
    """The people in an image.

    Attributes:
        image: uint8 RGB [H, W, 3].
        people: from left to right; given ones in their order.
        classes: names of the motions.
        source: path of the image; "" if it is not from a file.
        feedback: posture feedback by the index of a person, see `feedback.assess`.
    """

    image: np.ndarray
    people: list[Person]
    classes: list[str]
    source: str = ""
    feedback: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        motions = ", ".join(person.motion for person in self.people) or "no person"
        return f"ImageResult({self.source!r}: {motions})"

    def draw(self) -> np.ndarray:
        """Draws the skeleton, box, motion and probability of all people: uint8 RGB [H, W, 3]."""
        return annotate(self.image, self.people, self.classes)

    def to_pandas(self, table: str = "people") -> "pandas.DataFrame":
        """Returns a table.

        Args:
            table: "people": a row per person with motion, confidence, box in pixels and the
                probability of each motion; "joints": a row per joint of each person, see
                `formats.JOINT_COLUMNS`.
        """
        import pandas

        if _checked(table, "people", "joints") == "joints":
            rows = list(joint_rows(self.to_frame(Clip("", None, None, self.classes), 0)))
            return pandas.DataFrame(rows, columns=list(JOINT_COLUMNS))
        people = [
            [i, p.motion, self._confidence(p), *p.box, *p.probabilities.tolist()]
            for i, p in enumerate(self.people)
        ]
        columns = ["person", "motion", "confidence", "x", "y", "width", "height"]
        columns += [f"p({motion})" for motion in self.classes]
        return pandas.DataFrame(people, columns=columns)

    def _confidence(self, person: Person) -> float:
        return confidence(person.probabilities, person.motion, self.classes)

    def to_frame(self, clip: Clip, index: int) -> MotionFrame:
        """Returns the people as a frame of a clip, numbered as in the result file.

        A whole image, which has no key points, is left out.
        """
        people = [
            TrackedPerson(
                i, p.keypoints, p.box, p.probabilities, motion=p.motion,
                confidence=self._confidence(p),
            )
            for i, p in enumerate(self.people)
            if p.keypoints is not None
        ]  # fmt: skip
        return MotionFrame(index, 0.0, self.image, people, clip)

    def save(self, folder: str | Path, formats: Sequence[str] = ()) -> Path:
        """Writes the results as launch/recognize.py does.

        Args:
            folder: is created if necessary.
            formats: further formats, as for --format.

        Returns:
            The path of the result file in JSON.

        Raises:
            UserError: a format does not exist or is for videos, the folder is that of the image, or
                a file cannot be written.
        """
        names = select(formats, videos=False)
        source = self.source or _NO_FILE
        stem = _stem(folder, source)
        clip = Clip("", None, None, self.classes, images=[Path(source).name])
        with closing(Several(names, stem, clip)) as writer:
            writer.add(self.to_frame(clip, 0))
            writer.finish([])
        return self.write(stem)

    @property
    def suffix(self) -> str:
        """Suffix of the annotated image: that of a JPEG file, else .png."""
        suffix = Path(self.source).suffix.lower()
        return suffix if suffix in (".jpg", ".jpeg") else ".png"

    def write(self, stem: Path) -> Path:
        """Writes STEM.json and the annotated STEM.jpg or .png; returns the path of the former."""
        people: list[dict[str, Any]] = [p.to_json(track) for track, p in enumerate(self.people)]
        for index, assessment in self.feedback.items():
            people[index]["feedback"] = assessment
        result = {
            "source": images.printable(self.source),
            "width": self.image.shape[1],
            "height": self.image.shape[0],
            "fps": None,
            "classes": self.classes,
            "frames": [{"index": 0, "time": 0.0, "people": people}],
        }
        images.write(files.with_suffix(stem, self.suffix), self.draw())
        path = files.with_suffix(stem, ".json")
        path.write_text(json.dumps(result) + "\n")
        return path

    def _repr_html_(self) -> str:
        count = len(self.people)
        caption = "1 person" if count == 1 else f"{count} people"
        rows = [
            [str(i), person.motion, f"{self._confidence(person):.2f}"]
            for i, person in enumerate(self.people)
        ]
        alt = "; ".join(f"person {i}: {motion} {confidence}" for i, motion, confidence in rows)
        drawn = images.encode_jpeg(images.shrink(self.draw(), _SIDE), 85)
        blocks: list[Block] = [Figure(caption, alt or caption, drawn)]
        if rows:
            blocks.append(Table("From left to right.", ["person", "motion", "confidence"], rows))
        return to_fragment([Section("", blocks)])


@dataclass(frozen=True, repr=False, eq=False)
class VideoResult:
    """The dancers in a video or in a clip of skeletons, and their motions.

    Attributes:
        clip: source, size, fps and classes.
        frames: the people of each frame and their motions; without images.
        segments: the motions over time, sorted by track and time.
        problem: what could not be read; "" if nothing is wrong.
        page: the content of the HTML page.
        settings: select the frames.
    """

    clip: Clip
    frames: list[MotionFrame]
    segments: list[Segment]
    problem: str
    page: VideoPage
    settings: video.Settings

    def __repr__(self) -> str:
        dancers = counted(len(self.tracks), "dancer")
        return f"VideoResult({self.clip.source!r}: {dancers}, {self.end:.1f} s)"

    @property
    def end(self) -> float:
        """The end of the last frame in seconds."""
        return self.frames[-1].time + self.clip.period

    @property
    def tracks(self) -> list[dict[str, Any]]:
        """Start, end, segments and seconds of each motion for each dancer."""
        return timeline.summary(self.segments)

    def draw(self, time: float) -> np.ndarray:
        """Draws the people into the frame at a time in seconds: uint8 RGB [H, W, 3].

        Raises:
            UserError: there is no video file, or it cannot be read again.
        """
        if not self._is_file:
            raise UserError(f"{self.clip.source}: is not a video file, so it cannot be drawn")
        index = max(bisect_right([frame.time for frame in self.frames], time) - 1, 0)
        frame = self.frames[index]
        image = videos.frame_at(Path(self.clip.source), frame.time)
        return replace(frame, image=image).drawn

    def to_pandas(self, table: str = "segments") -> "pandas.DataFrame":
        """Returns a table.

        Args:
            table: "segments": a row per motion of a dancer, with start and end in seconds;
                "joints": a row per frame, person and joint, see `formats.JOINT_COLUMNS`.
        """
        import pandas

        if _checked(table, "segments", "joints") == "joints":
            rows = [row for frame in self.frames for row in joint_rows(frame)]
            return pandas.DataFrame(rows, columns=list(JOINT_COLUMNS))
        columns = ["track", "start", "end", "motion", "confidence"]
        segments = [[getattr(segment, name) for name in columns] for segment in self.segments]
        return pandas.DataFrame(segments, columns=columns)

    def save(
        self, folder: str | Path, formats: Sequence[str] = (), *, annotate: bool = True
    ) -> Path:
        """Writes the results as launch/recognize.py does; reads the frames of a video again.

        Args:
            folder: is created if necessary.
            formats: further formats, as for --format.
            annotate: whether to write the annotated video.

        Returns:
            The path of the result file in JSON.

        Raises:
            UserError: a format does not exist, the video cannot be read again, the folder is that
                of the video, or a file cannot be written.
        """
        settings = replace(self.settings, formats=select(formats), annotate=annotate)
        stem = _stem(folder, self.clip.source)
        video.write(self._with_images(), self.clip, stem, settings)
        return files.with_suffix(stem, ".json")

    @property
    def _is_file(self) -> bool:
        return self.clip.size is not None and not videos.is_camera(self.clip.source)

    def _with_images(self) -> Iterator[MotionFrame]:
        if not self._is_file:
            yield from self.frames
            return
        s = self.settings
        source = videos.Video(self.clip.source, every=s.every, start=s.start, end=s.end)
        with closing(source):
            decoded = iter(source)
            for frame in self.frames:
                image = next((d.image for d in decoded if d.index == frame.index), None)
                yield replace(frame, image=image)

    def _repr_html_(self) -> str:
        return to_fragment(self.page.sections(self.segments, self.end))


class Collector(Writer):
    """Collects frames without images, and the page of a video, for `VideoResult`."""

    def __init__(self) -> None:
        self.frames: list[MotionFrame] = []
        self.segments: list[Segment] = []
        self._page: Page | None = None

    def add(self, frame: MotionFrame) -> None:
        if self._page is None:
            self._page = Page(Path("page"), frame.clip)
        self._page.add(frame)
        self.frames.append(replace(frame, image=None))

    def finish(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)

    def result(self, problem: str, settings: video.Settings) -> VideoResult:
        """Returns the result; `video.write` has refused a video without frames."""
        assert self._page is not None
        return VideoResult(
            self.frames[0].clip, self.frames, self.segments, problem, self._page.page, settings
        )


def _checked(table: str, *known: str) -> str:
    if table not in known:
        raise ValueError(f"{table!r}: no such table; known: {', '.join(known)}")
    return table


def _stem(folder: str | Path, source: str) -> Path:
    """Path of the results of an input in a folder, which is created.

    Raises:
        UserError: the folder is that of the input, which the annotated file could replace, or an
            address in a store.
    """
    if objects.is_remote(folder):
        raise UserError(f"{folder}: save writes to local folders only; name one, and copy it")
    folder, path = Path(folder), Path(source)
    if path.is_file() and folder.resolve() in (path.parent.resolve(), path.resolve().parent):
        raise UserError(f"{folder}: is the folder of {path.name}; choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (files.named(path).stem or _NO_FILE)
