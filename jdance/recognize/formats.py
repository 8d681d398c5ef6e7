"""Results in the formats of other tools: key points, motions over time, and recordings."""

import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jdance import files, skeleton
from jdance.data import images, openpose_json
from jdance.errors import UserError
from jdance.pose import evaluation
from jdance.progress import rounded
from jdance.recognize import annotations
from jdance.recognize.inputs import Job, listed_kind
from jdance.recognize.recognizer import class_index
from jdance.recognize.stream import TrackedPerson
from jdance.recognize.timeline import Segment
from jdance.recognize.writers import Clip, MotionFrame, Writer
from jdance.report import draw
from jdance.train.calibration import UNKNOWN

JOINT_COLUMNS = ("frame", "time", "track", "joint", "x", "y", "confidence")
_JPEG_QUALITY = 80  # of the frames in recordings
_CHUNK_BYTES = 2**23
_CHUNK_FRAMES = 100
_FLUSH_SECONDS = 60.0


def joint_rows(frame: MotionFrame) -> Iterator[tuple[Any, ...]]:
    """Yields the present joints of a frame as `JOINT_COLUMNS`, after the image's file name if any.

    Coordinates are in pixels, times in seconds.
    """
    name = (images.printable(frame.clip.images[frame.index]),) if frame.clip.images else ()
    for person in frame.people:
        values = rounded(person.keypoints, 3).tolist()
        for joint in np.flatnonzero(skeleton.is_present(person.keypoints)).tolist():
            when = round(frame.time, 4)
            yield (*name, frame.index, when, person.track, skeleton.NAMES[joint], *values[joint])


class Coco(Writer):
    """COCO's results of key-point detection: one JSON list with an entry per person.

    The score is the mean confidence of the joints that are present.

    The id of an image is the number that is its file name, as in COCO's own data sets, if all names
    are numbers; else its position among the input's images, failed ones included, from 1. The id of
    a video frame is its index.
    """

    suffix = "_coco.json"

    def __init__(self, stem: Path, clip: Clip):
        super().__init__(stem, clip)
        stems = [Path(name).stem for name in clip.images]
        self._ids = list(range(1, len(stems) + 1))
        if all(re.fullmatch("[0-9]+", stem) for stem in stems) and len({*map(int, stems)}) == len(
            stems
        ):
            self._ids = [int(stem) for stem in stems]
        self._output, self._separator = files.PartialFile(self.path), "["

    def add(self, frame: MotionFrame) -> None:
        names = self.clip.images
        for person in frame.people:
            confidence = skeleton.to_coco17(person.keypoints)[:, 2]
            entry = evaluation.coco_result(
                self._ids[frame.index] if names else frame.index,
                rounded(person.keypoints, 3),
                round(float(confidence.sum() / max((confidence > 0).sum(), 1)), 4),
            )
            entry["bbox"] = rounded(person.box, 2).tolist()
            if names:
                entry["file_name"] = images.printable(names[frame.index])
            self._output.file.write(f"{self._separator}\n{json.dumps(entry)}")
            self._separator = ","

    def finish(self, segments: Sequence[Segment]) -> None:
        self._output.file.write("[]\n" if self._separator == "[" else "\n]\n")
        self._output.commit()

    def close(self) -> None:
        self._output.close()


def openpose_text(frame: MotionFrame) -> str:
    """Returns the people of a frame as OpenPose's JSON; `person_id` is the track."""
    people = np.array([p.keypoints for p in frame.people]).reshape(-1, skeleton.NUM_JOINTS, 3)
    return openpose_json.to_text(people, tracks=[person.track for person in frame.people])


class OpenPose(Writer):
    """OpenPose's JSON: a folder with a file per frame, or a file per image.

    In `data.openpose_json`'s layout, so that recognition and preparation read them as --keypoints.
    """

    suffix = "_keypoints"

    def __init__(self, stem: Path, clip: Clip):
        super().__init__(stem, clip)
        self._video = Path(clip.source).name
        self._images = files.distinct_names([Path(name) for name in clip.images])
        self._partial = files.with_suffix(self.path, ".partial")
        if self._images:
            return
        own = re.compile(re.escape(Path(self._video).stem) + r"_[0-9]{12}_keypoints\.json")
        final = (clip.folder or self.path.parent) / self.path.name
        if final.exists() and not (
            final.is_dir() and all(own.fullmatch(p.name) for p in final.iterdir())
        ):
            raise UserError(f"{final}: holds other files; move it, or choose another --output")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir()

    def add(self, frame: MotionFrame) -> None:
        if len(self._images) == 1:  # whose result has this stem
            path = files.with_suffix(self.path, ".json")
        elif self._images:
            path = openpose_json.path_for(self._images[frame.index], self.path.parent)
        else:
            path = openpose_json.path_for_frame(self._video, frame.index, self._partial)
        path.write_text(openpose_text(frame))

    def finish(self, segments: Sequence[Segment]) -> None:
        if self._images:
            return
        older = files.with_suffix(self.path, ".old")
        shutil.rmtree(older, ignore_errors=True)
        if self.path.exists():
            os.replace(self.path, older)
        os.replace(self._partial, self.path)
        shutil.rmtree(older, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


class JointCsv(Writer):
    """The trajectories of all joints: a row per frame, person and present joint."""

    suffix = "_joints.csv"

    def __init__(self, stem: Path, clip: Clip):
        super().__init__(stem, clip)
        self._output = files.PartialFile(self.path)
        self._rows = csv.writer(self._output.file, lineterminator="\n")
        self._rows.writerow([*(["image"] if clip.images else []), *JOINT_COLUMNS])

    def add(self, frame: MotionFrame) -> None:
        self._rows.writerows(joint_rows(frame))

    def finish(self, segments: Sequence[Segment]) -> None:
        self._output.commit()

    def close(self) -> None:
        self._output.close()


class _Annotation(Writer):
    """The motions over time as a text file; `render` makes it."""

    needs_time = True

    def __init__(self, stem: Path, clip: Clip):
        super().__init__(stem, clip)
        self._end = 0.0

    def add(self, frame: MotionFrame) -> None:
        self._end = frame.time + self.clip.period

    def finish(self, segments: Sequence[Segment]) -> None:
        files.atomic_write(self.path, self.render(segments, self._end))

    def render(self, segments: Sequence[Segment], end: float) -> str:
        raise NotImplementedError


class Eaf(_Annotation):
    """An annotation document of ELAN with a tier per dancer."""

    suffix = ".eaf"

    def render(self, segments: Sequence[Segment], end: float) -> str:
        folder = self.clip.folder or self.path.parent
        return annotations.eaf(segments, self.clip.classes, self.clip.video, folder)


class TextGrid(_Annotation):
    """A TextGrid of Praat with an interval tier per dancer."""

    suffix = ".TextGrid"

    def render(self, segments: Sequence[Segment], end: float) -> str:
        return annotations.textgrid(segments, end)


class Srt(_Annotation):
    """Subtitles in SubRip's format with a line per dancer."""

    suffix = ".srt"

    def render(self, segments: Sequence[Segment], end: float) -> str:
        return annotations.srt(segments)


class Vtt(_Annotation):
    """Subtitles in the format WebVTT with a line per dancer."""

    suffix = ".vtt"

    def render(self, segments: Sequence[Segment], end: float) -> str:
        return annotations.vtt(segments)


class Rerun(Writer):
    """A recording for the viewer Rerun: frames, skeletons, motions and probabilities over time."""

    suffix = ".rrd"

    def __init__(self, stem: Path, clip: Clip):
        super().__init__(stem, clip)
        import rerun
        from rerun import blueprint

        self._rerun, self._partial = rerun, files.with_suffix(self.path, ".partial")
        self._target = files.Utf8Path(self._partial)
        self._shown: set[int] = set()  # the tracks in the last frame
        self._known: set[int] = set()
        self._count = 0
        views: list[Any] = [blueprint.Spatial2DView(origin="video", name="Frames")]
        if not clip.images:
            views += [
                blueprint.StateTimelineView(origin="motions", name="Motions"),
                blueprint.TimeSeriesView(
                    origin="probabilities", name="Probabilities",
                    plot_legend=blueprint.PlotLegend(visible=False),
                ),
            ]  # fmt: skip
        timeline = "frame" if clip.images else "time"
        layout = blueprint.Blueprint(
            blueprint.Vertical(*views, row_shares=[5, 2, 2][: len(views)]),
            blueprint.TimePanel(timeline=timeline, state="collapsed"),
            collapse_panels=True,
        )
        # Rerun keeps a list of all chunks in memory, so they are few and large.
        batches = rerun.ChunkBatcherConfig(flush_tick=3600.0, flush_num_bytes=_CHUNK_BYTES)
        self._recording = rerun.RecordingStream("jdance", batcher_config=batches)
        try:
            self._recording.save(self._target.path, layout)
        except RuntimeError as error:
            raise UserError(f"{self.path}: cannot be written ({error})") from error
        # With UNKNOWN, which some networks have as a class.
        motions = dict.fromkeys([*clip.classes, UNKNOWN])
        self._colors = {m: draw.motion_color(class_index(m, clip.classes)) for m in motions}
        joints = [rerun.AnnotationInfo(i, name) for i, name in enumerate(skeleton.NAMES)]
        person = rerun.ClassDescription(info=0, keypoint_annotations=joints)
        context = rerun.AnnotationContext(person)
        self._recording.log("video", context, static=True)

    def _flush(self) -> None:
        """Waits until everything is written, which bounds the memory."""
        try:
            self._recording.flush(timeout_sec=_FLUSH_SECONDS)
        except RuntimeError as error:
            raise UserError(f"{self.path}: cannot be written ({error})") from error

    def _check_space(self) -> None:
        """Raises OSError before the disk is full, as Rerun waits forever then."""
        if shutil.disk_usage(self.path.parent).free < 2 * _CHUNK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def add(self, frame: MotionFrame) -> None:
        rerun, recording = self._rerun, self._recording
        self._check_space()
        self._count += 1
        if not self._count % _CHUNK_FRAMES:
            self._flush()
        recording.set_time("frame", sequence=frame.index)
        if not self.clip.images:
            recording.set_time("time", duration=frame.time)
        if frame.image is not None:
            jpeg = images.encode_jpeg(frame.image, _JPEG_QUALITY)
            image = rerun.EncodedImage(contents=jpeg, media_type="image/jpeg")
            recording.log("video/image", image)
        for person, label, color in zip(
            frame.people, frame.labels, frame.color_indices, strict=True
        ):
            self._add_person(person, label, draw.motion_color(color))
        tracks = {person.track for person in frame.people}
        for track in self._shown - tracks:
            for entity in ("video", "probabilities"):
                recording.log(f"{entity}/dancer_{track}", rerun.Clear(recursive=False))
        self._shown = tracks

    def _add_person(self, person: TrackedPerson, label: str, color: tuple[int, int, int]) -> None:
        rerun, name = self._rerun, f"dancer_{person.track}"
        xy, present = person.keypoints[:, :2], skeleton.is_present(person.keypoints)
        limbs = skeleton.LIMBS[: skeleton.NUM_TREE_LIMBS]
        x, y, width, height = person.box
        self._recording.log(
            f"video/{name}",
            rerun.Boxes2D(mins=[(x, y)], sizes=[(width, height)], labels=[label], colors=[color]),
            rerun.LineStrips2D(xy[limbs[present[limbs].all(-1)]], colors=[color]),
            rerun.Points2D(
                xy[present], colors=[color], keypoint_ids=np.flatnonzero(present),
                class_ids=[0], show_labels=False,
            ),
        )  # fmt: skip
        if self.clip.images:
            return
        if person.track not in self._known:
            self._known.add(person.track)
            names = [f"{person.track}: {motion}" for motion in self.clip.classes]
            colors = [self._colors[motion] for motion in self.clip.classes]
            lines = rerun.SeriesLines(names=names, colors=colors)
            self._recording.log(f"probabilities/{name}", lines, static=True)
        self._recording.log(f"probabilities/{name}", rerun.Scalars(person.probabilities))

    def finish(self, segments: Sequence[Segment]) -> None:
        rerun, recording = self._rerun, self._recording
        states = rerun.StateConfiguration(
            values=list(self._colors), colors=list(self._colors.values())
        )
        recording.reset_time()
        for track, spans in annotations.spans(segments).items():
            entity = f"motions/dancer_{track}"
            recording.log(entity, states, static=True)
            for span, after in zip(spans, [*spans[1:], None], strict=True):
                recording.set_time("time", duration=span.start / 1000)
                recording.log(entity, rerun.StateChange(state=span.motion))
                if after is None or after.start > span.end:
                    recording.set_time("time", duration=span.end / 1000)
                    recording.log(entity, rerun.StateChange(state=""))
        self._flush()
        recording.disconnect()
        self._target.close()
        os.replace(self._partial, self.path)

    def close(self) -> None:
        with suppress(UserError):  # disconnecting may wait forever if flushing fails
            self._flush()
            self._recording.disconnect()
        self._target.close()
        self._partial.unlink(missing_ok=True)


FORMATS: dict[str, type[Writer]] = {
    "coco": Coco,
    "openpose": OpenPose,
    "csv": JointCsv,
    "eaf": Eaf,
    "textgrid": TextGrid,
    "srt": Srt,
    "vtt": Vtt,
    "rerun": Rerun,
}


class Several(Writer):
    """Writes several formats; nothing if there is no frame.

    Args:
        names: keys of `FORMATS`.
        stem, clip: see `Writer`.
    """

    def __init__(self, names: Iterable[str], stem: Path, clip: Clip):
        self._empty = True
        with ExitStack() as stack:
            self._writers = [
                stack.enter_context(closing(FORMATS[name](stem, clip))) for name in names
            ]
            self._stack = stack.pop_all()

    def add(self, frame: MotionFrame) -> None:
        self._empty = False
        for writer in self._writers:
            writer.add(frame)

    def finish(self, segments: Sequence[Segment]) -> None:
        for writer in self._writers if not self._empty else ():
            writer.finish(segments)

    def close(self) -> None:
        self._stack.close()


def select(names: Iterable[str], *, videos: bool = True) -> list[str]:
    """Checks names of formats; removes duplicates.

    Args:
        names: keys of `FORMATS`.
        videos: whether there is a video; without, formats of motions over time are refused.

    Raises:
        UserError: an unknown name, a missing package, or a format that images do not have.
    """
    names = list(dict.fromkeys(names))
    if unknown := [name for name in names if name not in FORMATS]:
        raise UserError(
            f"--format={','.join(unknown)}: no such format; known: {', '.join(FORMATS)}"
        )
    if not videos and (timed := [name for name in names if FORMATS[name].needs_time]):
        raise UserError(
            f"--format={','.join(timed)}: holds the motions over time of videos, and there is none "
            f"in the input; images have {', '.join(of_images(FORMATS))}"
        )
    if "rerun" in names and not find_spec("rerun"):
        raise UserError("--format=rerun: needs rerun-sdk; pip install rerun-sdk")
    return names


def offered(*, videos: bool) -> list[str]:
    """Returns the formats that videos, or images, have, and whose packages are installed."""
    names = [name for name in FORMATS if name != "rerun" or find_spec("rerun")]
    return names if videos else of_images(names)


def of_images(names: Iterable[str]) -> list[str]:
    """Returns the formats that images have, too."""
    return [name for name in names if not FORMATS[name].needs_time]


def of_several_images(names: Iterable[str]) -> list[str]:
    """Returns the formats that put several images into one file."""
    return [name for name in of_images(names) if FORMATS[name] is not OpenPose]


def check_files(jobs: Sequence[Job], names: Sequence[str], image_names: Sequence[str]) -> None:
    """Checks that no format's file of an input has the name of another input's result.

    Args:
        jobs: the inputs.
        names: formats of videos.
        image_names: those of them with a file for each image.

    Raises:
        UserError: two inputs are called x.mp4 and x_joints.mp4, and x_joints.csv is both the
            trajectories of one and the timeline of the other.
    """
    by_name = {job.name.casefold(): job for job in jobs}
    for name in names:
        ending, _ = os.path.splitext(FORMATS[name].suffix)
        for job in jobs if ending.startswith("_") else ():
            other = by_name.get(f"{job.name}{ending}".casefold())
            if other is None:
                continue
            is_image = listed_kind(job) == "image"
            is_written = name in image_names if is_image else name != "openpose"  # else a folder
            # Images have no timeline.
            if is_written and not (name == "csv" and listed_kind(other) == "image"):
                raise UserError(
                    f"{other.label}: its results would replace --format={name} of {job.label}; "
                    "rename one of them, or list both in a CSV file with the column output"
                )
